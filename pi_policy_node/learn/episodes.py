"""Demonstrations on disk: what is kept of an episode, and the files that hold some of them each.

A shard is a NumPy .npz of some episodes, written whole or not at all. Its bytes follow from the recipe alone.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

VERSION = 2
RECIPE = "recipe.json"
COLUMNS = ("state", "action", "clean", "subtask", "progress", "arm", "frames")
_SAMPLING = cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, *_SAMPLING]


class EpisodesError(ValueError):
    """Files that are not what they should be; the message says which."""


@dataclass
class Episode:
    """One demonstration of T steps, one every robot.dt. Images belong to the steps in `frames`."""

    family: str
    seed: int
    split: str
    instruction: str
    target: str  # the name of the thing to be lifted first; empty: any
    state: np.ndarray  # float32 [T, A], as measured before the step
    action: np.ndarray  # float32 [T, A], commanded at the step: to be reached one dt later
    clean: np.ndarray  # bool [T]: the action is the expert's own, not a disturbance's; learn only these
    subtasks: tuple[str, ...]  # in words
    subtask: np.ndarray  # int16 [T] into `subtasks`: what the expert is doing
    progress: np.ndarray  # float32 [T]: part of the time from this subtask's beginning to its end; NaN: it failed
    arm: np.ndarray  # int8 [T] the arm that the expert is at work with, in the robot's order; -1: none
    frames: np.ndarray  # int32 [F] steps that have images
    images: dict[str, list[bytes] | np.ndarray]  # camera -> F JPEGs, or uint8 [F, h, w, 3]
    events: tuple[tuple[int, str], ...] = ()  # disturbances: (step, kind)
    piece: int = 0  # so many steps, from a frame on, belong together: corrections (learn/correct.py); 0: all do

    def image(self, camera: str, frame: int) -> np.ndarray:
        """uint8 [h, w, 3] rgb of the step frames[frame]."""
        stored = self.images[camera][frame]
        return decode(stored) if isinstance(stored, bytes) else stored


def encode(image: np.ndarray) -> bytes:
    """A JPEG without colour subsampling, which would blur what is small."""
    return cv2.imencode(".jpg", image[..., ::-1], _JPEG)[1].tobytes()


def decode(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def write(path: Path, episodes: list[Episode]) -> int:
    """A shard, all or nothing; returns its size in bytes."""
    arrays: dict[str, np.ndarray] = {}
    heads = []
    for k, e in enumerate(episodes):
        heads.append({"family": e.family, "seed": e.seed, "split": e.split, "instruction": e.instruction,
                      "target": e.target, "subtasks": e.subtasks, "events": e.events, "piece": e.piece,
                      "cameras": list(e.images)})
        arrays |= {f"{k}.{name}": getattr(e, name) for name in COLUMNS}
        for camera, images in e.images.items():
            if isinstance(images, np.ndarray):
                arrays[f"{k}.{camera}"] = images
            else:
                arrays[f"{k}.{camera}"] = np.frombuffer(b"".join(images), np.uint8)
                arrays[f"{k}.{camera}.ends"] = np.cumsum([len(i) for i in images], dtype=np.int64)
    head = {"version": VERSION, "episodes": heads}
    arrays["head"] = np.frombuffer(json.dumps(head, sort_keys=True).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    put(path, buffer.getvalue())
    return len(buffer.getvalue())


def read(path: Path) -> list[Episode]:
    """The episodes of a shard."""
    try:
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
        head = json.loads(arrays["head"].tobytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise EpisodesError(f"{path} is no shard of episodes: {error}") from None
    if head["version"] != VERSION:
        raise EpisodesError(f"{path} has version {head['version']} of the format, not {VERSION}: record it again")
    return [_episode(k, entry, arrays) for k, entry in enumerate(head["episodes"])]


def _episode(k: int, entry: dict, arrays: dict[str, np.ndarray]) -> Episode:
    images: dict[str, list[bytes] | np.ndarray] = {}
    for camera in entry.pop("cameras"):
        data, ends = arrays[f"{k}.{camera}"], arrays.get(f"{k}.{camera}.ends")
        images[camera] = data if ends is None else [data[a:b].tobytes() for a, b in zip([0, *ends[:-1]], ends)]
    entry["subtasks"], entry["events"] = tuple(entry["subtasks"]), tuple(map(tuple, entry["events"]))
    return Episode(**entry, **{name: arrays[f"{k}.{name}"] for name in COLUMNS}, images=images)


def shards(folder: Path) -> list[Path]:
    """Every shard under a folder that was recorded to, in order."""
    if not (folder / RECIPE).is_file():
        raise EpisodesError(f"{folder} holds no recorded episodes: there is no {RECIPE}")
    return sorted(folder.glob("*/*.npz"))


def put(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
