"""The long tasks, made of many of the short ones: clear the table, sort by colour, everything red in the bin."""

from __future__ import annotations

import numpy as np

from pi_policy_node.sim.scene import CONTAINERS, SHAPES, SceneError, distinct
from pi_policy_node.sim.tasks.families import furnish, name, same_arm, scene
from pi_policy_node.sim.tasks.goals import Inside
from pi_policy_node.sim.tasks.language import HOLDOUT, say
from pi_policy_node.sim.tasks.registry import Draw, Plan, family
from pi_policy_node.sim.world import COLOURS

MIDDLE = np.array([[0.48, -0.06], [0.54, 0.06]])  # where both arms reach


def _things(draw: Draw, count: int, container: str, colours=tuple(COLOURS)) -> list[tuple[str, str]]:
    """Things that may go to that sort of container in training."""
    chosen = [(k, c) for k, c in distinct(draw.rng, 24, SHAPES) if c in colours and (c, k, container) not in HOLDOUT]
    return chosen[:count]


def _around(draw: Draw, containers, things):
    """Items with the containers in the middle, and every thing within one arm's reach together with its container."""
    placed = furnish(draw, containers, area=MIDDLE + np.array([[-0.06, -0.06], [0.06, 0.06]]) if len(containers) == 1
                     else np.array([[0.46, -0.22], [0.58, 0.22]]))
    return placed, furnish(draw, things, taken=placed)


@family("clear", "put everything on the table in the bin", seconds=150.0, pairs=False)
def _clear(draw: Draw) -> Plan:
    bin_colour = draw.one(list(COLOURS))
    things = _things(draw, int(draw.rng.integers(3, 6)), "bin")
    placed, items = _around(draw, [("bin", bin_colour)], things)
    if not all(same_arm([placed[0].position[:2], item.position[:2]]) for item in items):
        raise SceneError("no arm reaches both")
    to = name("bin", bin_colour)
    goals = tuple(Inside(name(*thing), to) for thing in _in_order(things, items))
    return Plan(scene(draw, [*placed, *items]), goals, say(draw.rng, "clear", draw.split, container=to))


@family("gather", "put everything of one colour in a container", seconds=120.0, pairs=False)
def _gather(draw: Draw) -> Plan:
    colour, hue = (str(c) for c in draw.rng.permutation(list(COLOURS))[:2])
    kind = draw.one(("bin", "tray"))
    wanted = _things(draw, int(draw.rng.integers(2, 4)), kind, (colour,))
    extra = [t for t in _things(draw, 12, kind) if t[1] != colour and t not in wanted][:int(draw.rng.integers(1, 3))]
    placed, items = _around(draw, [(kind, hue)], [*wanted, *extra])
    mine = items[:len(wanted)]
    if len(wanted) < 2 or not all(same_arm([placed[0].position[:2], item.position[:2]]) for item in mine):
        raise SceneError("no arm reaches both")
    to = name(kind, hue)
    goals = tuple(Inside(name(*thing), to) for thing in _in_order(wanted, mine))
    words = say(draw.rng, "gather", draw.split, container=to, colour=colour)
    return Plan(scene(draw, [*placed, *items]), goals, words)


@family("sort", "put things into the containers of their own colour", seconds=150.0, pairs=False)
def _sort(draw: Draw) -> Plan:
    hues = [str(c) for c in draw.rng.permutation(list(COLOURS))[:2]]
    kinds = [str(k) for k in draw.rng.choice([c for c in CONTAINERS if c in ("bin", "tray")], 2)]
    things = [t for hue, kind in zip(hues, kinds)
              for t in _things(draw, int(draw.rng.integers(1, 3)), kind, (hue,))]
    placed, items = _around(draw, list(zip(kinds, hues)), things)
    to = {hue: i for i, hue in enumerate(hues)}
    for (_, hue), item in zip(things, items):
        if not same_arm([placed[to[hue]].position[:2], item.position[:2]]):
            raise SceneError("no arm reaches both")
    goals = tuple(Inside(name(*thing), name(kinds[to[thing[1]]], thing[1])) for thing in _in_order(things, items))
    if len({goal.container for goal in goals}) < 2:
        raise SceneError("one of the colours has nothing")
    return Plan(scene(draw, [*placed, *items]), goals, say(draw.rng, "sort", draw.split))


def _in_order(things, items) -> list[tuple[str, str]]:
    """From the robot's left to its right: an order that can be seen in the pictures."""
    return [thing for _, thing in sorted(zip([-item.position[1] for item in items], things))]
