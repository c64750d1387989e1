"""Where a thing is put down, for each kind of goal."""

from __future__ import annotations

import math

import numpy as np

from pi_policy_node.sim.expert.arms import Arm
from pi_policy_node.sim.tasks.goals import Beside, Bring, Inside, OnSurface, OnTop, is_inside
from pi_policy_node.sim.tasks.view import TOP, View, half_height
from pi_policy_node.sim.world import KINDS

# m above its foot at which something is let go over a container: above a bin's wall, close to a plate
DROP = {"bin": 0.066, "bowl": 0.030, "tray": 0.014, "plate": 0.013}
TOUCH = 0.004  # m above what it is put down on
# m along and across a container from its middle: where a further thing may go
SPREAD = [(x, y) for x in (0.0, 0.05, -0.05) for y in (0.0, 0.03, -0.03)]
BESIDE = 0.035  # m between two things that are next to each other


def spot(view: View, goal: Bring, arm: Arm, before: np.ndarray | None) -> np.ndarray:
    """[3] where the underside of what is held should come to, in the world. before: what this said last time."""
    if isinstance(goal, Inside):
        return _inside(view, goal, arm, before)
    if isinstance(goal, OnTop):
        under = view.things[goal.other]
        return under.position + [0, 0, half_height(under) + TOUCH]
    if isinstance(goal, Beside):
        return _beside(view, goal, before)
    if isinstance(goal, OnSurface):
        return before if before is not None else _free(view, goal.thing, arm)
    raise TypeError(f"no spot for {goal}")


def _inside(view: View, goal: Inside, arm: Arm, before) -> np.ndarray:
    container = view.things[goal.container]
    inside = [t for n, t in view.things.items()
              if n not in (goal.thing, goal.container) and is_inside(view, n, goal.container)]
    middle = container.position + [0, 0, DROP[container.kind]]
    if not inside:
        return middle
    c, s = _axes(container.quaternion)
    radius = KINDS[view.things[goal.thing].kind].radius
    best = None  # how good, where
    for dx, dy in SPREAD:
        at = middle + [c * dx - s * dy, s * dx + c * dy, 0.0]
        room = min(math.hypot(*(t.position - at)[:2]) - KINDS[t.kind].radius - radius for t in inside)
        if not arm.reaches(view.to_base(at + [0, 0, 0.10]), arm.home_lift):
            room -= 1.0
        same = 0.01 if before is not None and math.hypot(*(before - at)[:2]) < 0.01 else 0.0
        if best is None or min(room, 0.02) + same > best[0]:
            best = min(room, 0.02) + same, at
    at = best[1]
    under = [t.position[2] + half_height(t) for t in inside
             if math.hypot(*(t.position - at)[:2]) < KINDS[t.kind].radius + radius]
    return np.r_[at[:2], max([at[2], *(top + 0.008 for top in under)])]


def _beside(view: View, goal: Beside, before) -> np.ndarray:
    thing, other = view.things[goal.thing], view.things[goal.other]
    apart = KINDS[thing.kind].radius + KINDS[other.kind].radius + BESIDE
    sides = {"left": [1], "right": [-1], "next": [1, -1]}[goal.side]
    if before is not None:
        side = math.copysign(1, before[1] - other.position[1])
    else:
        side = max(sides, key=lambda s: _room(view, other.position + [0, s * apart, 0], goal.thing))
    return np.array([other.position[0], other.position[1] + side * apart, TOP + TOUCH])


def _free(view: View, thing: str, arm: Arm) -> np.ndarray:
    """A free spot in front of the arm, the nearest to where its hand hangs at home."""
    out = math.copysign(1, arm.home[1])
    best = None
    for x in (0.50, 0.46, 0.54, 0.58):
        for y in (0.16, 0.08, 0.24, 0.0, 0.32):
            at = view.to_world([x, out * y, TOP + TOUCH])
            room = min(_room(view, at, thing), 0.05)
            score = room - 0.02 * abs(y - 0.16) - 0.02 * abs(x - 0.50)
            if best is None or score > best[0]:
                best = score, at
    return best[1]


def _room(view: View, at: np.ndarray, thing: str) -> float:
    """m between what is put down there and what stands nearest."""
    radius = KINDS[view.things[thing].kind].radius
    return min((math.hypot(*(t.position - at)[:2]) - KINDS[t.kind].radius - radius
                for n, t in view.things.items() if n != thing), default=1.0)


def _axes(quaternion) -> tuple[float, float]:
    w, x, y, z = quaternion
    yaw = math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    return math.cos(yaw), math.sin(yaw)
