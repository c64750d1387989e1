"""What goes wrong for a policy that is evaluated with `--disturb`: things are pushed away from the hand that comes for
them, and hands open by themselves while they carry."""

from __future__ import annotations

import math
import zlib

import numpy as np

from pi_policy_node.sim import Simulator
from pi_policy_node.sim.tasks import Task, View
from pi_policy_node.sim.tasks.view import HALF_WIDTH, hand_column

NEAR = 0.05, 0.12  # m between an open hand and the thing that is pushed
HIGH = 0.80  # m above the floor: a hand that carries
OPEN_FOR = 15  # rows
SAFE = np.array([0.50, 0.20])  # pushes go roughly towards here (y: to its own side), in the base's frame


class Mishaps:
    """One or two in an episode, at the first occasion, drawn from the task's seed."""

    def __init__(self, task: Task):
        self._rng = np.random.default_rng([zlib.crc32(task.family.encode()), task.seed, 77])
        self._left = [str(kind) for kind in self._rng.permutation(["nudge", "slip"])[: self._rng.integers(1, 3)]]
        self._column, self._until = 0, -1
        self.events: list[tuple[int, str]] = []  # row, what

    def happen(self, n: int, view: View, sim: Simulator) -> None:
        """Something may go wrong before row n."""
        held = view.held()
        for arm in view.tools:
            if "slip" in self._left and arm in held and view.tools[arm][2] > HIGH:
                self._column, self._until = hand_column(sim.robot, arm), n + OPEN_FOR
                self._had("slip", n)
            elif "nudge" in self._left and not held and view.openings[arm] > 0.6:
                self._nudge(n, arm, view, sim)

    def spoil(self, n: int, row: np.ndarray) -> np.ndarray:
        """The row that is really executed."""
        if n >= self._until:
            return row
        row = row.copy()
        row[self._column] = 1.0
        return row

    def _nudge(self, n: int, arm: str, view: View, sim: Simulator) -> None:
        things = {name: math.dist(t.position, view.tools[arm]) for name, t in view.things.items()
                  if t.kind in HALF_WIDTH}
        name = min(things, key=things.__getitem__, default="")
        if not name or not NEAR[0] < things[name] < NEAR[1]:
            return
        at = view.to_base(view.things[name].position)
        to = SAFE * [1, math.copysign(1, at[1])] - at[:2]
        angle = math.atan2(to[1], to[0]) + self._rng.uniform(-1.0, 1.0) + view.base[2]
        speed = self._rng.uniform(0.15, 0.25) if view.things[name].kind == "ball" else self._rng.uniform(0.3, 0.7)
        sim.physics.push(name, [speed * math.cos(angle), speed * math.sin(angle), 0.0])
        self._had("nudge", n)

    def _had(self, kind: str, n: int) -> None:
        self._left.remove(kind)
        self.events.append((n, kind))
