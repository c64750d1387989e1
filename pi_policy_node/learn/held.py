"""What eyes that are held see of every frame, found out once and kept: training from it takes no picture.

Eyes learn from pictures that are only looked at; hands learn from demonstrations. Once the eyes are good, their part of
every step, which is the larger one, always comes to the same. It is kept beside the run, a file for each file of data.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch

from pi_policy_node.learn.asked import Asked
from pi_policy_node.learn.dataset import Demonstrations
from pi_policy_node.learn.episodes import put
from pi_policy_node.learn.pool import spread
from pi_policy_node.policy import mini_weights
from pi_policy_node.policy.mini_eyes import EYES, POINTING, eye_shape
from pi_policy_node.policy.mini_model import HELD, Mini
from pi_policy_node.policy.mini_scene import Found
from pi_policy_node.policy.shapes import MiniShape
from pi_policy_node.robot import load_robot

AT_ONCE = 32  # frames
ACT, ASK = "act", "ask"


class Held:
    """Found things of F frames, as rows of half precision. Rows to act lack what acting does not need."""

    def __init__(self, shape: MiniShape, rows: dict[str, np.ndarray]) -> None:
        self._sizes, self._rows = {kind: sizes(shape, kind) for kind in rows}, rows

    def found(self, kind: str, frames: np.ndarray) -> Found:
        rows = torch.from_numpy(self._rows[kind][frames].astype(np.float32))
        parts = rows.split([size[0] * size[1] for size in self._sizes[kind]], 1)
        return Found(*(part.unflatten(1, size) for part, size in zip(parts, self._sizes[kind])))


def sizes(shape: MiniShape, kind: str) -> tuple[tuple[int, int], ...]:
    """Of the fields of Found, in their order."""
    eyes = EYES if kind == ASK else ()
    tokens, width, looks = sum(eye_shape(shape, e).tokens for e in eyes), shape.vlm.width, shape.channels + 1
    gaze, noticed = (len(POINTING), shape.front.things) if kind == ASK else (0, 0)
    found = ((tokens, width), (len(POINTING), looks), (len(POINTING), 3), (len(POINTING), 6), (shape.places, 4))
    return *found, (gaze, width), (noticed, looks), (noticed, 3)


def flat(found: Found) -> np.ndarray:
    """[B, n] half precision."""
    return torch.cat([getattr(found, field.name).flatten(1) for field in fields(Found)], 1).to(torch.float16).numpy()


def hold(weights: Path, robot: str, files: Sequence[Path], glances: Sequence[Path], folder: Path, workers: int,
         report: Callable[[int, int], None]) -> tuple[Held, Held | None]:
    """What the eyes of these weights see in demonstrations and in pictures with answers; finds out what is not kept
    yet. report: told how many of how many files are done."""
    model = mini_weights.load(weights).model
    folder = folder / f"seen-{digest(model):08x}"
    kept = {file: folder / f"{zlib.crc32(str(file.resolve()).encode()):08x}-{file.stat().st_size}.npz"
            for file in (*files, *glances)}
    todo = [(file, kept[file], file in set(files)) for file in kept if not kept[file].exists()]
    for count, _ in enumerate(spread(_finding, (weights, robot), todo, workers), 1):
        report(count, len(todo))

    def gathered(which: Sequence[Path], kinds: tuple[str, ...]) -> Held:
        found: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
        for file in which:
            with np.load(kept[file]) as stored:
                for kind in kinds:
                    found[kind].append(stored[kind])
        return Held(model.shape, {kind: np.concatenate(parts) for kind, parts in found.items()})

    return gathered(files, (ACT, ASK)), gathered(glances, (ASK,)) if glances else None


def digest(model: Mini) -> int:
    """Of everything that is held, and of how what they see is laid out."""
    value = zlib.crc32(repr([sizes(model.shape, kind) for kind in (ACT, ASK)]).encode())
    for name, tensor in model.state_dict().items():
        if name.split(".")[0] in HELD:
            value = zlib.crc32(tensor.contiguous().numpy().tobytes(), zlib.crc32(name.encode(), value))
    return value


def _finding(weights: Path, robot: str) -> Callable[[tuple[Path, Path, bool]], None]:
    torch.set_num_threads(1)
    loaded, machine = mini_weights.load(weights), load_robot(robot)
    model, words, scales = loaded.model, loaded.words, loaded.scales

    @torch.inference_mode()
    def find(piece: tuple[Path, Path, bool]) -> None:
        file, kept, acting = piece
        data = Demonstrations(machine, model.shape, [file]) if acting else Asked(machine, model.shape, [file])
        found: dict[str, list[np.ndarray]] = {}
        for frames in np.array_split(np.arange(len(data)), max(1, -(-len(data) // AT_ONCE))):
            look = data.look(frames, words, scales, acting=True) if acting else data.look(frames, words, scales)
            seen, asking = model.look(look.pictures), replace(look, subtask=look.subtask[:, :0])
            for kind, one in ((ACT, look), (ASK, asking)) if acting else ((ASK, asking),):
                found.setdefault(kind, []).append(flat(model.find(one, seen, acting=kind == ACT)[0]))
        buffer = io.BytesIO()
        np.savez(buffer, **{kind: np.concatenate(parts) for kind, parts in found.items()})
        put(kept, buffer.getvalue())

    return find
