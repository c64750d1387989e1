"""Judges every image at the door: is it news, of now, and of a camera that still sees?"""

from __future__ import annotations

import numpy as np


class CameraWatch:
    """Remembers what one camera last sent. Stamps in nanoseconds on the node's clock."""

    def __init__(self, *, max_age: float, future: float, frozen_frames: int) -> None:
        """`max_age`: oldest accepted image [s]; `future`: accepted clock error [s]; `frozen_frames`: that many equal
        pictures in a row are a frozen camera (a live sensor has noise), 0 = don't compare."""
        self.max_age = max_age
        self.future = future
        self.frozen_frames = frozen_frames
        self._stamp: int | None = None
        self._standing = 0  # images in a row whose stamp did not advance
        self._pixels: np.ndarray | None = None
        self._equal = 1  # pictures in a row with these pixels

    def check(self, stamp: int, now: int, data: np.ndarray) -> str:
        """Why an image captured at `stamp` can't be used; empty if it can. `data`: its bytes, as they came."""
        self._compare(data)
        if stamp == 0:
            return "its stamp is zero; a camera must stamp its images with the time of capture"
        if stamp > now + self.future * 1e9:
            return f"its stamp is {(stamp - now) * 1e-9:.3f} s in the future; check the clocks"
        if now - stamp > self.max_age * 1e9:
            return f"late: captured {(now - stamp) * 1e-9:.3f} s ago, accepted are {self.max_age:g} s"
        if self._stamp is not None and stamp <= self._stamp:
            self._standing += 1
            return f"frozen: its stamp has not advanced for {self._standing} image{'s' * (self._standing > 1)}"
        self._stamp = stamp
        self._standing = 0
        if self.frozen_frames and self._equal >= self.frozen_frames:
            return f"frozen: the same pixels {self._equal} images in a row"
        return ""

    def _compare(self, data: np.ndarray) -> None:
        if self.frozen_frames:
            self._equal = self._equal + 1 if self._pixels is not None and np.array_equal(self._pixels, data) else 1
            self._pixels = data
