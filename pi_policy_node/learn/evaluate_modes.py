"""When a policy is asked, and what of its answers is played while the next one is being thought out.

rtc       rows that run meanwhile are given to the policy, and its answer goes on from them, as in the graph
sync      the robot comes to rest and stands until the answer is there, then does a part of it, then looks again
ensemble  nothing is given; each row is the mean of what all answers said of it

Rows are numbered from the begin of an episode; row n is due at n * dt.
"""

from __future__ import annotations

import math

import numpy as np

from pi_policy_node.learn.hardware import TASK
from pi_policy_node.policy.ahead import Chunk, committed
from pi_policy_node.policy.base import Prefix
from pi_policy_node.policy.delay import DelayTracker
from pi_policy_node.policy.loop import TRANSPORT
from pi_policy_node.robot import Robot


class Rtc:
    """Real-time chunking, with the rows committed by the rule of the policy node."""

    def __init__(self, robot: Robot, *, replan: int, delay: float):
        """replan: rows from one look to the next, at least. delay: s that an answer is thought to take at first."""
        self._robot, self._replan = robot, replan
        self._delays = DelayTracker(initial=math.ceil(delay / robot.dt - 1e-6), skip=0)
        self._last: Chunk | None = None
        self._looked = -replan
        self._stamp: float | None = None  # s, of row 0 of the chunk that is being thought out; None: when it is there

    def due(self, n: int, *, resting: bool) -> bool:
        """Whether it is time to look and to ask, given that nothing is being thought out. resting: the robot is."""
        return n - self._looked >= self._replan or self._over(n)

    def ask(self, n: int, state: np.ndarray) -> Prefix | None:
        """The policy is asked about this moment: what it is told of the rows that will run."""
        dt = self._robot.dt
        self._looked, now = n, n * dt
        until = max(now + self._delays.estimate() * dt, now + dt) + TRANSPORT - 1e-6  # of rounding
        goes_on = committed(self._last, TASK, stamp=now, until=until, state=state, robot=self._robot)
        self._stamp, prefix = goes_on or (None, None)
        return prefix

    def answer(self, n: int, actions: np.ndarray) -> Chunk:
        """What it said, ready at row n -> what is to be played."""
        self._delays.consumed(n - self._looked)
        dt = self._robot.dt
        stamp = n * dt if self._stamp is None else self._stamp
        self._last = Chunk(stamp, actions, TASK, self._looked * dt)
        return self._last

    def _over(self, n: int) -> bool:
        """Whether nothing is left to be played."""
        if self._last is None:
            return True
        dt, last = self._robot.dt, self._last
        blind = n * dt > last.observed + self._robot.max_blind + 1e-9
        return blind or n - round(last.stamp / dt) >= len(last.rows)

    def forget(self) -> None:
        """The policy begins again. What is committed runs on."""


class Ensemble(Rtc):
    """Temporal ensembling."""

    def __init__(self, robot: Robot, *, replan: int, delay: float):
        from pi_policy_node.policy.rtc import Ensemble as Mean

        super().__init__(robot, replan=replan, delay=delay)
        self._mean = Mean(dt=robot.dt)

    def ask(self, n: int, state: np.ndarray) -> None:
        self._looked, self._stamp = n, n * self._robot.dt

    def answer(self, n: int, actions: np.ndarray) -> Chunk:
        if self._over(n):  # it rests
            self._stamp = n * self._robot.dt
        return super().answer(n, self._mean.add(self._stamp, actions))

    def forget(self) -> None:
        self._mean.reset()


class Sync:
    """One answer after the other."""

    def __init__(self, robot: Robot, *, replan: int, delay: float):
        self._robot, self._replan = robot, replan
        self._looked = 0
        self._end = 0  # row, behind what is to be played

    def due(self, n: int, *, resting: bool) -> bool:
        return n >= self._end and resting

    def ask(self, n: int, state: np.ndarray) -> None:
        self._looked = n

    def answer(self, n: int, actions: np.ndarray) -> Chunk:
        rows = actions[: self._replan]
        self._end = n + len(rows)
        return Chunk(n * self._robot.dt, rows, TASK, self._looked * self._robot.dt)

    def forget(self) -> None:
        self._end = 0


MODES = {"rtc": Rtc, "sync": Sync, "ensemble": Ensemble}
