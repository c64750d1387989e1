"""Task families by name, and one task drawn from a family: a scene, an instruction and what counts as done.

A family is a function of a Draw, registered under its name:

    @family("put", "put an object in or on a container", seconds=40.0)
    def _put(draw: Draw) -> Plan: ...
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Callable

import numpy as np

from pi_policy_node.sim.scene import Scene, SceneError
from pi_policy_node.sim.tasks.goals import DONE, Bring, Goal, Subtask
from pi_policy_node.sim.tasks.view import View

KEPT_SEEDS = 10_000_000  # and above: for evaluation; demonstrations have those below
SPLITS = ("train", "holdout_pairs", "holdout_words")


class TaskError(ValueError):
    """No such task; the message says what there is."""


@dataclass(frozen=True)
class Plan:
    """What a family makes of a draw."""

    scene: Scene
    goals: tuple[Goal, ...]  # all to be met; those that are not, in this order
    words: str  # the instruction
    target: str = ""  # the thing that must be lifted first, if it must be one


@dataclass(frozen=True)
class Draw:
    """A family's source of chance, and what it may draw."""

    rng: np.random.Generator
    split: str

    def one(self, choices):
        """One of the choices."""
        return choices[int(self.rng.integers(len(choices)))]


@dataclass(frozen=True)
class Family:
    name: str
    help: str
    seconds: float  # time limit of an episode, simulated
    make: Callable[[Draw], Plan]
    pairs: bool  # has held-out pairs


@dataclass(frozen=True)
class Task:
    """One task. The same family, seed and split give the same one every time."""

    family: str
    seed: int
    split: str
    scene: Scene
    instruction: str
    goals: tuple[Goal, ...]
    seconds: float
    target: str = ""

    def met(self, view: View) -> list[bool]:
        """Goal by goal."""
        return [goal.met(view) for goal in self.goals]

    def success(self, view: View) -> bool:
        return all(self.met(view))

    def next(self, view: View) -> Subtask:
        """What to do now, from the state of the world alone; "done" when nothing is left."""
        left = [goal for goal, met in zip(self.goals, self.met(view)) if not met]
        held = view.held().values()
        for goal in left:
            if isinstance(goal, Bring) and goal.thing in held:
                return goal.next(view)
        return left[0].next(view) if left else Subtask(DONE, "done")


FAMILIES: dict[str, Family] = {}


def family(name: str, help: str, *, seconds: float, pairs: bool = True):
    """Registers a family."""

    def register(make: Callable[[Draw], Plan]) -> Callable[[Draw], Plan]:
        FAMILIES[name] = Family(name, help, seconds, make, pairs)
        return make

    return register


def draw(name: str, seed: int, split: str = "train") -> Task:
    """The task of that family for a seed."""
    if name not in FAMILIES:
        raise TaskError(f"no task family is called {name!r}; there are {', '.join(FAMILIES)}")
    if split not in SPLITS:
        raise TaskError(f"no split is called {split!r}; there are {', '.join(SPLITS)}")
    chosen = FAMILIES[name]
    if split == "holdout_pairs" and not chosen.pairs:
        raise TaskError(f"{name} has no held-out pairs; those that have: "
                        f"{', '.join(f.name for f in FAMILIES.values() if f.pairs)}")
    rng = np.random.default_rng([zlib.crc32(f"{name}/{split}".encode()), seed])
    for _ in range(100):
        try:
            plan = chosen.make(Draw(rng, split))
            break
        except SceneError:  # no room, or out of reach: another try
            continue
    else:
        raise TaskError(f"{name} finds no scene for seed {seed}")
    scene = replace(plan.scene, name=name, seed=seed)
    return Task(name, seed, split, scene, plan.words, plan.goals, chosen.seconds, plan.target)
