"""Between a policy's chunks and the simulated controllers, in lockstep: the hardware bridge itself, as in the graph.

What it makes of a plan (limits of acceleration and jerk, of the tools' speed, of the workspace; chunks that it refuses;
faults) is a part of what a policy has to live with, so it is a part of what policies are judged and taught by.
"""

from __future__ import annotations

import numpy as np

from pi_policy_node.control.bridge import Bridge
from pi_policy_node.control.modes import Mode
from pi_policy_node.control.report import Status
from pi_policy_node.control.timeline import Chunk as Message
from pi_policy_node.policy.ahead import Chunk
from pi_policy_node.robot import Kinematics, Robot
from pi_policy_node.sim import Simulator

TASK = "task"  # an episode has only one
BEGIN = 1.0  # s: the clock's word at row 0; at 0 it would not have begun
LEASE = 1.0  # s


class Hardware:
    """An episode's. Row n begins at n * dt."""

    def __init__(self, robot: Robot, sim: Simulator, row: np.ndarray, kinematics: Kinematics | None = None):
        """row: what the robot is commanded, at rest, to begin with."""
        self.bridge = Bridge(robot, kinematics=kinematics)
        self.bridge.shaper.start(-robot.dt, row)
        self.held = self.limited = 0  # rows without a plan in force, and rows that are not as it says
        self._robot, self._sim = robot, sim
        self._sequence = 0
        self.hear(0)

    @property
    def refused(self) -> int:
        """Chunks that the bridge would not have."""
        return sum(count for name, count in self.bridge.counters.items() if name.startswith("refused"))

    @property
    def resting(self) -> bool:
        """Whether it has the robot at rest."""
        return self.bridge.shaper.at_rest(self.bridge.clock.time)

    @property
    def status(self) -> Status:
        """What the bridge says."""
        return self.bridge.status(steady=self._now)

    def hear(self, n: int) -> None:
        """What the bridge is told of the robot and of the task before row n."""
        self._now = BEGIN + n * self._robot.dt
        now, physics = _ns(self._now), self._sim.physics
        names, positions, _, _ = physics.joint_state()
        base = physics.base()
        self.bridge.on_instruction(TASK, issued=_ns(BEGIN), stamp=now, expiry=LEASE, now=now, steady=self._now)
        self.bridge.on_joints(names, positions, stamp=now, now=now, steady=self._now)
        self.bridge.on_odom((base.vx, base.vy, base.wz), steady=self._now)

    def take(self, chunk: Chunk) -> str:
        """A chunk of the policy, its times counted from row 0. Returns why it was refused, or nothing."""
        self._sequence += 1
        message = Message("policy", self._sequence, TASK, _ns(BEGIN + chunk.stamp), _ns(BEGIN + chunk.observed),
                          self._robot.dt, np.array(chunk.rows, float))
        return self.bridge.on_chunk(message, now=_ns(self._now), steady=self._now)

    def row(self) -> np.ndarray:
        """[A] what the controllers come to by the end of this row."""
        self.bridge.tick(now=_ns(self._now), steady=self._now)
        running = self.status.mode == Mode.RUNNING
        self.held += not running
        self.limited += running and self.bridge.shaper.limited
        return self.bridge.shaper.command(self.bridge.clock.time + self._robot.dt)


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
