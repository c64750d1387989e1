"""Policies for tests of the harness: the scripted expert, which sees the world's true state, and one that fidgets."""

from __future__ import annotations

import copy

import numpy as np

from pi_policy_node.policy.base import Observation, Prefix, Result
from pi_policy_node.robot import Robot
from pi_policy_node.sim.expert import Act, Expert
from pi_policy_node.sim.tasks import look


class ExpertPolicy:
    """The scripted expert: plans as if all stood still but the hands, and goes on from where its last plan was cut."""

    cameras: tuple[str, ...] = ()

    def __init__(self, robot: Robot, *, horizon: int = 20):
        self.name, self.dt, self.horizon = "expert", robot.dt, horizon
        self._robot = robot
        self.sim = self.task = None  # set before an episode
        self.told: list[int] = []  # rows of each prefix
        self.played = horizon  # rows of a chunk at most

    def warm_up(self) -> None:
        pass

    def reset(self) -> None:
        self._expert = Expert(self._robot)
        self._plan: list[tuple[Expert, Act]] = []  # the expert before each row of the last chunk, and what it did
        self._first = 0  # number of the row that the last chunk began with

    def infer(self, obs: Observation, *, prefix: Prefix | None = None, deadline=None, cancel=None) -> Result:
        now = round(obs.stamp / self.dt)
        self.told.append(0 if prefix is None else len(prefix.rows))
        if self._plan and now > self._first:
            self._expert = self._plan[min(now - self._first, self.played, len(self._plan) - 1)][0]
        self._plan, self._first = [], now
        expert, view = copy.deepcopy(self._expert), look(self.sim)
        for _ in range(self.horizon):
            before = copy.deepcopy(expert)
            self._plan.append((before, expert.act(view, self.task)))
        return Result(np.array([act.row for _, act in self._plan]), self._plan[0][1].subtask.words)


class Fidget:
    """Moves at random around home, as its seed has it."""

    cameras = ("front_camera",)

    def __init__(self, robot: Robot, *, reach: float = 0.05):
        self.name, self.dt, self.horizon = "fidget", robot.dt, 20
        self._home, self._reach = robot.home, reach
        self.asked = 0

    def warm_up(self) -> None:
        self.reseed(0)

    def reseed(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def infer(self, obs: Observation, *, prefix: Prefix | None = None, deadline=None, cancel=None) -> Result:
        self.asked += 1
        rows = np.tile(self._home, (self.horizon, 1))
        rows[:, :6] += self._reach * self._rng.standard_normal(6)
        return Result(rows, subtask="fidget")

    def infer_batch(self, requests) -> list[Result]:
        return [self.infer(request.observation, prefix=request.prefix) for request in requests]
