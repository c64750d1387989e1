"""One camera as its consumer sees it: what came, what was refused and why, and pictures decoded once at most."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass

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


class Picture:
    """An image on its way into a set: decoded and letterboxed once, in another thread or when somebody asks."""

    def __init__(self, eye: Eye, box: tuple[int, int], decode: Callable[[], np.ndarray]) -> None:
        """`box`: (height, width)."""
        self._eye, self._box, self._decode = eye, box, decode
        self._result: Future[np.ndarray] | None = None

    def start(self, pool: Executor) -> None:
        """Begins now, in a thread of `pool`: the next image can be received meanwhile."""
        self._result = pool.submit(self._make)

    def boxed(self) -> np.ndarray:
        """rgb8 [*box, 3]. ImageError where the image turns out to be broken."""
        if self._result is None:
            self._result = Future()
            try:
                self._result.set_result(self._make())
            except ImageError as error:
                self._result.set_exception(error)
        return self._result.result()

    def _make(self) -> np.ndarray:
        image = self._decode()
        self._decode = None  # lets go of the message
        eye = self._eye
        eye.decoded += 1
        eye.remark = "" if image.shape[:2] == eye.size else (
            f"images of {image.shape[1]}x{image.shape[0]}; the robot file says {eye.size[1]}x{eye.size[0]}")
        return letterbox(image, self._box)
