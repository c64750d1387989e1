"""What a task wants of the world, and which subtask brings it nearer.

A goal is met or not; one that is not says what to do next, from the state of the world alone: whoever acts on it,
expert or policy, may fail, be disturbed or be interrupted, and asking again is all that recovery needs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pi_policy_node.sim.tasks.view import TOP, View, bottom, half_height
from pi_policy_node.sim.world import COUNTER, KINDS, PLACES, TABLE

IN = {"bin": "in", "bowl": "in", "tray": "on", "plate": "on"}  # the word that goes with a container
SURFACES = {"table": TABLE, "counter": COUNTER}
DONE = "done"  # the words of the subtask after the last


@dataclass(frozen=True)
class Subtask:
    """One thing to do, in words and for the expert."""

    words: str
    kind: str  # "pick", "place", "drawer", "drive" or "done"
    thing: str = ""  # name in the scene
    goal: Goal | None = None  # whose place it is
    place: str = ""  # to drive to
    opening: float = 0.0  # of the drawer


@dataclass(frozen=True)
class Goal:
    """Base of all. `thing` is the name of what has to be brought somewhere, if anything has."""

    def met(self, view: View) -> bool:
        raise NotImplementedError

    def next(self, view: View) -> Subtask:
        raise NotImplementedError


@dataclass(frozen=True)
class Bring(Goal):
    """A thing has to be somewhere. Subclasses say where: `words`, `station`, `met`."""

    thing: str

    def words(self, view: View) -> str:
        raise NotImplementedError

    def station(self, view: View) -> str:
        """Where the base must be to put it there."""
        return "table"

    def next(self, view: View) -> Subtask:
        if self.thing in view.held().values():
            if not view.at(self.station(view)):
                return drive(self.station(view))
            return Subtask(f"place it {self.words(view)}", "place", self.thing, self)
        here = where(view, self.thing)
        if not view.at(here):
            return drive(here)
        return Subtask(f"pick up the {name_words(self.thing)}", "pick", self.thing)


@dataclass(frozen=True)
class Inside(Bring):
    container: str

    def words(self, view: View) -> str:
        return f"{IN[view.things[self.container].kind]} the {name_words(self.container)}"

    def met(self, view: View) -> bool:
        return view.free(self.thing) and is_inside(view, self.thing, self.container)


@dataclass(frozen=True)
class OnTop(Bring):
    other: str

    def words(self, view: View) -> str:
        return f"on the {name_words(self.other)}"

    def met(self, view: View) -> bool:
        top, under = view.things[self.thing], view.things[self.other]
        off = top.position - under.position
        above = bottom(top) - (under.position[2] + half_height(under))
        return view.free(self.thing) and math.hypot(off[0], off[1]) < 0.030 and abs(above) < 0.012


@dataclass(frozen=True)
class Beside(Bring):
    """On one side of another thing, as the robot sees it: left is +y of the table."""

    other: str
    side: str  # "left", "right" or "next"

    def words(self, view: View) -> str:
        return f"next to the {name_words(self.other)}" if self.side == "next" else (
            f"to the {self.side} of the {name_words(self.other)}")

    def met(self, view: View) -> bool:
        thing, other = view.things[self.thing], view.things[self.other]
        apart = KINDS[thing.kind].radius + KINDS[other.kind].radius
        low = bottom(thing) < TOP + 0.015
        return view.free(self.thing) and low and is_beside(thing.position - other.position, apart, self.side)


@dataclass(frozen=True)
class OnSurface(Bring):
    surface: str  # of SURFACES

    def words(self, view: View) -> str:
        return f"on the {self.surface}"

    def station(self, view: View) -> str:
        return self.surface

    def met(self, view: View) -> bool:
        thing = view.things[self.thing]
        return view.free(self.thing) and on_surface(thing.position, self.surface) and abs(bottom(thing) - TOP) < 0.02


@dataclass(frozen=True)
class DrawerAt(Goal):
    opening: float  # 0 or 1

    def met(self, view: View) -> bool:
        return abs(view.drawer - self.opening) < 0.12

    def next(self, view: View) -> Subtask:
        words = "open the drawer" if self.opening else "close the drawer"
        return Subtask(words, "drawer", opening=self.opening)


@dataclass(frozen=True)
class At(Goal):
    place: str

    def met(self, view: View) -> bool:
        return view.at(self.place)

    def next(self, view: View) -> Subtask:
        return drive(self.place)


def drive(place: str) -> Subtask:
    return Subtask(f"drive to the {place}", "drive", place=place)


def name_words(name: str) -> str:
    """"red_block_2" -> "red block"."""
    return " ".join(part for part in name.split("_") if not part.isdigit())


def is_inside(view: View, thing: str, container: str) -> bool:
    around = view.things[container]
    off = view.things[thing].position - around.position
    high = {"bin": 0.10, "bowl": 0.08}.get(around.kind, 0.06)
    return math.hypot(off[0], off[1]) < KINDS[around.kind].inside + 0.01 and -0.005 < off[2] < high


def is_beside(off: np.ndarray, apart: float, side: str, *, slack: float = 0.0) -> bool:
    """Whether what is `off` (m, x and y first) from another thing is on that side of it; `apart`: when they touch."""
    gap = math.hypot(off[0], off[1]) - apart
    if side == "next":
        return gap < 0.06 + slack
    return gap < 0.09 + slack and abs(off[0]) < 0.06 + slack and off[1] * (1 if side == "left" else -1) > 0.03 - slack


def on_surface(position, surface: str) -> bool:
    low, high = SURFACES[surface][0][:2], SURFACES[surface][1][:2]
    return bool(np.all(position[:2] > low) and np.all(position[:2] < high))


def where(view: View, thing: str) -> str:
    """The place at which a thing can be reached."""
    x, y, _ = view.things[thing].position
    return min(SURFACES, key=lambda s: math.hypot(x - PLACES[s][0], y - PLACES[s][1]))
