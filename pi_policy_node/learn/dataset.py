"""Demonstrations in memory, and batches of them: what mini sees, and what it should have said and done."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pi_policy_node.learn import episodes
from pi_policy_node.learn.episodes import Episode, EpisodesError
from pi_policy_node.learn.labels import CLOSED, Labeller, Labels, segments
from pi_policy_node.learn.pictures import Pictures, cells
from pi_policy_node.policy.mini_eyes import EYES, POINTING, eye_shape
from pi_policy_node.policy.mini_model import REACH
from pi_policy_node.policy.mini_rows import Scales, hands, origin, perceived
from pi_policy_node.policy.mini_scene import BEGIN, END, PAD, UNKNOWN, Found, Look, placed, spotted
from pi_policy_node.policy.mini_words import Words, split
from pi_policy_node.policy.shapes import MiniShape
from pi_policy_node.robot import Robot
from pi_policy_node.sim.tasks import language
from pi_policy_node.sim.tasks.goals import IN
from pi_policy_node.sim.tasks.view import HALF_WIDTH
from pi_policy_node.sim.world import COLOURS, PLACES
from pi_policy_node.sim.world import KINDS as THINGS

MAPS = {eye: math.prod(eye_shape(MiniShape(), eye).cells) for eye in POINTING}  # cells
RECORDED = {"front_camera": 320, "left_wrist_camera": 160, "right_wrist_camera": 160, "rear_camera": 96}  # pixels wide
CAMERAS = dict(zip(EYES, (*RECORDED, "front_camera")))
VALIDATION = 20  # every so many seeds one is never trained on
WORDS, ORDER = 16, 12  # most words of an instruction, and of a subtask: one length for all batches
NEAR = 40  # steps from the end of a subtask, or from a hand's opening or closing, that are looked at more often
OFTENER = 3.0  # than it is met a sort of subtask is looked at, at most: seldom ones would be thought of everywhere
UNTOLD = 0.25  # part of the frames whose arm nobody says: a person gives the next subtask in words alone
SEVERAL = "clear", "gather", "sort"  # families in which more than one thing goes into a container
OFF = 0.006  # m by which hands are told wrongly where in it
BEGIN_OF_ALL = 50  # steps at first, when the hands are at home as they are when all is done: the eyes must tell
KINDS = {"pick": "pick", "place": "place", "open": "drawer", "close": "drawer", "drive": "drive", "done": "done"}
MATTER = (*COLOURS, *THINGS, *PLACES, "left", "right", "next", "top", "drawer", "open", "close", "closed", "shut",
          "everything", "all", "colour")  # without these a sentence would mean something else


@dataclass
class Glance:
    """Pictures in which K things are to be found each."""

    look: Look
    questions: Tensor  # int64 [B, K, N] words, as a subtask has them
    cells: dict[str, Tensor]  # eye -> int64 [B, K] of its map, one behind the last: not in the picture; -1: unknown
    spots: Tensor  # float [B, K, 3, 3] m: the places in the pointing eyes' frames, NaN: unknown
    named: Tensor  # int64 [B, K] which of the names it is asked for by; -1: by none
    turns: Tensor  # float [B, K, 6] directions in which fingers would close, in the base's frame; NaN: any will do
    things: Tensor  # bool [B, the front eye's cells]: there is a thing
    around: dict[str, Tensor]  # pictures from all over the room, by eye
    room: Tensor  # float [R, places, 4] where the room's places are in these
    said: Tensor  # int64 [B, S] BEGIN, the subtask's words, END, PAD; these six are empty in a demonstration's

    def to(self, device: str) -> Glance:
        return self if device == "cpu" else moved(self, device)

    def there(self, eye: str) -> Tensor:
        """bool [B, K]: it is in the picture."""
        return (self.cells[eye] >= 0) & (self.cells[eye] < MAPS[eye])


@dataclass
class Batch:
    """Some frames in which the subtask is asked for, and B others that have it and are to act."""

    ask: Look
    said: Tensor  # int64 [asked, S] BEGIN, words, END, PAD
    look: Look  # the B
    knots: Tensor  # float [B, knots, A] normalised
    learn: Tensor  # bool [B, knots]: demonstrated on purpose
    levers: Tensor  # float [B, knots, tools, 3, A] m that a tool moves by, per unit of a normalised knot
    told: Tensor  # bool [A]: columns of committed knots that the network is told
    progress: Tensor  # float [B], NaN: unknown
    arm: Tensor  # int64 [B], -1: none
    reach: Tensor  # float [B, 3] in REACH, NaN: unknown
    base: Tensor  # float [B, 3] in REACH
    glance: Glance  # with one question each, the subtask's

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
        self.kinematics = labeller.kinematics
        parts: dict[str, list[np.ndarray]] = {}
        self.instructions: list[str] = []
        self.subtasks: list[str] = []
        self.families: list[str] = []
        self._text: dict[str, int] = {}
        self.pictures = Pictures(shape, CAMERAS)
        steps = 0
        for file in files:
            for episode in episodes.read(file):
                self._add(episode, labeller.label(episode), steps, parts)
                steps += len(episode.state)
        self.__dict__.update({name: np.concatenate(found) for name, found in parts.items()})
        self.pictures.close()

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
    laid: np.ndarray  # [F, 3]
    cameras: np.ndarray  # [F, 3, 3, 4] of the pointing eyes

    def __len__(self) -> int:
        return len(self.step)

    def _add(self, e: Episode, labels: Labels, before: int, parts: dict[str, list[np.ndarray]]) -> None:
        frames, number = e.frames, len(self.instructions)
        self.instructions.append(e.instruction)
        self.families.append(e.family)
        words = np.array([self._number(text) for text in e.subtasks])[e.subtask]
        hands = np.flatnonzero(self.robot.is_gripper)
        turns = np.flatnonzero(np.abs(np.diff((e.action[:, hands] < CLOSED).astype(int), axis=0)).sum(1))
        marks = np.array([*turns, *(end for _, end in segments(e.subtask))])
        apart = np.abs(frames[:, None] - marks[None]).min(1)
        found = {
            "state": e.state, "tools": labels.tools.reshape(len(e.state), -1), "action": e.action, "clean": e.clean,
            "step": frames + before,
            "last": before + (frames + e.piece if e.piece else np.full(len(frames), len(e.state))) - 1,
            "episode": np.full(len(frames), number), "seed": np.full(len(frames), e.seed), "said": words[frames],
            "often": np.where(frames < BEGIN_OF_ALL, 4.0, np.where(apart < NEAR, 2.0, 1.0)),
            "progress": e.progress[frames], "arm": labels.arm[frames],
            "reach": labels.reach[frames], "base": labels.base[frames],
            "laid": self._laid(e, labels, hands)[frames],
            "cameras": np.stack([labels.cameras[CAMERAS[eye]][frames] for eye in POINTING], 1),
        }
        goes = np.array([text.startswith("place") for text in e.subtasks])[e.subtask[frames]]
        if e.piece and e.family in SEVERAL:  # nobody wrote down where among others it would have gone: not looked at
            found["often"] = found["often"] * ~np.array([text in CONTAINED for text in e.subtasks])[e.subtask[frames]]
        known = np.isfinite(labels.reach[frames, 0]) & ~goes  # where a thing goes is not what eyes are to find there
        for eye in POINTING:
            places = labels.cells[CAMERAS[eye]][frames]
            found[f"{eye}_cell"] = np.where(known, cells(eye_shape(self.shape, eye), places), -1)
        self.pictures.add(e.images, len(frames))
        for name, values in found.items():
            parts.setdefault(name, []).append(values)

    def _laid(self, e: Episode, labels: Labels, hands: np.ndarray) -> np.ndarray:
        """float32 [T, 3] m where the hand opens over a container, while that is what it is for; NaN: otherwise."""
        laid = np.full((len(e.state), 3), np.nan, np.float32)
        for first, end in [] if e.piece else segments(e.subtask):
            arm = int(labels.arm[first])
            if e.subtasks[e.subtask[first]] in CONTAINED and arm >= 0:
                opens = np.flatnonzero(np.diff((e.action[first:end, hands[arm]] < CLOSED).astype(int)) < 0)
                laid[first:end] = labels.tools[first + opens[-1], arm] if len(opens) else np.nan
        return laid

    def _number(self, text: str) -> int:
        if text not in self._text:
            self._text[text] = len(self.subtasks)
            self.subtasks.append(text)
        return self._text[text]

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
        total = np.bincount(bucket, weight, len(families) * len(kinds)).reshape(len(families), -1)
        usual = total / total.sum(1, keepdims=True).clip(1e-9)
        share = np.array(list(kinds.values())) * (total > 0)
        share = np.minimum(share / share.sum(1, keepdims=True).clip(1e-9), OFTENER * usual)
        share = share / share.sum(1, keepdims=True).clip(1e-9) * np.array(list(families.values()))[:, None]
        return weight * (share / total.clip(1e-9)).flatten()[bucket]

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
        return np.concatenate((perceived(self.robot, self.state[steps]), self.tools[steps]), 1).astype(np.float64)

    def chunk(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Knots [N, K, A] from each frame on, and which of them were demonstrated on purpose [N, K]."""
        steps = self.step[frames, None] + np.arange(self.shape.knots) * self.every
        over = steps > self.last[frames, None]
        steps = np.minimum(steps, self.last[frames, None])
        knots = self.action[steps].astype(np.float64)
        knots[..., self.robot.is_base] *= ~over[..., None]
        return knots, self.clean[steps]

    # ---- a batch

    def batch(self, frames: np.ndarray, asked: int, words: Words, scales: Scales, *,
              rng: np.random.Generator | None = None) -> Batch:
        """The first `asked` frames are asked for the subtask. rng: also vary what is seen and read, for training."""
        ask, said = self.look(frames[:asked], words, scales, rng, acting=False), self._orders(frames[:asked], words)
        frames = frames[asked:]
        look, knots, learn = self.look(frames, words, scales, rng, acting=True), *self.chunk(frames)
        at = origin(self.robot, self.state[self.step[frames]].astype(np.float64))
        place = self.reach[frames] + look.tools.numpy()[np.arange(len(frames)), np.maximum(self.arm[frames], 0)]
        return Batch(
            ask, answer(said), look,
            *(torch.from_numpy(part) for part in (
                scales.knots_in(knots, at), learn, self._levers(knots, scales), ~self.robot.is_base)),
            torch.from_numpy(self.progress[frames]), torch.from_numpy(self.arm[frames].astype(np.int64)),
            torch.from_numpy(self.reach[frames] / REACH), torch.from_numpy(self.base[frames] / REACH),
            Glance(look, look.subtask[:, None],
                   {eye: torch.from_numpy(getattr(self, f"{eye}_cell")[frames])[:, None] for eye in POINTING},
                   torch.from_numpy(seen_from(self.cameras[frames], place[:, None])),
                   torch.zeros(0), torch.zeros(0), torch.zeros(0), {}, torch.zeros(0), torch.zeros(0)))

    def _levers(self, knots: np.ndarray, scales: Scales) -> np.ndarray:
        moved = np.stack(list(self.kinematics.jacobians(knots).values()), 2)  # [N, knots, tools, 3, A]
        return (moved * scales.action_scale[:, None, None]).astype(np.float32)

    def look(self, frames: np.ndarray, words: Words, scales: Scales, rng: np.random.Generator | None = None, *,
             acting: bool) -> Look:
        """What is seen in some frames; the subtask is told to act, and asked for otherwise."""
        pictures, seen, found = self.pictures.seen("act" if acting else "ask", frames, rng)
        if rng is not None:
            seen &= rng.random(seen.shape) > 0.02
        steps = self.step[frames]
        tasks = sentences([self.instructions[k] for k in self.episode[frames]], words, rng)
        orders = self._orders(frames, words) if acting else [[]] * len(frames)
        arm = self._picking(frames) if acting else np.full(len(frames), -1)
        if rng is not None:
            arm = np.where(rng.random(len(frames)) < UNTOLD, -1, arm)
        ways = hands(self.robot, self.kinematics, self.state[steps].astype(np.float64)) if acting else (None, None)
        if acting and found is not None:
            found = self._told(frames, found, rng)
        return Look(pictures, torch.from_numpy(seen),
                    torch.from_numpy(scales.state_in(self.seen_state(steps))), torch.from_numpy(self.cameras[frames]),
                    torch.from_numpy(self.tools[steps].reshape(-1, 2, 3)), tasks, pad(orders, ORDER),
                    torch.from_numpy(arm), found, *ways)

    def _told(self, frames: np.ndarray, found: Found, rng: np.random.Generator | None) -> Found:
        """What held eyes see, but where things were put in containers: eyes see these, not where in them there is room;
        that hands are told (policy/mini_next.py)."""
        place, cameras = self.laid[frames], torch.from_numpy(self.cameras[frames])
        known = torch.from_numpy(np.isfinite(place[:, 0]))[:, None, None]
        told = torch.from_numpy(place if rng is None else place + rng.normal(0, OFF, place.shape).astype(np.float32))
        told[:, 2] = placed(cameras, found.spots)[:, 0, 2]  # the front eye's
        return replace(found, spots=torch.where(known, spotted(cameras, told[:, None]), found.spots))

    def _picking(self, frames: np.ndarray) -> np.ndarray:
        """int64 [N] the arm that picks up; -1 where nothing is."""
        picks = np.array([text.startswith("pick") for text in self.subtasks])[self.said[frames]]
        return np.where(picks, self.arm[frames], -1).astype(np.int64)

    def _orders(self, frames: np.ndarray, words: Words) -> list[list[int]]:
        return [words.encode(self.subtasks[k]) for k in self.said[frames]]


def seen_from(poses: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Places [B, K, 3] as the cameras [B, E, 3, 4] see them: [B, K, E, 3]."""
    return np.einsum("beji,bkej->bkei", poses[..., :3], places[:, :, None] - poses[:, None, :, :, 3])


def vocabulary() -> list[str]:
    """Every word that training sentences and subtasks hold, in a fixed order. What is held out is not looked at."""
    known = {w for key in language.WORDS for t in language.templates(key, "train") for w in t.split() if "{" not in w}
    subtasks = "pick up the place it in on to left right of next drive open close drawer done"
    return sorted({*known, *COLOURS, *THINGS, *PLACES, *split(subtasks)})


def names() -> list[str]:
    """A subtask for everything with a name, which asks for it: that is how eyes are asked what a thing is."""
    takes = [f"pick up the {colour} {kind}" for kind in HALF_WIDTH for colour in COLOURS]
    return takes + [f"place it {IN[kind]} the {colour} {kind}" for kind in IN for colour in COLOURS]


CONTAINED = {name for name in names() if name.startswith("place")}  # words in which a thing goes into a container


def sentences(texts: list[str], words: Words, rng: np.random.Generator | None) -> Tensor:
    """Instructions as they are read. rng: as they may also come, with other words around those that matter."""
    rows = [words.encode(text) for text in texts]
    if rng is not None:
        matter = _matter(words)
        rows = [[UNKNOWN if t not in matter and rng.random() < 0.1 else t for t in tokens] for tokens in rows]
    return pad(rows, WORDS)


def _matter(words: Words) -> set[int]:
    """Words that a sentence cannot do without."""
    return {token for word in MATTER for token in words.encode(word)}


def answer(rows: list[list[int]]) -> Tensor:
    """What is to be said, word by word."""
    return pad([[BEGIN, *tokens, END] for tokens in rows], ORDER + 2)


def pad(rows: list[list[int]], count: int) -> Tensor:
    return torch.tensor([[*row, *[PAD] * (count - len(row))] for row in rows], dtype=torch.int64).reshape(
        len(rows), count)
