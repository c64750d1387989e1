"""The families of short tasks: how a scene for each is drawn, what it is asked for in, when it is done."""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, Sequence

import numpy as np

from pi_policy_node.sim.scene import CONTAINERS, SHAPES, Item, Scene, SceneError, distinct, random_look, scatter
from pi_policy_node.sim.tasks.goals import At, Beside, DrawerAt, Inside, OnSurface, OnTop, is_beside
from pi_policy_node.sim.tasks.language import HOLDOUT, HOLDOUT_THINGS, say
from pi_policy_node.sim.tasks.registry import Draw, Plan, family
from pi_policy_node.sim.world import COLOURS, KINDS, PLACES

ARMS = {"left": 1, "right": -1}
SHOULDER = np.array([0.13, 0.20])  # of the left arm, from the base
REACHED = 0.545  # m from the shoulder, seen from above, at working height
RESTING = np.array([0.36, 0.34])  # of the left hand at home, from the base: it hangs 16 cm above the table
STACKED = ("block", "cylinder", "prism")  # what stays on top of another
UNDER = ("block", "brick", "prism")


def same_arm(points: Sequence[np.ndarray]) -> bool:
    """Whether one arm reaches all of these [x, y], of the base's frame."""
    return any(all(np.hypot(x - SHOULDER[0], y - s * SHOULDER[1]) < REACHED for x, y in points) for s in ARMS.values())


def furnish(draw: Draw, things: Sequence[tuple[str, str]], *, area: np.ndarray | None = None,
            taken: Sequence[Item] = ()) -> tuple[Item, ...]:
    """(kind, colour) put down at random, each with a friction of its own."""
    items = scatter(draw.rng, things, taken=taken, **({} if area is None else {"area": area}))
    return tuple(replace(item, friction=float(draw.rng.uniform(0.8, 1.25))) for item in items)


def scene(draw: Draw, items: Sequence[Item], *, drawer: float = 0.0, base: str = "table") -> Scene:
    return Scene(items=tuple(items), drawer=drawer, base=PLACES[base], look=random_look(draw.rng))


def container_of(draw: Draw, colour: str, kind: str) -> str:
    """A sort of container that this thing may go to in this split."""
    held_out = [c for c in CONTAINERS if (colour, kind, c) in HOLDOUT]
    return draw.one(held_out if draw.split == "holdout_pairs" else [c for c in CONTAINERS if c not in held_out])


def thing_of(draw: Draw, kinds: Sequence[str], allowed: Callable[[str, str], bool]) -> tuple[str, str]:
    """(kind, colour) that `allowed(colour, kind)`."""
    return draw.one([(k, c) for k in kinds for c in COLOURS if allowed(c, k)])


def single_thing(draw: Draw, kinds: Sequence[str] = SHAPES) -> tuple[str, str]:
    wanted = draw.split == "holdout_pairs"
    return thing_of(draw, kinds, lambda colour, kind: ((colour, kind) in HOLDOUT_THINGS) == wanted)


def others(draw: Draw, count: int, taken: Sequence[tuple[str, str]], kinds: Sequence[str] = SHAPES):
    """Distractors, none like those that are taken, within what the pool has."""
    room = {kind: KINDS[kind].count - sum(t[0] == kind for t in taken) for kind in kinds}
    chosen: list[tuple[str, str]] = []
    for kind, colour in distinct(draw.rng, 12, kinds):
        if len(chosen) < count and room[kind] > 0 and (kind, colour) not in taken:
            room[kind] -= 1
            chosen.append((kind, colour))
    return chosen


def name(kind: str, colour: str) -> str:
    return f"{colour}_{kind}"


@family("put", "put an object in or on a container", seconds=40.0)
def _put(draw: Draw) -> Plan:
    if draw.split == "holdout_pairs":
        colour, kind, container = draw.one(sorted(HOLDOUT))
    else:
        kind, colour = thing_of(draw, SHAPES, lambda *_: True)
        container = container_of(draw, colour, kind)
    hues = [str(c) for c in draw.rng.permutation(list(COLOURS))]
    containers = [(container, hues[0])]
    if draw.rng.random() < 0.6:
        containers.append((draw.one(CONTAINERS), hues[1]))
    extra = others(draw, int(draw.rng.integers(1, 5)), [(kind, colour)])
    items = furnish(draw, [*containers, (kind, colour), *extra])
    to, thing = items[0], items[len(containers)]
    if not same_arm([to.position[:2], thing.position[:2]]):
        raise SceneError("no arm reaches both")
    goal = Inside(name(kind, colour), name(*containers[0]))
    words = say(draw.rng, "put", draw.split, thing=goal.thing, container=goal.container)
    return Plan(scene(draw, items), (goal,), words, goal.thing)


@family("stack", "put one object on top of another", seconds=40.0)
def _stack(draw: Draw) -> Plan:
    top = single_thing(draw, STACKED)
    under = draw.one([u for u in others(draw, 8, [top], UNDER)])
    items = furnish(draw, [top, under, *others(draw, int(draw.rng.integers(0, 4)), [top, under])])
    if not same_arm([item.position[:2] for item in items[:2]]):
        raise SceneError("no arm reaches both")
    x, y, _ = items[1].position
    if np.hypot(x - RESTING[0], abs(y) - RESTING[1]) < 0.06:
        raise SceneError("what is stacked there would stand at a hand that has come to rest")
    goal = OnTop(name(*top), name(*under))
    words = say(draw.rng, "stack", draw.split, thing=goal.thing, other=goal.other)
    return Plan(scene(draw, items), (goal,), words, goal.thing)


@family("move", "put an object to the left or right of, or next to another", seconds=40.0)
def _move(draw: Draw) -> Plan:
    thing = single_thing(draw)
    other = draw.one(others(draw, 8, [thing], (*SHAPES,)))
    side = draw.one(("left", "right", "next"))
    items = furnish(draw, [thing, other, *others(draw, int(draw.rng.integers(0, 4)), [thing, other])])
    at, to = (np.array(item.position[:2]) for item in items[:2])
    apart = KINDS[thing[0]].radius + KINDS[other[0]].radius + 0.035
    for sign in {"left": (1,), "right": (-1,), "next": (1, -1)}[side]:
        spot = to + [0, sign * apart]
        room = min((np.hypot(*(spot - i.position[:2])) - KINDS[i.kind].radius for i in items[2:]), default=1.0)
        if not same_arm([at, spot]) or room < KINDS[thing[0]].radius + 0.03 or abs(spot[1]) > 0.40:
            raise SceneError("no room there")
        if spot[0] > 0.45 and spot[1] > 0.28:
            raise SceneError("too near the drawer")
    if is_beside(at - to, apart - 0.035, side, slack=0.03):
        raise SceneError("it is there already, or nearly")
    goal = Beside(name(*thing), name(*other), side)
    words = say(draw.rng, f"move {side}", draw.split, thing=goal.thing, other=goal.other)
    return Plan(scene(draw, items), (goal,), words, goal.thing)


@family("drawer", "open or close the drawer", seconds=30.0, pairs=False)
def _drawer(draw: Draw) -> Plan:
    opening = draw.one((1.0, 0.0))
    now = float(draw.rng.uniform(0.0, 0.3) if opening else draw.rng.uniform(0.6, 1.0))
    items = furnish(draw, others(draw, int(draw.rng.integers(0, 5)), []),
                    area=np.array([[0.42, -0.40], [0.64, 0.26]]))
    words = say(draw.rng, "drawer open" if opening else "drawer close", draw.split)
    return Plan(scene(draw, items, drawer=now), (DrawerAt(opening),), words)


@family("drive", "drive to a place", seconds=60.0, pairs=False)
def _drive(draw: Draw) -> Plan:
    source, place = (str(p) for p in draw.rng.permutation(list(PLACES))[:2])
    items = furnish(draw, others(draw, int(draw.rng.integers(0, 5)), []))
    words = say(draw.rng, "drive", draw.split, place=place)
    start = np.array(PLACES[source]) + np.r_[draw.rng.normal(0, 0.015, 2), draw.rng.normal(0, 0.02)]
    return Plan(replace(scene(draw, items), base=tuple(start.tolist())), (At(place),), words)


@family("bring", "pick an object up, drive, and put it down elsewhere", seconds=90.0)
def _bring(draw: Draw) -> Plan:
    thing = single_thing(draw)
    source, place = draw.one((("table", "counter"), ("table", "counter"), ("counter", "table")))
    here = [thing, *others(draw, int(draw.rng.integers(0, 4)), [thing])]
    there = others(draw, int(draw.rng.integers(0, 3)), here)
    areas = {"table": np.array([[0.42, -0.36], [0.60, 0.30]]), "counter": np.array([[-0.32, -2.34], [0.32, -2.16]])}
    items = furnish(draw, here, area=areas[source])
    items += furnish(draw, there, area=areas[place], taken=items)
    goal = OnSurface(name(*thing), place)
    words = say(draw.rng, "bring", draw.split, thing=goal.thing, source=source, place=place)
    return Plan(scene(draw, items, base=source), (goal,), words, goal.thing)
