"""What stands where: scenes are plain data, drawn from a seed by samplers that are registered under a name.

A sampler is a function of a `numpy.random.Generator`; it returns a Scene and never touches MuJoCo:

    @sampler("two_blocks")
    def _two_blocks(rng): return Scene(items=scatter(rng, [("block", "red"), ("block", "blue")]))
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Callable, Sequence

import numpy as np

from pi_policy_node.sim.world import COLOURS, KINDS, TABLE

REACH = np.array([[0.42, -0.40], [0.64, 0.40]])  # where a top-down grasp reaches on the table: corners x, y
DRAWER_KEEP_OUT = (0.50, 0.34)  # nothing beyond this x and y where the drawer's unit stands and opens
GAP = 0.02  # m between footprints
SHAPES = tuple(kind for kind, k in KINDS.items() if not k.container)
CONTAINERS = tuple(kind for kind, k in KINDS.items() if k.container)


class SceneError(ValueError):
    """No such scene, or one that cannot be set up; the message says what would be right."""


@dataclass(frozen=True)
class Item:
    """One thing of the pool, put down somewhere."""

    kind: str  # of world.KINDS
    colour: str  # of world.COLOURS
    position: tuple[float, float, float]  # m, of what it stands on under its middle; world frame
    yaw: float = 0.0  # rad
    friction: float = 1.0  # times the usual

    @property
    def words(self) -> str:
        return f"{self.colour} {self.kind}"


@dataclass(frozen=True)
class Look:
    """How the cameras see it. Neutral values by default."""

    lamp: float = 1.0  # times the usual brightness
    window: float = 1.0
    ambient: float = 1.0
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    lamp_shift: tuple[float, float, float] = (0.0, 0.0, 0.0)  # m
    table: tuple[float, float, float] = (1.0, 1.0, 1.0)  # times the wood's colour
    camera_shift: float = 0.0  # m, standard deviation of each camera's place
    camera_turn: float = 0.0  # rad, of its direction


@dataclass(frozen=True)
class Scene:
    name: str = ""
    seed: int = 0
    items: tuple[Item, ...] = ()
    drawer: float = 0.0  # 0 closed .. 1 open
    base: tuple[float, float, float] = (0.0, 0.0, 0.0)  # where the robot starts: x, y, yaw
    look: Look = field(default_factory=Look)

    def names(self) -> tuple[str, ...]:
        """A name for each item: red_block, or red_block_2 for the second of the same."""
        seen: Counter[str] = Counter()
        names = []
        for item in self.items:
            name = item.words.replace(" ", "_")
            seen[name] += 1
            names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
        return tuple(names)


Sampler = Callable[[np.random.Generator], Scene]
SCENES: dict[str, Sampler] = {}
DEFAULT = "table"


def sampler(name: str) -> Callable[[Sampler], Sampler]:
    """Registers a sampler."""

    def register(function: Sampler) -> Sampler:
        SCENES[name] = function
        return function

    return register


def sample(name: str, seed: int) -> Scene:
    """The scene of that name (the default one when empty) for a seed; the same every time.

    "put" or "put/holdout_words": that of a task of the family, in that split.
    """
    name = name or DEFAULT
    if name not in SCENES:
        from pi_policy_node.sim import tasks  # made of scenes itself

        family, _, split = name.partition("/")
        if family in tasks.FAMILIES and split in ("", *tasks.SPLITS):
            return replace(tasks.draw(family, seed, split or "train").scene, name=name)
        raise SceneError(f"no scene is called {name!r}; there are {', '.join(sorted(SCENES))} "
                         f"and those of the tasks {', '.join(tasks.FAMILIES)}")
    rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
    return replace(SCENES[name](rng), name=name, seed=seed)


def scatter(rng: np.random.Generator, things: Sequence[tuple[str, str]], *, area: np.ndarray = REACH,
            height: float = TABLE[1, 2], keep_out: Callable[[float, float, float], bool] | None = None,
            taken: Sequence[Item] = ()) -> tuple[Item, ...]:
    """Puts (kind, colour) down at random without overlaps. `keep_out(x, y, radius)` says where nothing may stand."""
    order = sorted(range(len(things)), key=lambda i: -KINDS[things[i][0]].radius)  # the big ones while there is room
    for _ in range(200):
        placed: dict[int, Item] = {}
        for i in order:
            item = _place(rng, *things[i], area, height, keep_out or _near_drawer, [*taken, *placed.values()])
            if item is None:
                break
            placed[i] = item
        else:
            return tuple(placed[i] for i in range(len(things)))
    raise SceneError(f"no room for {len(things)} things on {area.tolist()}")


def _place(rng, kind, colour, area, height, keep_out, others) -> Item | None:
    radius = KINDS[kind].radius
    inset = min(radius, 0.06)  # containers may stick out of the reach a little, as long as their middle is in it
    for _ in range(60):
        x, y = rng.uniform(area[0] + inset, area[1] - inset)
        clear = all(math.hypot(x - o.position[0], y - o.position[1]) > radius + KINDS[o.kind].radius + GAP
                    for o in others)
        if clear and not keep_out(x, y, radius):
            yaw = rng.uniform(-math.pi, math.pi) if not KINDS[kind].container else rng.uniform(-0.4, 0.4)
            return Item(kind, colour, (float(x), float(y), float(height)), float(yaw))
    return None


def _near_drawer(x: float, y: float, radius: float) -> bool:
    return x + radius > DRAWER_KEEP_OUT[0] and y + radius > DRAWER_KEEP_OUT[1]


def random_look(rng: np.random.Generator) -> Look:
    """Light, tint, table and cameras as they differ from room to room and from robot to robot."""
    return Look(
        lamp=float(rng.uniform(0.6, 1.3)), window=float(rng.uniform(0.3, 1.4)), ambient=float(rng.uniform(0.75, 1.2)),
        tint=tuple(rng.uniform(0.92, 1.0, 3).tolist()), lamp_shift=tuple(rng.uniform(-0.6, 0.6, 3).tolist()),
        table=tuple((rng.uniform(0.7, 1.15) * rng.uniform(0.92, 1.0, 3)).tolist()),
        camera_shift=0.003, camera_turn=0.008,
    )


def distinct(rng: np.random.Generator, count: int, kinds: Sequence[str] = SHAPES) -> list[tuple[str, str]]:
    """`count` things of which no two are alike in kind and colour, within what the pool has of each kind."""
    pairs = [(kind, colour) for kind in kinds for colour in COLOURS]
    chosen: list[tuple[str, str]] = []
    left = {kind: KINDS[kind].count for kind in kinds}
    for i in rng.permutation(len(pairs)):
        kind, colour = pairs[i]
        if left[kind] and len(chosen) < count:
            left[kind] -= 1
            chosen.append((kind, colour))
    return chosen


# ------------------------------------------------------------------------------------------------------- the scenes

@sampler("empty")
def _empty(rng: np.random.Generator) -> Scene:
    return Scene()


@sampler("block")
def _block(rng: np.random.Generator) -> Scene:
    """One red block at the same place every time, a bin beside it: for tests and first steps."""
    top = float(TABLE[1, 2])
    return Scene(items=(Item("block", "red", (0.50, -0.10, top)), Item("bin", "blue", (0.52, 0.14, top))))


@sampler("table")
def _table(rng: np.random.Generator) -> Scene:
    """Three to five things of different colours and shapes, and two containers."""
    things = distinct(rng, int(rng.integers(3, 6)))
    colours = [str(c) for c in rng.permutation(sorted({*COLOURS} - {c for _, c in things}))]
    containers = [str(c) for c in rng.permutation(["bin", *rng.choice(CONTAINERS[1:], 1)])]
    items = scatter(rng, [*zip(containers, colours), *things])
    return Scene(items=_slippery(rng, items), look=random_look(rng))


@sampler("clutter")
def _clutter(rng: np.random.Generator) -> Scene:
    """Seven small things, two containers, the drawer ajar or not: as full as the reach allows."""
    items = scatter(rng, [("bin", "white"), ("plate", "black"), *distinct(rng, 7)])
    return Scene(items=_slippery(rng, items), drawer=float(rng.choice([0.0, rng.uniform(0.2, 1.0)])),
                 look=random_look(rng))


def _slippery(rng: np.random.Generator, items: tuple[Item, ...]) -> tuple[Item, ...]:
    return tuple(replace(item, friction=float(rng.uniform(0.8, 1.25))) for item in items)
