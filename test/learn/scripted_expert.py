"""The scripted expert as a policy, for tests of the harness: it sees the world's true state instead of pictures."""

from __future__ import annotations

import copy

import numpy as np

from pi_policy_node.policy.base import Observation, Prefix, Result
from pi_policy_node.robot import Robot
from pi_policy_node.sim.expert import Act, Expert
from pi_policy_node.sim.tasks import look


class ExpertPolicy:
    """Plans as if the world stood still but for the hands, and goes on from wherever it was when the plan was cut."""

    cameras: tuple[str, ...] = ()

    def __init__(self, robot: Robot, *, horizon: int = 20):
        self.name, self.dt, self.horizon = "expert", robot.dt, horizon
        self._robot = robot
        self.sim = self.task = None  # set before an episode
        self.told: list[int] = []  # rows of each prefix

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
            self._expert = self._plan[min(now - self._first, len(self._plan) - 1)][0]
        self._plan, self._first = [], now
        expert, view = copy.deepcopy(self._expert), look(self.sim)
        for _ in range(self.horizon):
            before = copy.deepcopy(expert)
            self._plan.append((before, expert.act(view, self.task)))
        done = self._plan[0][1].subtask.kind == "done" and self._plan[0][1].finished
        rows = np.array([a.row for _, a in self._plan])
        return Result(rows, "done" if done else self._plan[0][1].subtask.words.replace("done", "finish"), 1.0 * done)
