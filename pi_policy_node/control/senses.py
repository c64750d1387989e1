"""What is measured: joints, base velocity, what camera_ingest says of the cameras; and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pi_policy_node.control.clock import StampWatch
from pi_policy_node.control.modes import Cause, Code
from pi_policy_node.control.shaper import Shaper
from pi_policy_node.robot import Robot, RobotError

OWN_STALL = 0.05  # s: of a longer gap between two ticks, only this much is held against the robot
CAMERA_PATIENCE = 0.3  # s that a camera may be in trouble before it is a fault: one image that is late is none
TRACKING_TIME = 0.1  # s for which a joint must be too far from its command
SAME_GRIP = 0.05  # of a gripper's range: measured this near to where it was, it still holds what it held
SETTLED = 0.01  # rad or m between two measurements a little apart, below which the robot stands still


class Silence:
    """How long something has been silent, as far as this process was awake to hear it. On the steady clock."""

    def __init__(self) -> None:
        self.heard = False
        self._silent = 0.0
        self._last: float | None = None

    def hear(self, steady: float) -> None:
        self.heard, self._silent, self._last = True, 0.0, steady

    def tick(self, steady: float) -> float:
        if self._last is not None:
            self._silent += min(max(0.0, steady - self._last), OWN_STALL)
        self._last = steady
        return self._silent


class Senses:
    """Takes note, and says what is wrong when asked."""

    def __init__(self, robot: Robot) -> None:
        self._robot = robot
        self._has_base = bool(robot.is_base.any())
        self.state: np.ndarray | None = None  # [A] newest good measurement
        self.clock = StampWatch(robot.clock_tolerance)
        self._time = 0.0  # s on the time line, of the newest joints
        self._positions: np.ndarray | None = None  # [A] of joints alone
        self._before = (-1.0, np.zeros(len(robot.action_names)))  # steady, positions a little earlier
        self.settled = False  # whether the robot stands still
        self._twist = np.zeros(3)
        self._malformed = ""
        self._joint_silence, self._odom_silence = Silence(), Silence()
        self._silent = (0.0, 0.0)
        self._lasting: set[str] = set()
        self._far_since: float | None = None
        self._cameras: dict[str, tuple[str, Silence]] = {}  # required ones that have a problem, and since when

    def joints(self, names: Sequence[str], positions: Sequence[float], *, time: float, age: float, steady: float) -> None:
        """`time` of the measurement on the time line, its `age` by our clock; both s."""
        self._joint_silence.hear(steady)
        self.clock.add(age, steady)
        try:
            measured = self._robot.state(names, positions)
        except RobotError as error:
            self._malformed = error.message
            return
        self._malformed = ""
        self._positions, self._time = measured, time
        if steady - self._before[0] > 0.1:
            moved = np.abs(measured - self._before[1])[~self._robot.is_base]
            self.settled = bool((moved < SETTLED).all())
            self._before = steady, measured
        self._join()

    def odom(self, twist: Sequence[float], *, steady: float) -> None:
        if np.isfinite(twist).all():
            self._odom_silence.hear(steady)
            self._twist = np.array(twist, dtype=float)
            self._join()

    def camera(self, name: str, problem: str) -> None:
        if any(camera.name == name and camera.required for camera in self._robot.cameras):
            if problem:
                self._cameras[name] = problem, self._cameras[name][1] if name in self._cameras else Silence()
            else:
                self._cameras.pop(name, None)

    def _join(self) -> None:
        if self._positions is not None and (self._odom_silence.heard or not self._has_base):
            self.state = self._positions.copy()
            self.state[self._robot.is_base] = self._twist[: int(self._robot.is_base.sum())]

    def tick(self, steady: float) -> None:
        self._silent = self._joint_silence.tick(steady), self._odom_silence.tick(steady)
        self._lasting = {name for name, (_, trouble) in self._cameras.items() if trouble.tick(steady) > CAMERA_PATIENCE}

    def problem(self) -> Cause | None:
        """What is wrong with joints, odometry or their clock."""
        limit = self._robot.joint_state_timeout
        if self._malformed:
            return Cause(Code.JOINTS_MALFORMED, f"joint_states {self._malformed}")
        if not self._joint_silence.heard:
            return Cause(Code.STARTING, "waiting for joint_states")
        if self._silent[0] > limit:
            return Cause(Code.JOINTS_STALE, f"joint_states silent for {self._silent[0]:.2f} s; the limit is {limit:g} s")
        if self._has_base:
            if not self._odom_silence.heard:
                return Cause(Code.STARTING, "waiting for odom")
            if self._silent[1] > limit:
                return Cause(Code.JOINTS_STALE, f"odom silent for {self._silent[1]:.2f} s; the limit is {limit:g} s")
        apart = self.clock.disagreement()
        if apart is not None:
            return Cause(Code.CLOCK, f"stamps of joint_states are {abs(apart) * 1e3:.0f} ms {'behind' if apart > 0 else 'ahead of'} "
                                     f"our clock; the limit is {self._robot.clock_tolerance * 1e3:.0f} ms")
        return None

    def blind(self, *, lasting: bool = False) -> str:
        """Required cameras with a problem, in words; only with one that lasts, if so asked."""
        names = sorted(self._cameras if not lasting else self._lasting & self._cameras.keys())
        return "; ".join(f"{name}: {self._cameras[name][0]}" for name in names)

    def apart(self, shaper: Shaper) -> np.ndarray:
        """[A] how far the joints are from where they were to be when they were measured."""
        return np.abs(shaper.command(self._time) - self.state)

    def tracking_fault(self, shaper: Shaper) -> Cause | None:
        """A joint that has been too far from its command for too long, by the joints' own stamps."""
        apart = self.apart(shaper)
        far = apart > self._robot.tracking_tolerance
        if not far.any():
            self._far_since = None
            return None
        if self._far_since is None:
            self._far_since = self._time
        if self._time - self._far_since < TRACKING_TIME:
            return None
        worst = int(np.argmax(np.where(far, apart / self._robot.tracking_tolerance, 0.0)))
        return Cause(Code.TRACKING_ERROR, f"{self._robot.action_names[worst]} is {apart[worst]:.3f} from its command; "
                                          f"the tolerance is {self._robot.tracking_tolerance[worst]:g}")

    def expected(self, command: np.ndarray) -> np.ndarray:
        """[A] where the robot is; its grippers are taken to be where they were told to be, as they may be squeezing."""
        return command if self.state is None else np.where(self._robot.is_gripper, command, self.state)


class Grip:
    """What the grippers were told before a restart: one that holds something must go on squeezing it."""

    def __init__(self, robot: Robot) -> None:
        self._robot = robot
        self._command = self._measured = np.full(len(robot.action_names), np.nan)

    def remember(self, command: np.ndarray, measured: np.ndarray) -> None:
        self._command, self._measured = command, measured

    def place(self, measured: np.ndarray) -> np.ndarray:
        """[A] where the robot is; grippers that have not moved since are where they were told to be."""
        kept = self._robot.is_gripper & (np.abs(measured - self._measured) < SAME_GRIP)
        return np.where(kept, self._command, measured)
