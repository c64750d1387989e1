"""Pictures with answers (learn/glances.py) in memory, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pi_policy_node.learn import glances
from pi_policy_node.learn.dataset import (
    CAMERAS, MAPS, ORDER, VALIDATION, Glance, answer, names, pad, seen_from, sentences)
from pi_policy_node.learn.labels import project, stands
from pi_policy_node.learn.pictures import Pictures, cells, to_float
from pi_policy_node.policy.mini_eyes import AROUND, POINTING, eye_shape
from pi_policy_node.policy.mini_rows import Scales, perceived
from pi_policy_node.policy.mini_scene import Look
from pi_policy_node.policy.mini_words import Words
from pi_policy_node.policy.shapes import MiniShape
from pi_policy_node.robot import Kinematics, Robot
from pi_policy_node.sim.tasks.goals import IN
from pi_policy_node.sim.world import PLACES

KINDS_ASKED = {"pick": 4.0, "into": 2.0, "beside": 1.0, "onto": 1.0, "drawer": 0.3}  # in these parts
AWAY = 0.3  # as often as others are pictures drawn in which the robot is not at the table: little is to be seen there


class Asked:
    """N pictures of each camera, with M answers."""

    def __init__(self, robot: Robot, shape: MiniShape, files: Sequence[Path]) -> None:
        self.robot, self.shape = robot, shape
        kinematics, self.pictures = Kinematics(robot), Pictures(shape, CAMERAS)
        made = [glances.read(file) for file in files]
        self.state = np.concatenate([one.state for one in made]).astype(np.float64)
        before = np.cumsum([0, *(len(one.state) for one in made)])
        self.frame = np.concatenate([one.frame + k for one, k in zip(made, before)])
        self.words = [text for one in made for text in one.words]
        self.task, self.step = ([text for one in made for text in getattr(one, name)] for name in ("task", "step"))
        bases = np.concatenate([one.base for one in made])
        self._room = stands(bases, list(PLACES.values()))
        away = np.abs(bases - PLACES["table"]).max(1) > 0.01
        self._away = np.flatnonzero(away & ~self.validation())
        often = (np.where(away, AWAY, 1.0) * ~self.validation()).cumsum()
        self._chances = often / often[-1]
        self.place, self.turn = (np.concatenate([getattr(one, name) for one in made]) for name in ("place", "turn"))
        tools = kinematics.tools(self.state)
        self.tools = np.stack([tools[g.name] for g in robot.groups if g.kind == "arm"], 1).astype(np.float32)
        self._seen = np.concatenate((perceived(robot, self.state), self.tools.reshape(len(self.state), -1)), 1)
        by_name = {camera.name: camera for camera in robot.cameras}
        poses = {eye: kinematics.link_pose(self.state, by_name[CAMERAS[eye]].frame) for eye in POINTING}
        self.cameras = np.stack([poses[eye][:, :3] for eye in POINTING], 1).astype(np.float32)
        thing = np.concatenate([one.thing for one in made])
        self.cell = {}
        for eye in POINTING:
            at = project(by_name[CAMERAS[eye]], poses[eye][self.frame], thing)
            hidden = ~np.concatenate([one.shown[CAMERAS[eye]] for one in made])
            self.cell[eye] = cells(eye_shape(shape, eye), np.where(hidden[:, None], np.nan, at))
        for one in made:
            self.pictures.add(one.images, len(one.state))
        self.pictures.close()
        kinds = [_kind(text) for text in self.words]
        count = {kind: kinds.count(kind) for kind in KINDS_ASKED}
        self._weight = np.array([KINDS_ASKED[kind] / count[kind] for kind in kinds])  # how often each is worth asking
        known = {text: k for k, text in enumerate(names())}
        self._named = np.array([known.get(text, -1) for text in self.words])
        self._first = np.searchsorted(self.frame, np.arange(len(self.state) + 1))
        count, things = MAPS["front"], np.array([kind in ("pick", "into") for kind in kinds])
        self._things = np.zeros((len(self.state), count + 1), bool)
        self._things[self.frame[things], self.cell["front"][things]] = True

    def __len__(self) -> int:
        """Pictures."""
        return len(self.state)

    def validation(self) -> np.ndarray:
        """[N] bool: pictures that are never trained on."""
        return np.arange(len(self)) % VALIDATION == VALIDATION - 1

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Pictures to look at."""
        return np.searchsorted(self._chances, rng.random(count)).clip(0, len(self) - 1)

    def batch(self, frames: np.ndarray, questions: int, words: Words, scales: Scales, *,
              rng: np.random.Generator, rooms: int = 0) -> Glance:
        """rooms: how many pictures from all over the room come with them, for the eyes that see what is around."""
        which = np.array([self._choose(frame, questions, rng) for frame in frames])  # [B, K]
        poses, look = self.cameras[frames], self.look(frames, words, scales, rng)
        asked = pad([words.encode(self.words[k]) for k in which.flat], ORDER).unflatten(0, which.shape)
        away = rng.choice(self._away, rooms if len(self._away) else 0)
        around = {eye: to_float(images, rng) for eye, images in self.pictures.decode(away, AROUND)[0].items()}
        return Glance(look, asked, {eye: torch.from_numpy(self.cell[eye][which]) for eye in POINTING},
                      torch.from_numpy(seen_from(poses, self.place[which])), torch.from_numpy(self._named[which]),
                      torch.from_numpy(self.turn[which]),
                      torch.from_numpy(self._things[frames, :-1]), around, torch.from_numpy(self._room[away]),
                      answer([words.encode(self.step[k]) for k in frames]))

    def look(self, frames: np.ndarray, words: Words, scales: Scales, rng: np.random.Generator | None = None) -> Look:
        """What is seen in some pictures; the subtask is asked for."""
        pictures, seen, found = self.pictures.seen("ask", frames, rng)
        return Look(pictures, torch.from_numpy(seen), torch.from_numpy(scales.state_in(self._seen[frames])),
                    torch.from_numpy(self.cameras[frames]), torch.from_numpy(self.tools[frames]),
                    sentences([self.task[k] for k in frames], words, rng),
                    torch.zeros(len(frames), 0, dtype=torch.int64), torch.full((len(frames),), -1), found)

    def _choose(self, frame: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """The numbers of some of a picture's answers."""
        answers = np.arange(self._first[frame], self._first[frame + 1])
        chance = self._weight[answers] / self._weight[answers].sum()
        return rng.choice(answers, count, p=chance, replace=count > len(answers))


def _kind(text: str) -> str:
    """What sort of question a subtask's words are."""
    first, *_, last = text.split()
    if first != "place":
        return first if first == "pick" else "drawer"
    if "of" in text.split():
        return "beside"
    return "into" if last in IN else "onto"
