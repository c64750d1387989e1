"""Many pictures of each eye in memory: JPEGs until a batch needs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from pi_policy_node.policy.mini_eyes import EYES, eye_shape, fit
from pi_policy_node.policy.mini_scene import Found
from pi_policy_node.policy.shapes import EyeShape, MiniShape


class Pictures:
    """F frames of every camera; some may lack some cameras."""

    held = None  # what held eyes see in them

    def __init__(self, shape: MiniShape, cameras: Mapping[str, str]) -> None:
        """cameras: the camera of each eye."""
        self.shape, self._cameras = shape, dict(cameras)
        self._parts: dict[str, list[np.ndarray]] = {camera: [] for camera in cameras.values()}
        self._sizes: dict[str, list[np.ndarray]] = {camera: [] for camera in cameras.values()}

    def add(self, images: Mapping[str, list[bytes]], count: int) -> None:
        """The next `count` frames, by camera."""
        for camera, sizes in self._sizes.items():
            found = images.get(camera)
            sizes.append(np.zeros(count, np.int64) if found is None else np.array([len(i) for i in found]))
            if found is not None:
                self._parts[camera].append(np.frombuffer(b"".join(found), np.uint8))

    def close(self) -> None:
        """All are there."""
        empty = [np.zeros(0, np.uint8)]
        self._blob = {camera: np.concatenate(parts or empty) for camera, parts in self._parts.items()}
        self._size = {camera: np.concatenate(sizes) for camera, sizes in self._sizes.items()}
        self._end = {camera: np.cumsum(sizes) for camera, sizes in self._size.items()}
        del self._parts, self._sizes

    def there(self, frames: np.ndarray) -> np.ndarray:
        """bool [N, eyes]: which there are."""
        return np.stack([self._size[self._cameras[eye]][frames] > 0 for eye in EYES], 1)

    def seen(self, kind: str, frames: np.ndarray, rng: np.random.Generator | None) -> tuple[
            dict[str, Tensor], np.ndarray, Found | None]:
        """As the network takes them, by eye, and which there are; in place of pictures, what held eyes see in them to
        act or to be asked (`kind`: learn/held.py)."""
        if self.held is not None:
            return {}, self.there(frames), self.held.found(kind, frames)
        raw, there = self.decode(frames)
        return {eye: to_float(images, rng) for eye, images in raw.items()}, there, None

    def decode(self, frames: np.ndarray, eyes: Sequence[str] = EYES) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """uint8 [N, h, w, 3] by eye, as it takes them, and which there are [N, all eyes]."""
        shapes = {eye: eye_shape(self.shape, eye) for eye in eyes}
        result = {eye: np.zeros((len(frames), s.rows[1] - s.rows[0], s.width, 3), np.uint8)
                  for eye, s in shapes.items()}
        for camera, blob in self._blob.items():
            those = [eye for eye in eyes if self._cameras[eye] == camera]
            if not those:
                continue
            for row, (size, end) in enumerate(zip(self._size[camera][frames], self._end[camera][frames])):
                if size:
                    image = cv2.imdecode(blob[end - size : end], cv2.IMREAD_COLOR)
                    for eye in those:
                        result[eye][row] = fit(image, shapes[eye])[..., ::-1]
        return result, self.there(frames)


def to_float(images: np.ndarray, rng: np.random.Generator | None) -> Tensor:
    """uint8 [N, h, w, 3] -> float [N, 3, h, w] in -1..1; in training brighter or darker by a little."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    if rng is not None:
        gain = torch.from_numpy(rng.uniform(0.85, 1.15, (len(x), 1, 1, 1)).astype(np.float32))
        x = ((x + 1) * gain - 1).clamp(max=1)
    return x.contiguous()


def cells(shape: EyeShape, places: np.ndarray) -> np.ndarray:
    """[N] the cell of an eye's map for places [N, 2] in its picture, 0..1; one behind the last where it has none."""
    rows, columns = shape.cells
    with np.errstate(invalid="ignore"):
        x = np.floor(places[:, 0] * shape.width / shape.patch)
        y = np.floor((places[:, 1] * shape.height - shape.rows[0]) / shape.patch)
        inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows)
    return np.where(inside, np.where(inside, y * columns + x, 0).astype(int), rows * columns)
