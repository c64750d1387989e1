"""Many pictures of each eye in memory: JPEGs until a batch needs them."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from pi_policy_node.policy.mini_model import EYES
from pi_policy_node.policy.shapes import EyeShape, MiniShape


def eye_shape(shape: MiniShape, eye: str) -> EyeShape:
    return shape.wrist if "wrist" in eye else getattr(shape, eye)


class Pictures:
    """F frames of every eye; some may lack some eyes."""

    def __init__(self, shape: MiniShape) -> None:
        self.shape = shape
        self._parts: dict[str, list[np.ndarray]] = {eye: [] for eye in EYES}
        self._sizes: dict[str, list[np.ndarray]] = {eye: [] for eye in EYES}

    def add(self, eye: str, images: list[bytes] | None, count: int) -> None:
        """The next `count` frames of an eye; None: it was not recorded."""
        sizes = np.zeros(count, np.int64) if images is None else np.array([len(i) for i in images])
        self._sizes[eye].append(sizes)
        if images is not None:
            self._parts[eye].append(np.frombuffer(b"".join(images), np.uint8))

    def close(self) -> None:
        """All are there."""
        empty = [np.zeros(0, np.uint8)]
        self._blob = {eye: np.concatenate(parts or empty) for eye, parts in self._parts.items()}
        self._size = {eye: np.concatenate(sizes) for eye, sizes in self._sizes.items()}
        self._end = {eye: np.cumsum(sizes) for eye, sizes in self._size.items()}
        del self._parts, self._sizes

    def decode(self, frames: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """uint8 [N, h, w, 3] by eye, and which there are [N, eyes]."""
        seen = np.zeros((len(frames), len(EYES)), bool)
        result = {}
        for i, eye in enumerate(EYES):
            shape, blob = eye_shape(self.shape, eye), self._blob[eye]
            out = np.zeros((len(frames), shape.height, shape.width, 3), np.uint8)
            for row, (size, end) in enumerate(zip(self._size[eye][frames], self._end[eye][frames])):
                if size:
                    image = cv2.imdecode(blob[end - size : end], cv2.IMREAD_COLOR)
                    if image.shape[:2] != out.shape[1:3]:
                        image = cv2.resize(image, (shape.width, shape.height), interpolation=cv2.INTER_AREA)
                    out[row] = image[..., ::-1]
                    seen[row, i] = True
            result[eye] = out
        return result, seen


def to_float(images: np.ndarray, rng: np.random.Generator | None) -> Tensor:
    """uint8 [N, h, w, 3] -> float [N, 3, h, w] in -1..1; in training brighter or darker by a little."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    if rng is not None:
        gain = torch.from_numpy(rng.uniform(0.85, 1.15, (len(x), 1, 1, 1)).astype(np.float32))
        x = ((x + 1) * gain - 1).clamp(max=1)
    return x.contiguous()


def cells(shape: EyeShape, places: np.ndarray) -> np.ndarray:
    """[N] the cell of an eye's map for places [N, 2] in its picture, 0..1; one behind the last where they are NaN."""
    rows, columns = shape.cells
    inside = np.isfinite(places[:, 0])
    x, y = np.where(inside[:, None], places, 0.0).T
    cell = (y * rows).astype(int).clip(0, rows - 1) * columns + (x * columns).astype(int).clip(0, columns - 1)
    return np.where(inside, cell, rows * columns)
