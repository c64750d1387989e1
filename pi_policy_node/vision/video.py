"""A camera device or a video file as a camera, with a thread of its own and reconnection."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0  # s between attempts to open a device
FAILED_READS = 5  # in a row: the device is gone


class VideoSource:
    """Reads `source` until closed: "0" or "/dev/video0" is a device, anything else a file or URL that OpenCV opens.

    `on_image(rgb)` gets every picture right after its capture, `on_trouble(sentence)` what is wrong, both in this
    object's thread. A file plays at its own rate and starts again at its end; a device is opened again when it fails.
    """

    def __init__(self, source: str, *, on_image: Callable[[np.ndarray], None], on_trouble: Callable[[str], None],
                 size: tuple[int, int] | None = None, hz: float | None = None) -> None:
        """`size`: (height, width) and `hz` asked of a device; it may answer with others."""
        self.source = source
        self.device = source.isdigit() or source.startswith("/dev/")
        self._on_image = on_image
        self._on_trouble = on_trouble
        self._size = size
        self._hz = hz
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"video {source}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread; returns at once even where a driver hangs in its read."""
        self._closed.set()
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._closed.is_set():
            capture = self._open()
            if isinstance(capture, str):
                trouble, images = capture, 0
            else:
                try:
                    trouble, images = self._play(capture)
                finally:
                    capture.release()
            if trouble:
                self._on_trouble(f"{trouble}; trying again")
                pause = FIRST_PAUSE if images else min(2 * pause, LONGEST_PAUSE)
                self._closed.wait(pause)

    def _open(self) -> cv2.VideoCapture | str:
        if not self.device and "://" not in self.source and not Path(self.source).is_file():
            return f"there is no file {self.source}"
        capture = cv2.VideoCapture(int(self.source) if self.source.isdigit() else self.source)
        if not capture.isOpened():
            return f"OpenCV cannot open {'device' if self.device else 'video'} {self.source}"
        if self.device:
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest picture, not the oldest in a queue
            if self._size is not None:
                capture.set(cv2.CAP_PROP_FRAME_HEIGHT, self._size[0])
                capture.set(cv2.CAP_PROP_FRAME_WIDTH, self._size[1])
            if self._hz is not None:
                capture.set(cv2.CAP_PROP_FPS, self._hz)
        return capture

    def _play(self, capture: cv2.VideoCapture) -> tuple[str, int]:
        """Until closed, the end of a file, or trouble: the trouble in words (empty for the first two), images read."""
        rate = capture.get(cv2.CAP_PROP_FPS)
        period = 0.0 if self.device else 1 / (rate if 1 <= rate <= 240 else self._hz or 30.0)
        due = time.monotonic()
        images = failed = 0
        while not self._closed.is_set():
            done, image = capture.read()
            if done:
                images += 1
                failed = 0
                self._on_image(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
            else:
                failed += 1
                if not self.device and images:
                    return "", images  # the end of a file
                if failed >= FAILED_READS or not self.device:
                    return f"{self.source} opened but gives no picture", images
            due += period
            self._closed.wait(max(0.0, due - time.monotonic()))
        return "", images
