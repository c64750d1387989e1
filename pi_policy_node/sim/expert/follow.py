"""Motion that is decided anew at every row: towards a goal that may move, within the robot's limits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pace:
    """How a follower may move, and how it comes to its goal."""

    speed: float  # per s
    acceleration: float
    jerk: float
    approach: float  # 1/s: the speed wanted per distance left
    grip: float  # 1/s: how quickly the speed becomes what is wanted


TOOL = Pace(0.215, 1.1, 22.0, 4.0, 12.0)  # of m; robot.tool_speed is 0.25
YAW = Pace(1.4, 6.0, 90.0, 4.0, 14.0)
HAND = Pace(2.1, 14.0, 260.0, 6.0, 25.0)  # of strokes
LIFT = Pace(0.1, 0.6, 8.0, 3.0, 10.0)
GROUND = Pace(0.26, 0.9, 10.0, 1.6, 8.0)
SPIN = Pace(0.6, 2.0, 25.0, 2.0, 9.0)


class Follower:
    """A point of any dimension with a speed of its own, at rest at first."""

    def __init__(self, position, pace: Pace, dt: float):
        self.position = np.atleast_1d(np.asarray(position, float)).copy()
        self.velocity = np.zeros_like(self.position)
        self.acceleration = np.zeros_like(self.position)
        self.pace, self._dt = pace, dt

    def move(self, velocity) -> None:
        """It is not at rest."""
        self.velocity = np.array(_shorten(np.atleast_1d(velocity).astype(float).tolist(), self.pace.speed))

    def step(self, goal, *, speed: float = math.inf, push: np.ndarray | None = None) -> np.ndarray:
        """One row further towards `goal`. push: a velocity that somebody forces upon it."""
        pace, dt = self.pace, self._dt  # on lists of one to three numbers: several times as fast as on arrays
        at, velocity, acceleration = self.position.tolist(), self.velocity.tolist(), self.acceleration.tolist()
        to = [goal] if isinstance(goal, (int, float)) else np.asarray(goal, float).tolist()
        wanted = _shorten([pace.approach * (g - p) for g, p in zip(to, at)], min(speed, pace.speed))
        if push is not None:
            wanted = _shorten([w + p for w, p in zip(wanted, push.tolist())], pace.speed)
        change = _shorten([pace.grip * (w - v) for w, v in zip(wanted, velocity)], pace.acceleration)
        change = _shorten([c - a for c, a in zip(change, acceleration)], pace.jerk * dt)
        acceleration = [a + c for a, c in zip(acceleration, change)]
        velocity = _shorten([v + a * dt for v, a in zip(velocity, acceleration)], pace.speed)
        self.acceleration, self.velocity = np.array(acceleration), np.array(velocity)
        self.position = np.array([p + v * dt for p, v in zip(at, velocity)])
        return self.position


def _shorten(vector: list[float], longest: float) -> list[float]:
    length = math.hypot(*vector)
    return vector if length <= longest else [v * (longest / length) for v in vector]
