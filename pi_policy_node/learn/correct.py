"""Corrections: a policy does the task, and wherever it looks the expert says what it would do from there.

What an expert alone shows never holds the mistakes of the policy that learns from it. At every look the world is kept,
the expert acts for as long as a chunk takes, and the world is put back; nothing is learnt from the policy's own rows.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pi_policy_node.learn.episodes import Episode, encode
from pi_policy_node.learn.evaluate_modes import Rtc
from pi_policy_node.learn.hardware import Hardware
from pi_policy_node.learn.record import Recipe, Recorder
from pi_policy_node.policy.base import InputError, Observation
from pi_policy_node.policy.mini import MiniPolicy
from pi_policy_node.sim.expert.disturb import Disturbances
from pi_policy_node.sim.expert.expert import Act
from pi_policy_node.sim.physics import PhysicsError
from pi_policy_node.sim.tasks import Task, View, look
from pi_policy_node.sim.tasks.goals import Subtask

LONGEST = 20.0  # s that the policy has for a task of one goal
LONGER = 2.5  # times that for one of several
LINGER = 1.0  # s for which it is looked at after all is done
LATE = 5  # rows from a look to its answer, as in the graph


class Piece(NamedTuple):
    """What the expert would do from a moment on."""

    subtask: Subtask  # to begin with
    states: list[np.ndarray]
    rows: list[np.ndarray]
    words: list[str]
    arms: list[int]


class Corrector(Recorder):
    """Records corrections. The recipe's `correct` names the policy's weights; it is looked at every `every` rows."""

    def __init__(self, recipe: Recipe):
        super().__init__(recipe)
        self.policy = MiniPolicy(self.robot, weights=recipe.correct, seed=recipe.seed)
        if missing := set(self.policy.cameras) - set(recipe.cameras):
            raise ValueError(f"the policy needs {', '.join(sorted(missing))} among the cameras")
        self.policy.warm_up()
        shape = self.policy.model.shape
        self.count = round((shape.knots - 1) * shape.knot / self.robot.dt) + 1  # rows that a chunk takes

    def episode(self, task: Task) -> Episode | None:
        rng = np.random.default_rng([zlib.crc32(task.family.encode()), task.seed, 98])
        hit = rng.random() < self.recipe.disturb
        wrong = Disturbances(rng, count=int(rng.integers(1, 2 + len(task.goals))) if hit else 0)
        row = self.begin(task, rng, hit)
        pieces: list[Piece] = []
        pictures: dict[str, list[bytes]] = {camera: [] for camera in self.recipe.cameras}
        try:
            for images, piece in self._follow(task, row, wrong):
                pieces.append(piece)
                for camera, image in images.items():
                    pictures[camera].append(encode(image))
        except (PhysicsError, InputError):  # the world came apart; what came before is good
            pass
        if not pieces:
            return None
        said = [words for piece in pieces for words in piece.words]
        subtasks = tuple(dict.fromkeys(said))
        return Episode(
            family=task.family, seed=task.seed, split=task.split, instruction=task.instruction, target=task.target,
            state=np.concatenate([piece.states for piece in pieces]).astype(np.float32),
            action=np.concatenate([piece.rows for piece in pieces]).astype(np.float32),
            clean=np.ones(len(said), bool), subtasks=subtasks,
            subtask=np.array([subtasks.index(words) for words in said], np.int16),
            progress=np.full(len(said), np.nan, np.float32),
            arm=np.array([arm for piece in pieces for arm in piece.arms], np.int8), images=pictures, piece=self.count,
            frames=np.arange(0, len(said), self.count, dtype=np.int32), events=tuple(wrong.events))

    def _follow(self, task: Task, row: np.ndarray, wrong: Disturbances) -> Iterator[
            tuple[dict[str, np.ndarray], Piece]]:
        """The policy does it; what it sees, and what the expert would do."""
        robot, sim, policy = self.robot, self.sim, self.policy
        policy.reset()
        policy.reseed(task.seed)
        feed = Rtc(robot, replan=self.recipe.every, delay=LATE * robot.dt)
        hardware = Hardware(robot, sim, row, self.expert.kinematics)
        before, last, over, view, thought = row, None, 0, look(sim), {}
        seconds = min(task.seconds, LONGEST * (LONGER if len(task.goals) > 1 else 1.0))
        for n in range(round(seconds / robot.dt)):
            hardware.hear(n)
            if not thought and feed.due(n, resting=False):
                images, state = self.images(), view.state
                piece = self._ask(view, task, row, before, last)
                last = piece.subtask
                if len(piece.rows) == self.count:  # or the expert's own world came apart
                    yield images, piece
                seen = Observation(images, state, task.instruction, n * robot.dt)
                thought[n + LATE] = policy.infer(seen, prefix=feed.ask(n, state)).actions
            if n in thought:
                hardware.take(feed.answer(n, thought.pop(n)))
            wrong.before(n, view, self.expert, last.kind, sim)
            before, row = row, wrong.after(robot, Act(hardware.row(), last, False))
            sim.step(row)
            self.simulated += robot.dt
            view = look(sim)
            over = over + 1 if task.success(view) else 0
            if over * robot.dt > LINGER or hardware.status.latched:
                return

    def _ask(self, view: View, task: Task, row: np.ndarray, before: np.ndarray, last: Subtask | None) -> Piece:
        sim = self.sim
        piece = Piece(self.expert.join(view, task, row, before, last), [], [], [], [])
        with sim.tried():
            for _ in range(self.count):
                act = self.expert.act(view, task)
                piece.states.append(view.state)
                piece.words.append(act.subtask.words)
                piece.arms.append(self.expert.number)
                sim.step(act.row)
                piece.rows.append(act.row)
                view = look(sim)
        return piece
