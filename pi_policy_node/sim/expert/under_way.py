"""What somebody else is in the middle of: the world alone does not tell a thing that is being lifted from one that is
being put down, nor a hand that has just let go from one that comes to pick up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pi_policy_node.sim.expert.skills import Pick
from pi_policy_node.sim.tasks.goals import Subtask
from pi_policy_node.sim.tasks.registry import Task
from pi_policy_node.sim.tasks.view import TOP, View, bottom, handle

ARRIVED = 0.03, 0.05  # m, rad: nearer than that no drive needs to go on
BESIDE = 0.05  # m: a hand so near to the handle is still at work there


def gripping(view: View, thing: str) -> str:
    """The arm between whose fingers a thing is; empty where there is none."""
    return next((arm for arm in view.tools if view.gripped(arm, thing)), "")


def under_way(view: View, task: Task, last: Subtask | None) -> Subtask:
    """What is being done now. last: what was being done a moment ago, by the same rule."""
    if last is not None:
        if last.kind == "pick" and gripping(view, last.thing) and bottom(view.things[last.thing]) - TOP < Pick.LIFTED:
            return last
        if last.kind == "place":
            here = view.at(last.goal.station(view))
            let_go = last.goal.met(alone(view)) and not last.goal.met(view)
            if here and (gripping(view, last.thing) or let_go):
                return last
        if last.kind == "drawer":
            at = handle(view)
            if min(float(np.linalg.norm(tool - at)) for tool in view.tools.values()) < BESIDE:
                return last
        if last.kind == "drive" and view.at(last.place) and not view.at(last.place, ARRIVED):
            return last
    return task.next(view)


def alone(view: View) -> View:
    """The same without hands, everything at rest."""
    things = {name: thing._replace(velocity=np.zeros(3)) for name, thing in view.things.items()}
    return replace(view, tools={}, things=things)
