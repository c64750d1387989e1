"""What can be asked of a scene, and what is next in it: the answers to pictures (learn/glances.py)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pi_policy_node.sim.expert.arms import Arm
from pi_policy_node.sim.expert.skills import enough, fingers_room, grip_yaws
from pi_policy_node.sim.expert.spots import BESIDE, DROP, TOUCH, spot
from pi_policy_node.sim.expert.under_way import alone, gripping
from pi_policy_node.sim.tasks import Task, View
from pi_policy_node.sim.tasks.families import UNDER
from pi_policy_node.sim.tasks.goals import IN, Bring, Subtask, name_words
from pi_policy_node.sim.tasks.view import HALF_WIDTH, TOP, half_height, handle
from pi_policy_node.sim.world import KINDS

HELD = 0.02  # m from the underside of a thing to the fingers that hold it, about
LOW = 0.04  # m: what is held so near to where it goes is being put down, however low it is


class Answer(NamedTuple):
    """To one question about a scene; places [3] in the world."""

    words: str
    body: str  # what the words name
    thing: np.ndarray  # where that is
    reach: float  # m about there that belong to it
    place: np.ndarray  # where the hand would close or open
    yaws: list[float]  # directions in which fingers would close there; none: any will do


def answers(view: View) -> Iterator[Answer]:
    """All that could be asked for."""
    for name, thing in view.things.items():
        words, at, kind = name_words(name), thing.position, thing.kind
        what = name, at, 0.5 * KINDS[kind].radius
        if kind in HALF_WIDTH:
            yaws = grip_yaws(thing)
            rooms = fingers_room(view, name, yaws)
            least = enough(rooms)
            yield Answer(f"pick up the {words}", *what, at, [yaw for yaw, room in zip(yaws, rooms) if room >= least])
            apart = KINDS["block"].radius + KINDS[kind].radius + BESIDE
            for side, sign in (("left", 1), ("right", -1)):
                beside = np.array([at[0], at[1] + sign * apart, TOP + TOUCH + HELD])
                yield Answer(f"place it to the {side} of the {words}", *what, beside, [])
        if kind in UNDER:
            yield Answer(f"place it on the {words}", *what, at + [0, 0, half_height(thing) + TOUCH + HELD], [])
        if kind in IN:
            yield Answer(f"place it {IN[kind]} the {words}", *what, at + [0, 0, DROP[kind] + HELD], [])
    at = handle(view)
    yield Answer("close the drawer" if view.drawer > 0.5 else "open the drawer", "drawer", at, 0.01, at, [0.0])


def next_step(task: Task, view: View, arms: dict[str, Arm]) -> Subtask:
    """What is next for it. A hand that has just let go is still putting down, and so is one that stands low where the
    thing goes."""
    step = task.next(view)
    goal = next((goal for goal in task.goals if isinstance(goal, Bring) and goal.thing == step.thing), None)
    if step.kind != "pick" or goal is None:
        return step
    arm = gripping(view, step.thing)
    if goal.met(alone(view)) or arm and _is_over(view, goal, arms[arm]):
        return Subtask(f"place it {goal.words(view)}", "place", goal.thing, goal)
    return step


def _is_over(view: View, goal: Bring, arm: Arm) -> bool:
    off = view.things[goal.thing].position - spot(view, goal, arm, None)
    return view.at(goal.station(view)) and math.hypot(off[0], off[1]) < LOW
