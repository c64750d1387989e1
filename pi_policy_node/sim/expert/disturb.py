"""What goes wrong in a demonstration, drawn from a seed: a policy that never saw a mistake cannot mend one.

late     the robot does not move for a while at first
wander   the hand is pushed aside while it works
nudge    the thing that is about to be gripped is pushed away
slip     the hand opens by itself while it carries
"""

from __future__ import annotations

import math

import numpy as np

from pi_policy_node.robot import Robot
from pi_policy_node.sim.expert.expert import Act, Expert
from pi_policy_node.sim.simulator import Simulator
from pi_policy_node.sim.tasks.view import View, hand_column

KINDS = ("late", "wander", "nudge", "slip")
_SAFE = np.array([0.50, 0.22])  # a nudge goes roughly towards here (y: to its own side), in the base's frame


class Disturbances:
    """For one episode. `events` says at which step what happened."""

    def __init__(self, rng: np.random.Generator, *, count: int):
        self.events: list[tuple[int, str]] = []
        self._rng = rng
        drawn = [str(kind) for kind in rng.choice(KINDS, count, p=(0.1, 0.35, 0.3, 0.25))]
        self._late = int(rng.integers(10, 50)) if "late" in drawn else 0
        self._queue = [kind for kind in drawn if kind != "late"]
        self._wait = self._delay()
        self._push, self._open, self._until = None, "", 0

    def late(self, step: int) -> bool:
        """Whether the robot still stands."""
        if step == 0 and self._late:
            self.events.append((0, "late"))
        return step < self._late

    def before(self, step: int, view: View, expert: Expert, doing: str, sim: Simulator) -> np.ndarray | None:
        """May push a thing of the scene; returns a push of the hand, if there is one now."""
        if step >= self._until:
            self._push, self._open = None, ""
        self._wait -= 1
        arm = expert.active
        if self._queue and self._wait <= 0 and arm:
            if self._start(step, self._queue[0], view, arm, doing, sim):
                self.events.append((step, self._queue.pop(0)))
                self._wait = self._delay()
        return self._push

    def after(self, robot: Robot, act: Act) -> np.ndarray:
        """The row that is really executed."""
        if not self._open:
            return act.row
        row = act.row.copy()
        row[hand_column(robot, self._open)] = 1.0
        return row

    @property
    def acting(self) -> bool:
        """Whether what the robot does now is not what the expert would."""
        return self._push is not None or bool(self._open)

    def _start(self, step: int, kind: str, view: View, arm: str, doing: str, sim: Simulator) -> bool:
        rng = self._rng
        holds = view.held().get(arm)
        if kind == "wander" and doing in ("pick", "place", "drawer"):
            angle = rng.uniform(-math.pi, math.pi)
            self._push = rng.uniform(0.2, 0.4) * np.array([math.cos(angle), math.sin(angle), 0.5 * rng.random()])
            self._until = step + int(rng.integers(10, 30))
            return True
        if kind == "slip" and doing == "place" and holds and view.tools[arm][2] > 0.80:
            self._open, self._until = arm, step + 15
            return True
        if kind == "nudge" and doing == "pick" and not holds:
            near = {name: float(np.linalg.norm(t.position - view.tools[arm])) for name, t in view.things.items()}
            name = min(near, key=near.__getitem__)
            if not 0.04 < near[name] < 0.14 or view.openings[arm] < 0.6:
                return False
            at = view.to_base(view.things[name].position)
            to = _SAFE * [1, math.copysign(1, at[1])] - at[:2]
            angle = math.atan2(to[1], to[0]) + rng.uniform(-1.0, 1.0) + view.base[2]
            speed = rng.uniform(0.15, 0.25) if view.things[name].kind in ("ball",) else rng.uniform(0.3, 0.7)
            sim.physics.push(name, [speed * math.cos(angle), speed * math.sin(angle), 0.0])
            return True
        return False

    def _delay(self) -> int:
        """Steps until the next one may come."""
        return int(self._rng.integers(20, 120))
