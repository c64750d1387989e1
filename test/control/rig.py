"""A robot that does as it is told, a commander and a policy around a Bridge; every part can be made to misbehave."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pi_policy_node.control import Bridge, Chunk, Code, Mode, Output, Status
from pi_policy_node.robot import Robot

STEP = 0.02  # s
EPOCH = 1_700_000_000_000_000_000  # ns


class Rig:
    def __init__(self, robot: Robot, **options) -> None:
        self.robot = robot
        self.bridge = Bridge(robot, **options)
        self.time = 0.0  # s, both clocks
        self.clock_error = 0.0  # s that the node's clock is ahead of the steady one
        self.clock_runs = True
        self._now = EPOCH
        self.place = robot.home.copy()  # [A] measured
        self.follows = True  # the robot follows its commands
        self.joints = True  # joint_states are published
        self.stamp_error = 0.0  # s that their stamps are behind
        self.names: Callable[[dict], dict] = lambda joints: joints  # tampers with joint_states
        self.lease = ""
        self.issued = 0
        self.policy: Callable[[float], np.ndarray] | None = None  # rows by time; a chunk every 0.1 s
        self.person: Callable[[float], np.ndarray] | None = None
        self.sequence = 0
        self.output = Output(None, None, True)
        self.windows = []

    @property
    def now(self) -> int:
        if self.clock_runs:
            self._now = EPOCH + round((self.time + self.clock_error) * 1e9)
        return self._now

    @property
    def moment(self) -> dict:
        return {"now": self.now, "steady": self.time}

    @property
    def status(self) -> Status:
        return self.bridge.status(steady=self.time)

    def give(self, name: str = "a") -> None:
        """A task, renewed from now on."""
        self.lease, self.issued = name, self.now
        self.renew()

    def renew(self) -> None:
        self.bridge.on_instruction(self.lease, issued=self.issued, stamp=self.now, expiry=1.0, **self.moment)

    def chunk(self, rows: np.ndarray, *, person: bool = False, late: float = 0.0, old: float = 0.0, **changes) -> str:
        """Sends rows, the first of them due `late` s ago. Returns why they were refused."""
        self.sequence += 1
        fields = dict(source="test", sequence=self.sequence, instruction_id=self.lease, dt=self.robot.dt,
                      stamp=self.now - round(late * 1e9), observation_stamp=self.now - round(old * 1e9),
                      horizon=len(rows), names=list(self.robot.action_names), data=np.ravel(rows))
        return self.bridge.on_chunk(Chunk.read(self.robot, **(fields | changes)), person=person, **self.moment)

    def still(self, count: int = 50) -> np.ndarray:
        """Rows that stay here."""
        return np.tile(np.where(self.robot.is_base, 0.0, self.place), (count, 1))

    def step(self) -> None:
        """One tick: measure, renew, think, move."""
        self.time += STEP
        if self.joints:
            joints = self.names(self.robot.joints(self.place))
            self.bridge.on_joints(list(joints), list(joints.values()), **self.moment,
                                  stamp=self.now - round(self.stamp_error * 1e9))
            if self.robot.is_base.any():
                self.bridge.on_odom(self.place[self.robot.is_base], steady=self.time)
        tick = round(self.time / STEP)
        if self.lease and tick % 10 == 0:
            self.renew()
        if tick % 5 == 0:
            for rows, person in ((self.policy, False), (self.person, True)):
                if rows is not None:
                    self.chunk(np.stack([rows(self.time + STEP * k) for k in range(50)]), person=person)
        self.output = self.bridge.tick(**self.moment)
        if self.output.window is not None:
            self.windows.append(self.output.window)
        if self.follows and self.output.action is not None:
            self.place = self.output.action.copy()

    def run(self, seconds: float) -> Rig:
        for _ in range(round(seconds / STEP)):
            self.step()
        return self

    def until(self, condition: Callable[[Status], bool], limit: float = 2.0) -> float:
        """Steps until the status is as wanted; the seconds that took."""
        begin = self.time
        while not condition(self.status):
            assert self.time - begin < limit, f"not within {limit} s: {self.status}"
            self.step()
        return self.time - begin

    def reaches(self, mode: Mode, code: Code, limit: float = 2.0) -> float:
        return self.until(lambda s: (s.mode, s.code) == (mode, code), limit)

    def rests(self, limit: float = 1.0) -> float:
        return self.until(lambda s: s.at_rest, limit)

    def sway(self, size: float = 0.1) -> Callable[[float], np.ndarray]:
        """A smooth motion of the first arm joint, and of the base, from here on."""
        begin, place = self.time, np.where(self.robot.is_base, 0.0, self.place)

        def rows(time: float) -> np.ndarray:
            wave = 1 - np.cos(2 * np.pi * 0.4 * max(0.0, time - begin))
            row = place.copy()
            row[0] += size * wave
            if self.robot.is_base.any():
                row[np.flatnonzero(self.robot.is_base)[0]] = 0.1 * wave
            return row

        return rows

    def running(self) -> Rig:
        """In the middle of a motion."""
        self.run(0.2)
        self.give()
        self.policy = self.sway()
        self.reaches(Mode.RUNNING, Code.OK)
        return self.run(0.5)
