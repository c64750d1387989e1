"""A policy without a brain: it plays a smooth motion chosen by words of the prompt, from wherever the robot is.

It closes the loop where there is nothing to think yet, and is what a new robot is moved with for the first time.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pi_policy_node.policy.base import InputError, Observation, Prefix, Result, check_alive
from pi_policy_node.robot import Kinematics, Robot

MARGIN = 0.6  # of every limit that a motion uses; the rest is for braking out of the motion before
TOOL_MARGIN = 0.8  # of the limit of the tools' speed
LATE = 30  # rows, of 0.02 s: so much later than its look a first chunk may be played
STRAY = 0.02  # rad, m, m/s: fixed rows that are farther from the motion than this are not its own
SHORTEST, LONGEST = 1.0, 30.0  # s
GESTURE = (0.25, 0.20, -0.25, 0.30, 0.30, 0.40)  # rad, the arm joints' part in a wave, from the shoulder outwards
REACH = (0.30, 0.35, -0.35, 0.20, 0.20, 0.00)  # rad

WAVE = {"wave", "waving", "greet", "hello", "hi"}
HOME, TURN, LIFT, REACHING = {"home"}, {"turn", "rotate", "spin"}, {"raise", "lower", "lift"}, {"reach", "point"}
DRIVE = {"drive", "move", "go", "forward", "forwards", "back", "backward", "backwards"}
OPEN, CLOSE = {"open", "release"}, {"close", "grasp", "grip"}
KEEP = {"keep"}
KNOWN = WAVE | HOME | TURN | LIFT | REACHING | DRIVE | OPEN | CLOSE


def _words(text: str) -> tuple[str, ...]:
    return tuple("".join(c if c.isalnum() else " " for c in text.lower()).split())


# Shapes over the phase u = 0 .. 1, all with zero velocity and acceleration at both ends.


def step(u: np.ndarray) -> np.ndarray:
    """From 0 to 1 with the least jerk."""
    u = np.clip(u, 0.0, 1.0)
    return u**3 * (10 - 15 * u + 6 * u**2)


def bump(u: np.ndarray) -> np.ndarray:
    """From 0 to 1, a rest there, and back to 0."""
    return step(u / 0.4) * step((1 - u) / 0.4)


def swing(u: np.ndarray) -> np.ndarray:
    """Two swings to either side."""
    return np.sin(4 * np.pi * u) * step(u / 0.25) * step((1 - u) / 0.25)


@dataclass(frozen=True)
class Part:
    """One shape on some columns: offset(u) = amplitude * shape(u), relative to the start (base: a velocity)."""

    amplitude: np.ndarray  # [A]
    shape: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Motion:
    """A named sum of parts, `seconds` long unless a limit asks for longer."""

    name: str
    seconds: float
    parts: tuple[Part, ...]

    def offsets(self, u: np.ndarray) -> np.ndarray:
        """[n] phases -> [n, A]."""
        return sum(part.shape(u)[:, None] * part.amplitude for part in self.parts)


class ScriptedPolicy:
    """Plays one motion per task: wave (the default), reach, drive, turn, raise, lower, open, close, home.

    "keep waving" goes on until something else is said: that is how the command stream is measured.
    """

    name = "scripted"
    understood = "wave, reach, drive, turn, raise, lower, open, close and home, with left, right, forward or back"

    def __init__(self, robot: Robot) -> None:
        self.robot = robot
        self.dt = robot.dt
        self.horizon = robot.horizon
        self._kinematics = Kinematics(robot)
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """A new task begins: the next observation starts its motion."""
        with self._lock:
            self._prompt: str | None = None
            self._rows: np.ndarray | None = None  # [N, A], the whole motion
            self._again: np.ndarray | None = None  # [M, A], what is played after it, over and over
            self._begin = 0.0  # s, when row 0 of the motion was due
            self._unplayed = False  # that is not known yet: it was due when the answer was there
            self._name = ""

    def warm_up(self) -> None:
        """Plans one motion, from the home pose."""
        self._plan(self.choose("wave", self.robot.home), self.robot.home, np.zeros_like(self.robot.home))

    def infer(self, obs: Observation, *, prefix: Prefix | None = None, deadline: float | None = None,
              cancel: threading.Event | None = None) -> Result:
        """The next `horizon` rows of the motion; progress is the part of it that is over."""
        if not np.all(np.isfinite(obs.state)):
            raise InputError("the state is not finite")
        with self._lock:
            fixed = np.empty((0, len(obs.state))) if prefix is None else prefix.rows
            if self._rows is None or self._prompt != obs.prompt or prefix is None:
                self._start(obs, fixed)
            check_alive(deadline, cancel)
            first, apart = self._find(obs.stamp, fixed)
            if apart > STRAY:
                self._start(obs, fixed)
                first, _ = self._find(obs.stamp, fixed)
            if len(fixed) and self._unplayed:  # now it is known when row 0 of the first chunk was due
                self._begin, self._unplayed = obs.stamp - first * self.dt, False
            actions = self._played(first, self.horizon)
            actions[: len(fixed)] = fixed
            progress = math.nan if self._again is not None else min(first / (len(self._rows) - 1), 1.0)
            return Result(actions=actions, subtask="done" if progress == 1.0 else self._name, progress=progress)

    def unknown(self, text: str) -> tuple[str, ...]:
        """The words, unless one of them names a motion."""
        words = _words(text)
        return () if set(words) & KNOWN else words

    # ------------------------------------------------------------------------------------------------------- motions

    def choose(self, prompt: str, start: np.ndarray) -> Motion:
        """The motion that the words ask for, from a state [A]; a wave where they ask for nothing known."""
        words = set(_words(prompt))
        side = next((word for word in ("left", "right") if word in words), None)
        if words & HOME:
            return Motion("go home", 4.0, (Part(np.where(self.robot.is_base, 0, self.robot.home - start), step),))
        if words & DRIVE:
            return self._drive(words, side)
        if words & TURN:
            speed = 0.5 if side != "right" else -0.5
            return Motion(f"turn {side or 'left'}", 4.0, (Part(self._base(wz=speed), bump),))
        if words & (OPEN | CLOSE):
            target = 1.0 if words & OPEN else 0.0
            amplitude = np.where(self._columns("gripper", side), target - start, 0.0)
            return Motion(("open" if target else "close") + " the gripper", 1.5, (Part(amplitude, step),))
        if words & LIFT:
            up = not words & {"lower", "down"}
            amplitude = np.where(self._columns("lift"), 0.1 if up else -0.1, 0.0)
            return Motion("raise the lift" if up else "lower the lift", 3.0, (Part(self._room(amplitude, start), step),))
        if words & REACHING:
            amplitude = self._arms(REACH, start, side)
            return Motion(f"reach {side or 'out'}", 4.0, (Part(amplitude, bump),))
        arms = Part(self._arms(GESTURE, start, side), swing)
        rest = np.where(self._columns("lift"), self._room(np.where(self._columns("lift"), 0.06, 0.0), start), 0.0)
        rest = np.where(self._columns("gripper", side), np.where(start > 0.5, -0.6, 0.6), rest)
        sway = Part(self._base(wz=0.25), swing)
        return Motion("wave", 6.0, (arms, Part(rest, bump), sway))

    def _drive(self, words: set[str], side: str | None) -> Motion:
        speed = 0.5 * self.robot.base_speed
        if words & {"back", "backward", "backwards"}:
            return Motion("drive backward", 4.0, (Part(self._base(vx=-speed), bump),))
        if side is not None:
            return Motion(f"drive {side}", 4.0, (Part(self._base(vy=speed if side == "left" else -speed), bump),))
        return Motion("drive forward", 4.0, (Part(self._base(vx=speed), bump),))

    def _columns(self, kind: str, side: str | None = None) -> np.ndarray:
        """Mask [A] of the groups of a kind; of those on one side, where the robot has sides."""
        groups = [group for group in self.robot.groups if group.kind == kind]
        sided = [group for group in groups if side is not None and side in group.name]
        mask = np.zeros(len(self.robot.action_names), bool)
        for group in sided or groups:
            mask[group.columns] = True
        return mask

    def _arms(self, pattern: tuple[float, ...], start: np.ndarray, side: str | None) -> np.ndarray:
        amplitude = np.zeros(len(start))
        for group in self.robot.groups:
            if group.kind == "arm" and self._columns("arm", side)[group.columns].all():
                count = group.columns.stop - group.columns.start
                amplitude[group.columns] = np.resize(pattern, count)
        return self._room(amplitude, start)

    def _base(self, *, vx: float = 0.0, vy: float = 0.0, wz: float = 0.0) -> np.ndarray:
        amplitude = np.zeros(len(self.robot.action_names))
        amplitude[self.robot.is_base] = np.resize([vx, vy, wz], int(self.robot.is_base.sum()))
        return np.clip(amplitude, MARGIN * self.robot.lower, MARGIN * self.robot.upper) * self.robot.is_base

    def _room(self, amplitude: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Turns each column to the side where there is more room, and makes it fit with some to spare."""
        above, below = 0.8 * (self.robot.upper - start), 0.8 * (start - self.robot.lower)
        wanted = above if np.ndim(amplitude) == 0 else np.where(amplitude >= 0, above, below)
        other = np.where(amplitude >= 0, below, above)
        sign = np.where((wanted < np.abs(amplitude)) & (other > wanted), -1.0, 1.0)
        room = np.maximum(np.where(sign > 0, wanted, other), 0.0)
        return np.sign(amplitude) * sign * np.minimum(np.abs(amplitude), room)

    # ------------------------------------------------------------------------------------------------------ planning

    def _start(self, obs: Observation, fixed: np.ndarray) -> None:
        state = np.where(self.robot.is_base, 0.0, obs.state)
        if len(fixed) == 0:
            if self._rows is not None:
                # From a hold. A gripper that was told to close further than it could is holding something.
                squeezed = self.robot.is_gripper & (self._rows[-1] < state)
                state = np.where(squeezed, self._rows[-1], state)
            start, speed, begin = state, np.zeros_like(state), obs.stamp
            self._unplayed = True
        else:
            start = fixed[-1]
            speed = (fixed[-1] - fixed[-2]) / self.dt if len(fixed) > 1 else np.zeros_like(start)
            begin = obs.stamp + (len(fixed) - 1) * self.dt
            self._unplayed = False
        motion = self.choose(obs.prompt, np.where(self.robot.is_base, 0.0, start))
        rows, self._again = self._plan(motion, start, speed), None
        if KEEP & set(_words(obs.prompt)):
            again = self._plan(motion, rows[-1], np.zeros_like(start))[1:]
            self._again = again if np.allclose(again[-1], rows[-1]) else None  # it must end where it begins
        self._rows = np.concatenate([fixed[:-1], rows])
        self._begin = begin - max(len(fixed) - 1, 0) * self.dt
        self._prompt, self._name = obs.prompt, motion.name

    def _plan(self, motion: Motion, start: np.ndarray, speed: np.ndarray) -> np.ndarray:
        """[N, A]: brakes out of `speed` (base: out of the start velocity) while the motion begins."""
        amplitude, seconds = 1.0, motion.seconds
        still = np.where(self.robot.is_base, 0.0, start)
        phases = np.linspace(0, 1, 201)
        for _ in range(6):  # smaller until the tools stay inside; they may start outside, then it is the bridge's say
            if self._inside(still + amplitude * motion.offsets(phases)) or not self._inside(still[None]):
                break
            amplitude *= 0.6
        seconds = np.clip(seconds * self._stretch(still, amplitude * motion.offsets(phases), seconds), SHORTEST, LONGEST)
        times = np.arange(int(np.ceil(seconds / self.dt)) + 1) * self.dt
        return self._brake(start, speed, times) + amplitude * motion.offsets(times / times[-1])

    def _brake(self, start: np.ndarray, speed: np.ndarray, times: np.ndarray) -> np.ndarray:
        base = self.robot.is_base
        change = np.where(base, start, speed)  # what has to go to zero, per column
        limit = np.maximum(MARGIN * self.robot.acceleration, 1e-9)
        longest = max(float(np.max(1.9 * np.abs(change) / limit)), 2 * self.dt)
        u = np.clip(times / longest, 0, 1)[:, None]
        # A velocity that falls as 1 - step(u), and its integral: u - (2.5 u^4 - 3 u^5 + u^6).
        falling, way = 1 - step(u), u - (2.5 * u**4 - 3 * u**5 + u**6)
        return np.where(base, start * falling, start + speed * longest * way)

    def _stretch(self, still: np.ndarray, offsets: np.ndarray, seconds: float) -> float:
        """How many times longer the motion must take to keep within the limits."""
        h = seconds / (len(offsets) - 1)
        rates = [np.abs(np.diff(offsets, n=n, axis=0)).max(axis=0) / h**n for n in (1, 2, 3)]
        robot, base = self.robot, self.robot.is_base
        factor = 1.0
        for order, (rate, limit) in enumerate(zip(rates, (robot.velocity, robot.acceleration, robot.jerk)), start=1):
            factor = max(factor, float(np.max(np.where(base, 0, rate / (MARGIN * limit)) ** (1 / order))))
        for order, (rate, limit) in enumerate(zip(rates, (robot.acceleration, robot.jerk)), start=1):
            factor = max(factor, float(np.max(np.where(base, rate / (MARGIN * limit), 0) ** (1 / order))))
        for points in self._kinematics.tools(still + np.where(base, 0, offsets)).values():
            speed = float(np.linalg.norm(np.diff(points, axis=0), axis=-1).max()) / h
            factor = max(factor, speed / (TOOL_MARGIN * robot.tool_speed))
        return factor

    def _inside(self, rows: np.ndarray) -> bool:
        low, high = self.robot.workspace
        return all(bool(np.all((points >= low) & (points <= high))) for points in self._kinematics.tools(rows).values())

    def _played(self, first: int, count: int) -> np.ndarray:
        """[count, A] of the motion from a row on; after its end it stays there, or begins again."""
        rows, at = self._rows, np.arange(first, first + count)
        if self._again is None:
            return rows[np.minimum(at, len(rows) - 1)]
        after = self._again[(at - len(rows)) % len(self._again)]
        return np.where((at < len(rows))[:, None], rows[np.minimum(at, len(rows) - 1)], after)

    def _find(self, stamp: float, fixed: np.ndarray) -> tuple[int, float]:
        """The row of the motion that row 0 of the chunk is: by the clock, and exactly by the rows that are fixed.

        And how far these are from the motion: another policy may have made them.
        """
        guess = max(int(round((stamp - self._begin) / self.dt)), 0)
        if len(fixed) == 0:
            return guess, 0.0
        near = [i for i in range(guess - (LATE if self._unplayed else 2), guess + 3) if i >= 0]
        error = [np.abs(self._played(i, len(fixed)) - fixed).max() for i in near]
        return near[int(np.argmin(error))], float(min(error))
