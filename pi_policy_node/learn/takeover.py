"""Demonstrations of how to go on where a policy has got itself to: it begins, and after a while the expert takes over.

What an expert alone shows never holds the mistakes of the policy that learns from it. Only what the expert does is
kept; nothing is learnt from the policy's own rows.
"""

from __future__ import annotations

import numpy as np

from pi_policy_node.learn.evaluate_modes import Limits, Rtc
from pi_policy_node.learn.episodes import Episode
from pi_policy_node.learn.record import Recipe, Recorder
from pi_policy_node.policy.base import Observation
from pi_policy_node.policy.mini import MiniPolicy
from pi_policy_node.sim.physics import PhysicsError
from pi_policy_node.sim.tasks import Task

REPLAN = 10  # rows from one look to the next
SHORTEST, LONGEST = 1.0, 12.0  # s that the policy has the robot
LONGER = 2.5  # times that, for tasks of many goals


class Takeover(Recorder):
    """Records what the expert does after a policy. The recipe's `takeover` names its weights."""

    def __init__(self, recipe: Recipe):
        super().__init__(recipe)
        self._policy = MiniPolicy(self.robot, weights=recipe.takeover, seed=recipe.seed)
        if missing := set(self._policy.cameras) - set(recipe.cameras):
            raise ValueError(f"the policy needs {', '.join(sorted(missing))} among the cameras")
        self._policy.warm_up()
        self._task: Task | None = None

    def episode(self, task: Task) -> Episode | None:
        self._task = task
        try:
            return super().episode(task)
        except PhysicsError:  # of the policy's making
            return None

    def _elsewhere(self, rng: np.random.Generator) -> np.ndarray:
        """Lets the policy do the task for a while; the row that is commanded then."""
        task, robot = self._task, self.robot
        self._policy.reset()
        self._policy.reseed(task.seed)
        feed, limits = Rtc(robot, replan=REPLAN, delay=0.0), Limits(robot, robot.home)
        seconds = rng.uniform(SHORTEST, LONGEST * (LONGER if len(task.goals) > 1 else 1.0))
        row = robot.home.copy()
        for n in range(round(seconds / robot.dt)):
            if feed.due(n):
                state = self.sim.state()
                seen = Observation(self.images(), state, task.instruction, n * robot.dt)
                feed.answer(n, self._policy.infer(seen, prefix=feed.ask(n, state)).actions)
            row = limits.row(feed.row(n))
            self.sim.step(row)
        row = row.copy()
        row[robot.is_base] = 0.0
        return row
