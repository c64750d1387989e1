"""Follows a plan within the limits, window by window.

What keeps this safe is one rule: **a window is sent only if it was checked densely, tail and all, against every limit;
otherwise nothing is sent, and the window before, which was checked too, goes on and comes to rest.** How a window is
made matters for how well the plan is followed, not for safety. It is made so: of all windows from the present state,
the one that reaches the plan's state in `blend` seconds is wished for, and the one that goes on braking is known to be
good. A window's whole course is linear in its aim, so the limits say in closed form how far the aim may be moved from
braking towards the wish.
"""

from __future__ import annotations

from collections import Counter, deque

import numpy as np

from pi_policy_node.control.limits import DERIVATIVES, Limits
from pi_policy_node.control.window import Window, free_position
from pi_policy_node.robot import Kinematics, Robot

TRIES = 4  # a tool's place is not linear in the joints: so often is the aim moved back a little more
CATCH_UP = 0.2  # s in which to make up for what the plan is ahead
BRAKES = (0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 1.25)  # parts of the rest time, the quickest first


class Shaper:
    """The reference that the controllers follow, and the only one who changes it. Times in s, states [3, A]."""

    def __init__(self, robot: Robot, *, kinematics: Kinematics | None = None, counters: Counter[str] | None = None) -> None:
        self.limits = Limits(robot, kinematics)
        self.blend = robot.window
        self.tail = self.limits.rest_time
        self.counters = Counter() if counters is None else counters
        self.limited = False  # whether the last `follow` could not go all the way
        self._base = robot.is_base
        self._windows: deque[Window] = deque(maxlen=64)

    def clear(self) -> None:
        """Nothing is known of the controllers."""
        self._windows.clear()
        self.limited = False

    def start(self, time: float, position: np.ndarray) -> None:
        """The controllers are taken to be at rest here."""
        self._windows.clear()
        self._windows.append(Window.rest(time, np.where(self._base, 0.0, position)))

    @property
    def window(self) -> Window | None:
        """The one in force; None before `start`."""
        return self._windows[-1] if self._windows else None

    def reference(self, time: float) -> np.ndarray:
        """[3, A] at a time: now, a little ahead, or up to a second ago."""
        for window in reversed(self._windows):
            if window.time <= time:
                return window.state(time)
        return self._windows[0].state(time)

    def command(self, time: float) -> np.ndarray:
        """[A] the reference in the units of the action: the base's columns are velocities."""
        state = self.reference(time)
        return np.where(self._base, state[1], state[0])

    def at_rest(self, time: float) -> bool:
        return time >= self._windows[-1].end

    def follow(self, now: float, plan: np.ndarray, present: np.ndarray) -> Window | None:
        """The next window towards the plan's state [3, A] at now + blend (the base's: velocity, its slope, unused).

        Columns that cannot be there by then chase the plan as it is now, `present`: a step of the plan, such as a
        gripper's, must not begin before its time.
        """
        start = self._state(now)
        brake = self._brake_aim(now, start)
        wish = self._wish(start, plan)
        aim, rooms = self._towards(now, start, brake, wish)
        late = rooms.min(axis=0) < 1.0  # columns that cannot be where the plan is by then
        if late.any():
            chase, _ = self._towards(now, start, brake, self._chase(start, self._wish(start, present)))
            aim = np.where(late & ~self._base, chase, aim)
        self.limited = bool(late.any())
        for name, values in zip(DERIVATIVES, rooms):
            self.counters[f"limited_{name}"] += bool((values < 1.0).any())
        window = self._checked(Window(now, start, brake, self.blend, self.tail), aim)
        if window is not None:
            self._windows.append(window)
        return window

    def _brake_aim(self, now: float, start: np.ndarray) -> np.ndarray:
        """[3, A] where braking leads within `blend`: what every wish is moved back towards.

        A new tail from there coasts a little further than the one in force. Columns for which that is too far, at the
        end of their range, are at rest by then instead, or nearly, if they are slow enough.
        """
        brake = self.window.state(now + self.blend)
        brake[0, self._base] -= self.window.state(now)[0, self._base]
        far = self.limits.joint_excess(Window(now, start, brake, self.blend, self.tail).samples()[1])[0]
        if far.any():
            still = np.zeros_like(brake)
            still[0] = free_position(start, still[1], still[2], self.blend)
            samples = Window(now, start, still, self.blend, self.tail).samples()[1]
            nearly, _ = self._towards(now, start, still, brake)
            brake = np.where(far & ~self.limits.joint_excess(samples).any(axis=0), nearly, brake)
        return brake

    def _towards(self, now: float, start: np.ndarray, brake: np.ndarray, wish: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The aim [3, A] nearest to the wish, column by column, between it and braking; and the room [4, A] there was."""
        samples = [Window(now, start, aim, self.blend, self.tail).samples()[1] for aim in (brake, wish)]
        rooms = self.limits.joint_room(*samples)
        return brake + rooms.min(axis=0) * (wish - brake), rooms

    def _chase(self, start: np.ndarray, wish: np.ndarray) -> np.ndarray:
        """A velocity that catches up with the plan as it is now, and the place where it leads."""
        behind = wish[0] - start[0]
        chase = np.zeros_like(wish)
        top = self.limits.soft_high[1, 0]
        chase[1] = np.clip(wish[1] + behind / CATCH_UP, -top, top)
        chase[0] = free_position(start, chase[1], chase[2], self.blend)
        return chase

    def _wish(self, start: np.ndarray, plan: np.ndarray) -> np.ndarray:
        low, high = self.limits.soft_low[:, 0], self.limits.soft_high[:, 0]  # [4, A]
        wish = np.where(self._base, np.concatenate([plan[:1], plan[:2]]), plan)  # the base's plan begins at velocity
        wish = np.nan_to_num(wish, posinf=1e6, neginf=-1e6)
        wish[1:] = np.clip(wish[1:], low[1:3], high[1:3])
        wish[0] = np.clip(wish[0], np.minimum(low[0], start[0]), np.maximum(high[0], start[0]))
        at_end = ((wish[0] >= high[0]) & (wish[1] > 0.0)) | ((wish[0] <= low[0]) & (wish[1] < 0.0))
        wish[1:, at_end] = 0.0
        wish[0, self._base] = free_position(start, wish[1], wish[2], self.blend)[self._base]
        return wish

    def _checked(self, brake: Window, aim: np.ndarray) -> Window | None:
        """The window to this aim, or as far from braking towards it as tools and base may go; None if that fails."""
        braking = None
        blamed: set[str] = set()
        for _ in range(TRIES):
            window = Window(brake.time, brake.start, aim, brake.blend, brake.tail)
            motion = self.limits.motion(window)
            broken = self.limits.broken(motion)
            if not broken:
                break
            if braking is None:
                braking = self.limits.motion(brake)
            rooms = self.limits.tool_room(braking, motion)
            blamed |= {name for name, part in rooms.items() if part < 1.0}
            aim = brake.aim + 0.98 * min(rooms.values()) * (aim - brake.aim)
        else:
            window = None
            self.counters["window_withheld"] += 1
        for name in blamed:
            self.counters[f"limited_{name}"] += 1
        self.limited = self.limited or bool(blamed) or window is None
        return window

    def brake(self, now: float) -> Window | None:
        """Comes to rest as soon as the limits allow. None: what is being followed does that already."""
        if self.at_rest(now):
            return None
        start = self._state(now)
        for part in BRAKES:
            window = Window(now, start, start, 0.0, part * self.tail)
            if window.end >= self.window.end:
                return None
            if not self.limits.broken(self.limits.motion(window)):
                self._windows.append(window)
                return window
        return None

    def ease(self, now: float, position: np.ndarray) -> Window | None:
        """From rest to rest at another position [A]: where the robot already is, while its controllers want elsewhere."""
        start = self._state(now)
        aim = np.where(self._base, 0.0, position) * np.array([1.0, 0.0, 0.0])[:, None]
        for blend in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0):
            window = Window(now, start, aim, blend, 1e-2)
            if not self.limits.broken(self.limits.motion(window)):
                self._windows.append(window)
                return window
        return None

    def _state(self, now: float) -> np.ndarray:
        state = self.window.state(now)
        state[0, self._base] = 0.0  # counted from the start of each window
        return state
