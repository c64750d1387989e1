"""Demonstrations in memory, and batches of them: what mini sees, and what it should have said and done.

Pictures stay JPEGs until a batch needs them. Which steps are in a batch follows from its number alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from pi_policy_node.learn import episodes
from pi_policy_node.learn.episodes import Episode, EpisodesError
from pi_policy_node.learn.labels import Labeller, segments
from pi_policy_node.policy.mini_model import BEGIN, END, EYES, PAD, POINTING, REACH, UNKNOWN, Look
from pi_policy_node.policy.mini_rows import Scales, origin
from pi_policy_node.policy.mini_words import Words, split
from pi_policy_node.policy.shapes import MiniShape
from pi_policy_node.robot import Robot
from pi_policy_node.sim.tasks import language
from pi_policy_node.sim.world import COLOURS, PLACES
from pi_policy_node.sim.world import KINDS as THINGS

CAMERAS = dict(zip(EYES, ("front_camera", "left_wrist_camera", "right_wrist_camera", "rear_camera")))
VALIDATION = 20  # every so many seeds one is never trained on
WORDS, ORDER = 16, 12  # most words of an instruction, and of a subtask: one length for all batches
NEAR = 40  # steps from the end of a subtask, or from a hand's opening or closing, that are looked at more often
BEGIN_OF_ALL = 50  # steps at first, when the hands are at home as they are when all is done: the eyes must tell
KINDS = {"pick": "pick", "place": "place", "open": "drawer", "close": "drawer", "drive": "drive", "done": "done"}
MATTER = (*COLOURS, *THINGS, *PLACES, "left", "right", "next", "top", "drawer", "open", "close", "closed", "shut",
          "everything", "all", "colour")  # without these a sentence would mean something else


@dataclass
class Batch:
    """Rows of a batch. The first `asked` of them are asked for the subtask, the others have it and are to act."""

    look: Look
    asked: int
    said: Tensor  # int64 [asked, S] BEGIN, words, END, PAD
    knots: Tensor  # float [B - asked, knots, A] normalised
    learn: Tensor  # bool [B - asked, knots]: demonstrated on purpose
    progress: Tensor  # float [B], NaN: unknown
    arm: Tensor  # int64 [B], -1: none
    reach: Tensor  # float [B, 3] in REACH, NaN: unknown
    base: Tensor  # float [B, 3] in REACH
    cells: dict[str, Tensor]  # eye -> int64 [B] of its map, one behind the last: not in the picture; -1: unknown
    spots: Tensor  # float [B, 3, 3] m: that place in the pointing eyes' frames, NaN: unknown

    def to(self, device: str) -> Batch:
        if device == "cpu":
            return self
        return moved(self, device)


def moved(value, device: str):
    """The same with every tensor on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: moved(part, device) for name, part in value.items()}
    if is_dataclass(value):
        return replace(value, **{f.name: moved(getattr(value, f.name), device) for f in fields(value)})
    return value


class Demonstrations:
    """The frames of many episodes, as arrays. F frames, T steps, both over all episodes."""

    def __init__(self, robot: Robot, shape: MiniShape, files: Sequence[Path]) -> None:
        if not files:
            raise EpisodesError("there are no episodes to learn from")
        self.robot, self.shape = robot, shape
        self.every = round(shape.knot / robot.dt)
        labeller = Labeller(robot)
        parts: dict[str, list[np.ndarray]] = {}
        self.instructions: list[str] = []
        self.subtasks: list[str] = []
        self.families: list[str] = []
        self._text: dict[str, int] = {}
        self._jpegs: dict[str, list[np.ndarray]] = {eye: [] for eye in EYES}
        steps = 0
        for file in files:
            for episode in episodes.read(file):
                self._add(episode, labeller.label(episode), steps, parts)
                steps += len(episode.state)
        self.__dict__.update({name: np.concatenate(found) for name, found in parts.items()})
        self._blobs = {eye: np.concatenate(found) if found else None for eye, found in self._jpegs.items()}
        del self._jpegs

    # arrays over steps
    state: np.ndarray  # [T, A]
    tools: np.ndarray  # [T, 6]
    action: np.ndarray  # [T, A]
    clean: np.ndarray  # [T]
    # arrays over frames
    step: np.ndarray  # [F] the step of a frame, in all steps
    last: np.ndarray  # [F] the last step of its episode
    episode: np.ndarray  # [F]
    seed: np.ndarray  # [F]
    said: np.ndarray  # [F] index into subtasks
    often: np.ndarray  # [F] how much more often it is worth looking at
    progress: np.ndarray
    arm: np.ndarray
    reach: np.ndarray
    base: np.ndarray
    cameras: np.ndarray  # [F, 3, 3, 4] of the pointing eyes

    def __len__(self) -> int:
        return len(self.step)

    def _add(self, e: Episode, labels, before: int, parts: dict[str, list[np.ndarray]]) -> None:
        frames, number = e.frames, len(self.instructions)
        self.instructions.append(e.instruction)
        self.families.append(e.family)
        words = np.array([self._number(text) for text in e.subtasks])[e.subtask]
        hands = np.flatnonzero(self.robot.is_gripper)
        turns = np.flatnonzero(np.abs(np.diff((e.action[:, hands] < 0.5).astype(int), axis=0)).sum(1))
        marks = np.array([*turns, *(end for _, end in segments(e.subtask))])
        apart = np.abs(frames[:, None] - marks[None]).min(1)
        found = {
            "state": e.state, "tools": labels.tools.reshape(len(e.state), -1), "action": e.action, "clean": e.clean,
            "step": frames + before, "last": np.full(len(frames), before + len(e.state) - 1),
            "episode": np.full(len(frames), number), "seed": np.full(len(frames), e.seed), "said": words[frames],
            "often": np.where(frames < BEGIN_OF_ALL, 4.0, np.where(apart < NEAR, 2.0, 1.0)),
            "progress": e.progress[frames], "arm": labels.arm[frames],
            "reach": labels.reach[frames], "base": labels.base[frames],
            "cameras": np.stack([labels.cameras[CAMERAS[eye]][frames] for eye in POINTING], 1),
        }
        for eye, camera in CAMERAS.items():
            found[f"{eye}_cell"] = self._cells(eye, labels.cells[camera][frames], labels.reach[frames])
            images = e.images.get(camera)
            sizes = np.zeros(len(frames), np.int64) if images is None else np.array([len(i) for i in images])
            found[f"{eye}_size"] = sizes
            if images is not None:
                self._jpegs[eye].append(np.frombuffer(b"".join(images), np.uint8))
        for name, values in found.items():
            parts.setdefault(name, []).append(values)

    def _number(self, text: str) -> int:
        if text not in self._text:
            self._text[text] = len(self.subtasks)
            self.subtasks.append(text)
        return self._text[text]

    def _cells(self, eye: str, places: np.ndarray, reach: np.ndarray) -> np.ndarray:
        """[F] the cell of the eye's map, one more where the place is not in the picture, -1 where it is unknown."""
        rows, columns = self._eye(eye).cells
        inside = np.isfinite(places[:, 0])
        x, y = np.where(inside[:, None], places, 0.0).T
        cell = (y * rows).astype(int).clip(0, rows - 1) * columns + (x * columns).astype(int).clip(0, columns - 1)
        return np.where(inside, cell, np.where(np.isfinite(reach[:, 0]), rows * columns, -1))

    def _eye(self, eye: str):
        return self.shape.wrist if "wrist" in eye else getattr(self.shape, eye)

    # ---- what is usual, and which frames

    def validation(self) -> np.ndarray:
        """[F] bool: frames of episodes that are never trained on."""
        return self.seed % VALIDATION == VALIDATION - 1

    def weights(self, families: dict[str, float], kinds: dict[str, float]) -> np.ndarray:
        """[F] how often a frame is drawn: families and sorts of subtasks in these parts, crucial moments more often."""
        kind = np.array([list(kinds).index(KINDS[text.split()[0]]) for text in self.subtasks])[self.said]
        family = np.array([list(families).index(name) for name in self.families])[self.episode]
        bucket = family * len(kinds) + kind
        weight = self.often * ~self.validation()
        total = np.bincount(bucket, weight, len(families) * len(kinds))
        wanted = np.array([f * k for f in families.values() for k in kinds.values()]) * (total > 0)
        share = wanted.reshape(len(families), -1)
        share = share / share.sum(1, keepdims=True).clip(1e-9) * np.array(list(families.values()))[:, None]
        return weight * (share.flatten() / total.clip(1e-9))[bucket]

    def scales(self) -> Scales:
        """Means and spreads over a part of the frames that are learnt from."""
        frames = np.flatnonzero(~self.validation())[::7]
        knots = self.chunk(frames)[0] - origin(self.robot, self.state[self.step[frames]])[:, None]
        state = self.seen_state(self.step[frames])
        robot = self.robot
        least = np.select([robot.is_base, robot.is_gripper], [0.05, 0.3], 0.02)
        return Scales(state.mean(0), state.std(0).clip(0.02), knots.mean(0), np.maximum(knots.std(0), least))

    def seen_state(self, steps: np.ndarray) -> np.ndarray:
        """[N, S] the robot's numbers and where its tools are."""
        return np.concatenate((self.state[steps], self.tools[steps]), 1).astype(np.float64)

    def chunk(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Knots [N, K, A] from each frame on, and which of them were demonstrated on purpose [N, K]."""
        steps = self.step[frames, None] + np.arange(self.shape.knots) * self.every
        over = steps > self.last[frames, None]
        steps = np.minimum(steps, self.last[frames, None])
        knots = self.action[steps].astype(np.float64)
        knots[..., self.robot.is_base] *= ~over[..., None]
        return knots, self.clean[steps]

    # ---- a batch

    def pictures(self, frames: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """uint8 [N, h, w, 3] by eye, and which there are [N, eyes]."""
        seen = np.zeros((len(frames), len(EYES)), bool)
        result = {}
        for i, eye in enumerate(EYES):
            shape = self._eye(eye)
            out = np.zeros((len(frames), shape.height, shape.width, 3), np.uint8)
            ends = self._ends(eye)
            for row, frame in enumerate(frames):
                size = getattr(self, f"{eye}_size")[frame]
                if size:
                    data = self._blobs[eye][ends[frame] - size : ends[frame]]
                    image = cv2.imdecode(data, cv2.IMREAD_COLOR)
                    if image.shape[:2] != out.shape[1:3]:
                        image = cv2.resize(image, (shape.width, shape.height), interpolation=cv2.INTER_AREA)
                    out[row] = image[..., ::-1]
                    seen[row, i] = True
            result[eye] = out
        return result, seen

    def _ends(self, eye: str) -> np.ndarray:
        name = f"_{eye}_ends"
        if name not in self.__dict__:
            self.__dict__[name] = np.cumsum(getattr(self, f"{eye}_size"))
        return self.__dict__[name]

    def batch(self, frames: np.ndarray, asked: int, words: Words, scales: Scales, *,
              rng: np.random.Generator | None = None) -> Batch:
        """rng: also vary what is seen and read, for training."""
        raw, seen = self.pictures(frames)
        if rng is not None:
            seen &= rng.random(seen.shape) > 0.02
        pictures = {eye: _float(images, rng) for eye, images in raw.items()}
        steps = self.step[frames]
        knots, learn = self.chunk(frames[asked:])
        at = origin(self.robot, self.state[steps[asked:]].astype(np.float64))
        tasks = [words.encode(self.instructions[k]) for k in self.episode[frames]]
        orders = [words.encode(self.subtasks[k]) for k in self.said[frames]]
        if rng is not None:
            matter = {token for word in MATTER for token in words.encode(word)}
            tasks = [_forget(tokens, matter, rng, keep=row < asked) for row, tokens in enumerate(tasks)]
        tools, poses = self.tools[steps].reshape(-1, 2, 3), self.cameras[frames]
        place = self.reach[frames] + tools[np.arange(len(frames)), np.maximum(self.arm[frames], 0)]
        look = Look(pictures, torch.from_numpy(seen), torch.from_numpy(scales.state_in(self.seen_state(steps))),
                    torch.from_numpy(poses), torch.from_numpy(tools), _pad(tasks, WORDS),
                    _pad([[]] * asked + orders[asked:], ORDER))
        return Batch(
            look, asked, _pad([[BEGIN, *tokens, END] for tokens in orders[:asked]], ORDER + 2),
            torch.from_numpy(scales.knots_in(knots, at)), torch.from_numpy(learn),
            torch.from_numpy(self.progress[frames]), torch.from_numpy(self.arm[frames].astype(np.int64)),
            torch.from_numpy(self.reach[frames] / REACH), torch.from_numpy(self.base[frames] / REACH),
            {eye: torch.from_numpy(getattr(self, f"{eye}_cell")[frames]) for eye in POINTING},
            torch.from_numpy(np.einsum("bkji,bkj->bki", poses[..., :3], place[:, None] - poses[..., 3])))


def vocabulary() -> list[str]:
    """Every word that training sentences and subtasks hold, in a fixed order. What is held out is not looked at."""
    known = {w for key in language.WORDS for t in language.templates(key, "train") for w in t.split() if "{" not in w}
    subtasks = "pick up the place it in on to left right of next drive open close drawer done"
    return sorted({*known, *COLOURS, *THINGS, *PLACES, *split(subtasks)})


def _float(images: np.ndarray, rng: np.random.Generator | None) -> Tensor:
    """uint8 [N, h, w, 3] -> float [N, 3, h, w] in -1..1; in training brighter or darker by a little."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    if rng is not None:
        gain = torch.from_numpy(rng.uniform(0.85, 1.15, (len(x), 1, 1, 1)).astype(np.float32))
        x = ((x + 1) * gain - 1).clamp(max=1)
    return x.contiguous()


def _forget(tokens: list[int], matter: set[int], rng: np.random.Generator, *, keep: bool) -> list[int]:
    """A sentence as it may also come: with other words around those that matter, or (with a subtask) not at all."""
    if not keep and rng.random() < 0.15:
        return []
    return [UNKNOWN if token not in matter and rng.random() < 0.1 else token for token in tokens]


def _pad(rows: list[list[int]], count: int) -> Tensor:
    return torch.tensor([[*row, *[PAD] * (count - len(row))] for row in rows], dtype=torch.int64).reshape(
        len(rows), count)
