"""The limits of a robot, as bounds on a whole motion, and how far one may go towards a motion without breaking them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pi_policy_node.control.window import Window
from pi_policy_node.robot import Kinematics, Robot

DERIVATIVES = ("position", "velocity", "acceleration", "jerk")
# Motions are made within these parts of the limits: room for what a late message does to a controller's reference (up to
# 5 ms late, only the jerk still gets beyond its limit), and for what lies between two samples.
HEADROOM = (1.0, 0.96, 0.86, 0.8)  # position, velocity, acceleration, jerk
POSITION_MARGIN = 0.001  # rad or m, and of the range of a joint
TOOL_HEADROOM = 0.93
CHECKED = 0.99  # of the rates, and of the tools' and the base's speed: what the check allows, for the same reason
WORKSPACE_MARGIN = 0.002  # m


@dataclass(frozen=True, eq=False)
class Motion:
    """A window, seen densely."""

    joints: np.ndarray  # [4, N, A] p, v, a, jerk
    tools: np.ndarray  # [tools, N, 3] m, in the base frame
    tool_speed: np.ndarray  # [tools, N-1] m/s relative to the base frame
    base_speed: np.ndarray  # [N] m/s


class Limits:
    """What a robot may do. A limit may be exceeded only where braking would exceed it as much: inwards from outside."""

    def __init__(self, robot: Robot, kinematics: Kinematics | None = None) -> None:
        self._kinematics = kinematics or Kinematics(robot)
        base = robot.is_base
        speed = np.where(base, robot.upper, robot.velocity)
        rate = np.stack([speed, robot.acceleration, robot.jerk])  # [3, A]
        free = np.where(base, np.inf, 0.0)
        self.high = np.concatenate([[robot.upper + free], rate])[:, None]  # [4, 1, A]
        self.low = np.concatenate([[robot.lower - free], -rate])[:, None]
        part = np.array(HEADROOM)[:, None, None]
        margin = np.minimum(POSITION_MARGIN * (robot.upper - robot.lower), POSITION_MARGIN)
        self.soft_high = np.concatenate([self.high[:1] - margin, part[1:] * self.high[1:]])
        self.soft_low = np.concatenate([self.low[:1] + margin, part[1:] * self.low[1:]])
        self._tool_speed, self._workspace = robot.tool_speed, robot.workspace
        self._base_speed = robot.base_speed
        self._plane = np.flatnonzero(base)[:2]  # vx, vy
        self.rest_time = _rest_time(rate)

    def motion(self, window: Window) -> Motion:
        times, joints = window.samples()
        tools = self._kinematics.tools(joints[0])
        places = np.stack(list(tools.values())) if tools else np.zeros((0, len(times), 3))
        steps = np.diff(times)
        with np.errstate(invalid="ignore", divide="ignore"):
            speed = np.linalg.norm(np.diff(places, axis=1), axis=2) / steps
        speed[:, steps <= 0.0] = 0.0  # the joint of blend and tail is there twice
        return Motion(joints, places, speed, np.linalg.norm(joints[1][:, self._plane], axis=1))

    def joint_excess(self, joints: np.ndarray) -> np.ndarray:
        """[4, N, A] -> [4, A] bool: which columns break which limits. Written so that NaN breaks them all."""
        high, low = CHECKED * self.high, CHECKED * self.low
        high[0] = np.maximum(self.high[0], joints[0, 0])
        low[0] = np.minimum(self.low[0], joints[0, 0])
        slack = 1e-6 + 1e-6 * np.where(np.isfinite(high), np.abs(high), 0.0)
        return ~((joints <= high + slack) & (joints >= low - slack)).all(axis=1)

    def broken(self, motion: Motion) -> list[str]:
        """The limits that a motion breaks, by name."""
        excess = self.joint_excess(motion.joints).any(axis=1)
        broken = [name for name, out in zip(DERIVATIVES, excess) if out]
        if not (motion.tool_speed <= CHECKED * self._tool_speed).all():
            broken.append("tool_speed")
        first = motion.tools[:, :1]
        inside = (motion.tools <= np.maximum(self._workspace[1], first) + 1e-6) & (
            motion.tools >= np.minimum(self._workspace[0], first) - 1e-6)
        if not inside.all():
            broken.append("workspace")
        if not (motion.base_speed <= CHECKED * self._base_speed).all():
            broken.append("base_speed")
        return broken

    def joint_room(self, brake: np.ndarray, wish: np.ndarray) -> np.ndarray:
        """[4, A]: how far, 0..1, each column may go from one motion [4, N, A] towards another, by each derivative.

        Motions from one state are linear in their aims, and so are these limits: what is returned is exact.
        """
        return room(brake, wish, self.soft_low, self.soft_high).min(axis=1)

    def tool_room(self, brake: Motion, wish: Motion) -> dict[str, float]:
        """How far all columns together may go, by each limit that is not one of single columns. Nearly exact."""
        zero = np.array(0.0)
        rooms = {
            "tool_speed": room(brake.tool_speed, wish.tool_speed, zero, TOOL_HEADROOM * self._tool_speed),
            "workspace": room(brake.tools, wish.tools, self._workspace[0] + WORKSPACE_MARGIN,
                              self._workspace[1] - WORKSPACE_MARGIN),
            "base_speed": room(brake.base_speed, wish.base_speed, zero, HEADROOM[1] * self._base_speed),
        }
        return {name: float(values.min(initial=1.0)) for name, values in rooms.items()}


def room(brake: np.ndarray, wish: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Elementwise 0..1: how far from `brake` towards `wish` until a bound; where `brake` is out, no further out."""
    step = wish - brake
    bound = np.where(step > 0.0, np.maximum(high, brake), np.minimum(low, brake))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        part = (bound - brake) / step
    return np.where(np.abs(step) < 1e-12, 1.0, np.clip(part, 0.0, 1.0))


def _rest_time(rate: np.ndarray) -> float:
    """The shortest tail in which every column can rest from full speed, and from full acceleration [3, A]."""
    speed, acceleration, jerk = (part * limit for part, limit in zip(HEADROOM[1:], rate))
    times: Iterable[np.ndarray] = (1.5 * speed / acceleration, np.sqrt(6 * speed / jerk), 4 * acceleration / jerk)
    return float(np.max(np.stack(list(times))))
