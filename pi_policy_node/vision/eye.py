"""One camera as its consumer sees it: what came, what was refused and why, and pictures decoded once at most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pi_policy_node.vision.decode import ImageError
from pi_policy_node.vision.letterbox import letterbox
from pi_policy_node.vision.watch import CameraWatch


@dataclass
class Eye:
    """State and counters of one camera."""

    watch: CameraWatch
    size: tuple[int, int]  # (height, width) that the robot file says
    reason: str = "no image yet"  # why it is not valid; empty when it is
    remark: str = ""  # what is odd about images that are used all the same
    arrived: int = 0
    refused: int = 0
    decoded: int = 0


@dataclass
class Picture:
    """An image on its way into a set: decoded and letterboxed when somebody first asks, and only then."""

    eye: Eye
    box: tuple[int, int]  # (height, width)
    decode: Callable[[], np.ndarray] | None
    _boxed: np.ndarray | ImageError | None = field(default=None, repr=False)

    def boxed(self) -> np.ndarray:
        """rgb8 [*box, 3]. ImageError where the image turns out to be broken."""
        if self._boxed is None:
            try:
                self._boxed = self._make(self.decode())
            except ImageError as error:
                self._boxed = error
            self.decode = None  # lets go of the message
        if isinstance(self._boxed, ImageError):
            raise self._boxed
        return self._boxed

    def _make(self, image: np.ndarray) -> np.ndarray:
        eye = self.eye
        eye.decoded += 1
        eye.remark = "" if image.shape[:2] == eye.size else (
            f"images of {image.shape[1]}x{image.shape[0]}; the robot file says {eye.size[1]}x{eye.size[0]}")
        return letterbox(image, self.box)
