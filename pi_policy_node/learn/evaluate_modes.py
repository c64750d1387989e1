"""How a policy's chunks become commands, row by row, while the next answer is being thought out.

rtc       rows that run meanwhile are given to the policy, and its answer goes on from them, as in the graph
sync      the robot stands still until the answer is there, then does a part of it, then looks again
ensemble  nothing is given; each row is the mean of what all answers said of it

Rows are numbered from the begin of an episode; row n is due at n * dt.
"""

from __future__ import annotations

import math

import numpy as np

from pi_policy_node.policy.ahead import Chunk, committed
from pi_policy_node.policy.base import Prefix
from pi_policy_node.policy.delay import DelayTracker
from pi_policy_node.policy.loop import TRANSPORT
from pi_policy_node.robot import Robot

TASK = "task"  # an episode has only one


class Rtc:
    """Real-time chunking, with the rows committed by the rule of the policy node."""

    def __init__(self, robot: Robot, *, replan: int, delay: float):
        """replan: rows from one look to the next, at least. delay: s that an answer is thought to take at first."""
        self._robot, self._replan = robot, replan
        self._delays = DelayTracker(initial=math.ceil(delay / robot.dt - 1e-6), skip=0)
        self._last: Chunk | None = None
        self._looked = -replan
        self._stamp = 0.0  # s, of row 0 of the chunk that is being thought out

    def due(self, n: int) -> bool:
        """Whether it is time to look and to ask, given that nothing is being thought out."""
        return n - self._looked >= self._replan or self.row(n) is None

    def ask(self, n: int, state: np.ndarray) -> Prefix | None:
        """The policy is asked about this moment: what it is told of the rows that will run."""
        dt = self._robot.dt
        self._looked, now = n, n * dt
        until = max(now + self._delays.estimate() * dt, now + dt) + TRANSPORT - 1e-6  # of rounding
        self._stamp, prefix = committed(self._last, TASK, stamp=now, until=until, state=state, robot=self._robot)
        return prefix

    def answer(self, n: int, actions: np.ndarray) -> None:
        """What it said, ready at row n."""
        self._delays.consumed(n - self._looked)
        self._last = Chunk(self._stamp, actions, TASK, self._looked * self._robot.dt)

    def row(self, n: int) -> np.ndarray | None:
        """The row that is due; None: hold still."""
        if self._last is None:
            return None
        dt, last = self._robot.dt, self._last
        k = n - round(last.stamp / dt)
        seen = n * dt <= last.observed + self._robot.max_blind + 1e-9
        return last.rows[k] if 0 <= k < len(last.rows) and seen else None

    def forget(self) -> None:
        """The policy begins again."""
        self._last = None


class Ensemble(Rtc):
    """Temporal ensembling."""

    def __init__(self, robot: Robot, *, replan: int, delay: float):
        from pi_policy_node.policy.rtc import Ensemble as Mean

        super().__init__(robot, replan=replan, delay=delay)
        self._mean = Mean(dt=robot.dt)

    def ask(self, n: int, state: np.ndarray) -> None:
        self._looked, self._stamp = n, n * self._robot.dt

    def answer(self, n: int, actions: np.ndarray) -> None:
        super().answer(n, self._mean.add(self._stamp, actions))

    def forget(self) -> None:
        super().forget()
        self._mean.reset()


class Sync:
    """One answer after the other."""

    def __init__(self, robot: Robot, *, replan: int, delay: float):
        self._replan = replan
        self._rows: np.ndarray | None = None
        self._first = 0

    def due(self, n: int) -> bool:
        return self.row(n) is None

    def ask(self, n: int, state: np.ndarray) -> None:
        self._rows = None

    def answer(self, n: int, actions: np.ndarray) -> None:
        self._rows, self._first = actions[: self._replan], n

    def row(self, n: int) -> np.ndarray | None:
        return None if self._rows is None or n - self._first >= len(self._rows) else self._rows[n - self._first]

    def forget(self) -> None:
        self._rows = None


MODES = {"rtc": Rtc, "sync": Sync, "ensemble": Ensemble}


class Limits:
    """The robot's limits on position and speed, row by row, so that no answer makes the robot jump.

    A part of what the hardware bridge does: that also limits acceleration, jerk, the tools' speed and the workspace,
    and refuses chunks that begin elsewhere.
    """

    def __init__(self, robot: Robot, row: np.ndarray):
        self._robot, self._row = robot, np.array(row, float)
        self._change = np.where(robot.is_base, robot.acceleration, robot.velocity) * robot.dt
        self.limited = 0  # rows

    def row(self, wanted: np.ndarray | None) -> np.ndarray:
        """The row to be commanded now. None: hold still."""
        robot, before = self._robot, self._row
        if wanted is None:
            wanted = np.where(robot.is_base, 0.0, before)
        inside = np.clip(wanted, robot.lower, robot.upper)
        row = before + np.clip(inside - before, -self._change, self._change)
        self.limited += bool(np.any(np.abs(row - wanted) > 1e-6))
        self._row = row
        return row
