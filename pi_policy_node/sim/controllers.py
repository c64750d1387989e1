"""What ros2_control's controllers do with their commands, without ROS and without a robot.

Each class follows the controller whose place it takes, including what that controller does *not* check: a bridge that
is safe here must be safe there. The methods are always the same three:

- a command (`command` or `goal`), which raises `Refused` in the words a person needs, and changes nothing when it does;
- `advance(times)`, which gives the reference for those times [N] as a `Reference` and writes it into `history`;
- `hold(positions)`, which forgets every command and rests there (after a reset of the world).

Positions are in joint units (rad, m), times in seconds on one clock of the caller's choice.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple, Sequence

import numpy as np

TWIST_TIMEOUT = 0.15  # s; base_controller's in config/controllers.yaml
GOAL_TOLERANCE = 0.002  # m or rad; gripper_action_controller's `goal_tolerance`
STALL_VELOCITY = 0.001  # m/s or rad/s; its `stall_velocity_threshold`
STALL_TIME = 1.0  # s; its `stall_timeout`
_FLOAT_EPSILON = float(np.finfo(np.float32).eps)  # the largest final velocity that counts as zero


class Refused(ValueError):
    """The controller does not take this command; the message says why."""


class Point(NamedTuple):
    """One point of a trajectory message; empty sequences are fields that were not given."""

    time_from_start: float  # s
    positions: Sequence[float]
    velocities: Sequence[float] = ()
    accelerations: Sequence[float] = ()
    effort: Sequence[float] = ()


class Reference(NamedTuple):
    """What a controller asks of its joints at N times; for a base, `velocity` is what counts."""

    time: np.ndarray  # [N]
    position: np.ndarray  # [N, J]
    velocity: np.ndarray  # [N, J]
    acceleration: np.ndarray  # [N, J]


class History:
    """The last references, oldest first, in a ring of fixed size, so that a test can look at what was really asked."""

    def __init__(self, width: int, capacity: int = 5000):
        self._rows = np.zeros((capacity, 1 + 3 * width))
        self._count = 0
        self._width = width

    def add(self, reference: Reference) -> None:
        rows = np.concatenate([reference.time[:, None], *reference[1:]], axis=1)[-len(self._rows):]
        at = self._count % len(self._rows)
        if at + len(rows) <= len(self._rows):
            self._rows[at:at + len(rows)] = rows
        else:
            self._rows[(at + np.arange(len(rows))) % len(self._rows)] = rows
        self._count += len(rows)

    def read(self, since: float = -math.inf) -> Reference:
        """References later than `since`."""
        capacity = len(self._rows)
        first = max(0, self._count - capacity)
        rows = self._rows[np.arange(first, self._count) % capacity]
        rows = rows[rows[:, 0] > since]
        w = self._width
        return Reference(rows[:, 0], rows[:, 1:1 + w], rows[:, 1 + w:1 + 2 * w], rows[:, 1 + 2 * w:])

    def clear(self) -> None:
        self._count = 0


class _Controller:
    """What they share: a name, joints, the last reference, a history and counters of what was taken and refused."""

    def __init__(self, name: str, joints: Sequence[str], positions: Sequence[float]):
        self.name = name
        self.joints = tuple(joints)
        self.counters: Counter[str] = Counter()  # "accepted", "refused", "accepted_nan"
        self.history = History(len(self.joints))
        self.hold(positions)

    def hold(self, positions: Sequence[float]) -> None:
        self._position = np.array(positions, float)
        self._velocity = np.zeros_like(self._position)
        self._acceleration = np.zeros_like(self._position)

    def leap(self, by: float) -> None:
        """The clock leaps by so many seconds. What is under way goes on: a controller counts its own updates."""

    @property
    def reference(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Position, velocity and acceleration [J] asked for now."""
        return self._position, self._velocity, self._acceleration

    def refuse(self, why: str) -> None:
        self.counters["refused"] += 1
        raise Refused(f"{self.name}: {why}")

    def _accept(self, *values: Sequence[float]) -> None:
        self.counters["accepted"] += 1
        if not np.isfinite(np.concatenate([np.ravel(v) for v in values])).all():
            self.counters["accepted_nan"] += 1

    def _record(self, times: np.ndarray, position, velocity, acceleration) -> Reference:
        reference = Reference(np.asarray(times, float), position, velocity, acceleration)
        self._position, self._velocity, self._acceleration = position[-1], velocity[-1], acceleration[-1]
        self.history.add(reference)
        return reference


class TrajectoryController(_Controller):
    """joint_trajectory_controller with `interpolate_from_desired_state: true` and otherwise default parameters.

    A new trajectory replaces the old one at the next `advance`, starting from the reference, not from the measured
    state. Like the real one it accepts NaN, ignores limits, jumps if the first point is due at once and elsewhere, and
    dates its last reference one update too early when it starts from it: at v the first step is v * period too long.
    """

    def __init__(self, name: str, joints: Sequence[str], positions: Sequence[float], *, period: float = 0.002):
        self.period = period  # s; one update of the controller manager
        super().__init__(name, joints, positions)

    def hold(self, positions: Sequence[float]) -> None:
        super().hold(positions)
        self._pending: tuple[float, list[Point]] | None = None
        self._spline: _Spline | None = None

    def command(self, names: Sequence[str], points: Sequence[Point], *, stamp: float = 0.0, now: float) -> None:
        """A trajectory. `stamp` 0 starts it at the next update; any other is the time of its time_from_start 0."""
        self._check(names, points, stamp, now)
        order = [list(names).index(joint) for joint in self.joints]

        def sort(values: Sequence[float]) -> Sequence[float]:
            return np.asarray(values, float)[order] if len(values) else ()

        self._accept(*(v for p in points for v in p[1:4]))
        self._pending = stamp, [Point(p.time_from_start, *(sort(v) for v in p[1:4])) for p in points]

    def leap(self, by: float) -> None:
        if self._spline is not None:
            self._spline.time += by

    def _check(self, names: Sequence[str], points: Sequence[Point], stamp: float, now: float) -> None:
        if len(names) != len(self.joints):
            self.refuse(f"{len(names)} joints in the trajectory, {len(self.joints)} in the controller "
                        f"({', '.join(self.joints)})")
        for joint in names:
            if joint not in self.joints:
                self.refuse(f"joint {joint!r} is not one of the controller's ({', '.join(self.joints)})")
        if len(set(names)) != len(names):
            self.refuse("a joint is named twice")
        if not points:
            self.refuse("the trajectory has no points")
        for joint, velocity in zip(names, points[-1].velocities):
            if abs(velocity) > _FLOAT_EPSILON:
                self.refuse(f"the velocity of {joint} at the last point is {velocity:.6f}, not zero")
        end = stamp + points[-1].time_from_start
        if stamp != 0.0 and end < now:
            self.refuse(f"the trajectory ended {now - end:.3f} s ago")
        for i, point in enumerate(points):
            if i and point.time_from_start <= points[i - 1].time_from_start:
                self.refuse(f"time_from_start does not increase from point {i - 1} to {i} "
                            f"({points[i - 1].time_from_start:.6f} s to {point.time_from_start:.6f} s)")
            for field, optional in (("positions", False), ("velocities", True), ("accelerations", True)):
                size = len(getattr(point, field))
                if size != len(names) and not (optional and size == 0):
                    self.refuse(f"point {i} has {size} {field} for {len(names)} joints")
            if len(point.effort):
                self.refuse("effort is not taken by a position controller")

    def advance(self, times: np.ndarray) -> Reference:
        times = np.asarray(times, float)
        if self._pending is not None:
            (stamp, points), self._pending = self._pending, None
            update = times[0] - self.period  # commands are sampled one period ahead: `times[0]` is the next update's
            # The reference of `update`, dated one earlier: JTC stores command_next_ with the time of its update().
            before = Point(update - self.period, self._position, self._velocity, self._acceleration)
            self._spline = _Spline(before, points, stamp or update)
        if self._spline is None:
            still = np.zeros((len(times), len(self.joints)))
            return self._record(times, np.tile(self._position, (len(times), 1)), still, still)
        return self._record(times, *self._spline.sample(times))


class _Spline:
    """The curve through a trajectory's points: linear, cubic or quintic in each segment, by what both its ends give."""

    def __init__(self, before: Point, points: Sequence[Point], start: float):
        width = len(points[0].positions)
        if not len(points[0].velocities):  # the segment from `before` has the degree of what the first point gives
            before = before._replace(velocities=())
        if not len(points[0].accelerations):
            before = before._replace(accelerations=())
        knots = [before, *points]
        self.time = np.array([before.time_from_start, *(start + p.time_from_start for p in points)])  # [n+1]
        p, v, a = (np.array([f if len(f) else np.zeros(width) for f in column])
                   for column in list(zip(*knots))[1:4])  # [n+1, J]
        moving = np.array([bool(len(k.velocities)) for k in knots])
        bending = np.array([bool(len(k.accelerations)) for k in knots])
        has_v = moving[1:] & moving[:-1]
        has_a = has_v & bending[1:] & bending[:-1]
        h = np.maximum(self.time[1:] - self.time[:-1], 1e-12)[:, None]  # [n, 1]
        dp, v0, v1, a0, a1 = p[1:] - p[:-1], v[:-1], v[1:], a[:-1], a[1:]
        curve = [p[:-1], dp / h]
        if has_v.any():  # the few numpy calls of a straight line are what lockstep's speed hangs on
            cubic = [p[:-1], v0, (3 * dp / h - 2 * v0 - v1) / h, (v0 + v1 - 2 * dp / h) / h**2]
            curve = _choose(has_v, cubic, curve)
        if has_a.any():
            quintic = [p[:-1], v0, a0 / 2,
                       (20 * dp - (8 * v1 + 12 * v0) * h - (3 * a0 - a1) * h**2) / (2 * h**3),
                       (-30 * dp + (14 * v1 + 16 * v0) * h + (3 * a0 - 2 * a1) * h**2) / (2 * h**4),
                       (12 * dp - 6 * (v1 + v0) * h + (a1 - a0) * h**2) / (2 * h**5)]
            curve = _choose(has_a, quintic, curve)
        self.curve = np.array(curve)  # [degree + 1, n, J]
        self.end = p[-1], v[-1], a[-1]

    def sample(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Position, velocity and acceleration [N, J] at the times [N]."""
        segment = np.searchsorted(self.time, times, side="right") - 1
        over = segment >= len(self.time) - 1
        segment = np.minimum(np.maximum(segment, 0), len(self.time) - 2)
        c = self.curve[:, segment]  # [degree + 1, N, J]
        t = np.maximum(times - self.time[segment], 0.0)[:, None]
        position, velocity, acceleration = c[-1], np.zeros_like(c[0]), np.zeros_like(c[0])
        for k in range(len(c) - 2, -1, -1):  # Horner's scheme for the polynomial and its derivatives
            acceleration = acceleration * t + 2 * velocity
            velocity = velocity * t + position
            position = position * t + c[k]
        if over.any():
            position[over], velocity[over], acceleration[over] = self.end
        return position, velocity, acceleration


def _choose(where: np.ndarray, curve: list[np.ndarray], otherwise: list[np.ndarray]) -> list[np.ndarray]:
    """Coefficients of `curve` in the segments where that is so, of `otherwise`, of lower degree, in the others."""
    zero = [np.zeros_like(curve[0])] * (len(curve) - len(otherwise))
    return [np.where(where[:, None], c, o) for c, o in zip(curve, [*otherwise, *zero])]


class PositionController(_Controller):
    """forward_command_controller on a position interface: what it is given it passes on, for ever (no timeout)."""

    def command(self, values: Sequence[float]) -> None:
        if len(values) != len(self.joints):
            self.refuse(f"{len(values)} values for {len(self.joints)} joints ({', '.join(self.joints)})")
        self._accept(values)
        self._target = np.array(values, float)

    def hold(self, positions: Sequence[float]) -> None:
        super().hold(positions)
        self._target = self._position

    def advance(self, times: np.ndarray) -> Reference:
        still = np.zeros((len(times), len(self.joints)))
        return self._record(times, np.tile(self._target, (len(times), 1)), still, still)


@dataclass(frozen=True)
class GripperResult:
    """How a gripper goal ended, as in control_msgs/action/GripperCommand."""

    position: float
    stalled: bool
    reached_goal: bool


class GripperActionController(_Controller):
    """position_controllers/GripperActionController: one joint, one goal at a time, ended by arrival or by stalling."""

    def hold(self, positions: Sequence[float]) -> None:
        super().hold(positions)
        self._target, self._active, self._moved = float(self._position[0]), False, -math.inf

    def goal(self, position: float, *, now: float) -> None:
        """Go to `position`; a running goal is preempted."""
        self._accept([position])
        self._target, self._active, self._moved = float(position), True, now

    def advance(self, times: np.ndarray) -> Reference:
        still = np.zeros((len(times), 1))
        return self._record(times, np.full((len(times), 1), self._target), still, still)

    def check(self, position: float, velocity: float, *, now: float) -> GripperResult | None:
        """Given the measured joint: how the goal ended, or None while it runs (or where there is none)."""
        if not self._active:
            return None
        if abs(velocity) > STALL_VELOCITY:
            self._moved = now
        reached = abs(position - self._target) < GOAL_TOLERANCE
        stalled = now - self._moved > STALL_TIME
        self._active = not (reached or stalled)
        return None if self._active else GripperResult(position, stalled and not reached, reached)


class TwistController(_Controller):
    """A mecanum or omni drive controller: a stamped twist [vx, vy, wz], zero again once the stamp is too old."""

    def __init__(self, name: str, joints: Sequence[str] = ("vx", "vy", "wz"), *, timeout: float = TWIST_TIMEOUT):
        self.timeout = timeout
        super().__init__(name, joints, np.zeros(3))

    def hold(self, positions: Sequence[float] = (0.0, 0.0, 0.0)) -> None:
        super().hold(np.zeros(3))
        self._twist, self._stamp = np.zeros(3), -math.inf

    def command(self, twist: Sequence[float], *, stamp: float = 0.0, now: float) -> None:
        """A twist [m/s, m/s, rad/s]; `stamp` 0 counts as now, one older than the timeout is refused."""
        stamp = stamp or now
        if now - stamp > self.timeout:
            self.refuse(f"the twist is {now - stamp:.3f} s old, the limit is {self.timeout:.3f} s")
        self._accept(twist)
        self._twist, self._stamp = np.array(twist, float), stamp

    def leap(self, by: float) -> None:
        self._stamp += by

    def advance(self, times: np.ndarray) -> Reference:
        times = np.asarray(times, float)
        velocity = np.where((times - self._stamp <= self.timeout)[:, None], self._twist, 0.0)
        still = np.zeros_like(velocity)
        return self._record(times, still, velocity, still)
