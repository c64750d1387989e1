"""Looks on while a policy works, and says why it failed, from what happened in the world."""

from __future__ import annotations

import math

from pi_policy_node.sim.tasks import Task, View
from pi_policy_node.sim.tasks.goals import At, Bring, DrawerAt, where
from pi_policy_node.sim.tasks.view import HALF_WIDTH, TOP, bottom

NEAR = 0.06  # m between a closing hand and what it is closing on
HIGH = 0.05  # m above the table: what is let go there is dropped
SHUT, OPEN = 0.62, 0.75  # of a hand; around the widest thing it is 0.575
MOVED = 0.05  # part of a drawer's travel

CAUSES = {
    "physics": "the simulation came apart",
    "refused": "the words were refused",
    "no answer": "the policy gave none",
    "fault": "the hardware bridge latched",
    "fell": "what was wanted lies on the floor",
    "wrong object": "what was lifted, or gripped at, first was not wanted",
    "not put down": "it still holds it at the end",
    "dropped": "it was lifted and lost on the way",
    "wrong place": "it was put down somewhere else",
    "missed grasp": "the hand closed beside it",
    "drawer not moved enough": "the drawer moved, but not all the way",
    "said done": "it said that it was done, and had done nothing yet",
    "not there": "the base did not come to the place",
    "not tried": "no hand closed near it",
    "drawer not gripped": "the drawer hardly moved",
}
NOTHING = ("not there", "not tried", "drawer not gripped")


class Watch:
    """One episode."""

    def __init__(self, task: Task):
        self.task = task
        self.wanted = {goal.thing for goal in task.goals if isinstance(goal, Bring)}
        self.lifted: list[str] = []  # what was, in this order
        self._held: dict[str, float] = {}  # what is -> its height above the table
        self._lost: dict[str, float] = {}  # what was held -> how high it was last
        self._tried: list[str] = []  # what a hand closed near
        self._open: set[str] = set()  # arms whose hands are
        self._drawer: float | None = None

    def see(self, view: View) -> None:
        """The world, a few times a second."""
        held = {name: bottom(view.things[name]) - TOP for name in view.held().values()}
        for name in held:
            if name not in self.lifted:
                self.lifted.append(name)
        self._lost |= {name: high for name, high in self._held.items() if name not in held}
        self._held = held
        for arm, opening in view.openings.items():
            if arm in self._open and opening < SHUT:
                self._open.remove(arm)
                self._closed(view, arm)
            elif opening > OPEN:
                self._open.add(arm)
        if self._drawer is None:
            self._drawer = view.drawer

    @property
    def right_first(self) -> bool | None:
        """Whether what was lifted first is what had to be; None where nothing was, or nothing in particular had to."""
        if not self.task.target or not self.lifted:
            return None
        return self.lifted[0] == self.task.target

    def cause(self, view: View) -> str:
        """Why the first goal that is not met is not."""
        goal = next((g for g in self.task.goals if not g.met(view)), self.task.goals[0])
        if isinstance(goal, At):
            return "not there"
        if isinstance(goal, DrawerAt):
            return "drawer not gripped" if abs(view.drawer - self._drawer) < MOVED else "drawer not moved enough"
        thing = goal.thing
        if view.things[thing].position[2] < TOP - 0.1:
            return "fell"
        first = self.lifted[0] if self.lifted else self._tried[0] if self._tried else ""
        if first and first not in self.wanted:
            return "wrong object"
        if thing in self._held:
            return "not put down"
        if thing in self.lifted:
            return "dropped" if self._lost.get(thing, 0.0) > HIGH else "wrong place"
        if thing in self._tried:
            return "missed grasp"
        return "not tried" if view.at(where(view, thing)) else "not there"

    def _closed(self, view: View, arm: str) -> None:
        near = {name: math.dist(thing.position, view.tools[arm]) for name, thing in view.things.items()
                if thing.kind in HALF_WIDTH}
        name = min(near, key=near.__getitem__, default="")
        if name and near[name] < NEAR and name not in self._tried:
            self._tried.append(name)
