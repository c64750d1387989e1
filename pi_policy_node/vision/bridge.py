"""cv_bridge where it is installed and works; the five common encodings come out the same either way."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np

from pi_policy_node.vision.decode import ImageError, check_image, decode_image

PROBE_LIMIT = 20.0  # s

# Encodings that only cv_bridge turns into rgb8, with their bytes per pixel.
EXTRA = {"bayer_rggb8": 1, "bayer_bggr8": 1, "bayer_gbrg8": 1, "bayer_grbg8": 1, "yuv422": 2, "yuv422_yuy2": 2}


def find_cv_bridge() -> tuple[Any | None, str]:
    """A CvBridge, or None, and a sentence about it.

    Tried in a process of its own first: apt's cv_bridge was built for NumPy 1 on some releases and, loaded beside
    NumPy 2, takes the interpreter down instead of raising.
    """
    probe = "import numpy, cv_bridge; cv_bridge.CvBridge().cv2_to_imgmsg(numpy.zeros((2, 2, 3), 'uint8'), 'rgb8')"
    try:
        found = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=PROBE_LIMIT)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"own decoding: cv_bridge could not be tried ({error})"
    if found.returncode == 0:
        import cv_bridge

        return cv_bridge.CvBridge(), f"cv_bridge: {cv_bridge.__file__}"
    last = (found.stderr.strip().splitlines() or [f"exit status {found.returncode}"])[-1]
    return None, f"own decoding: cv_bridge is not usable ({last})"


def check_message(message: Any, bridge: Any | None = None) -> None:
    """Checks the header of a sensor_msgs Image against its data; costs nothing. ImageError where it is wrong."""
    size, step, width = len(message.data), message.step, message.width
    if bridge is None or message.encoding not in EXTRA:
        check_image(encoding=message.encoding, height=message.height, width=width, step=step, length=size)
    elif not (width and message.height and step >= width * EXTRA[message.encoding] and size == step * message.height):
        raise ImageError(f"{width} x {message.height} pixels of {message.encoding} with a step of {step} bytes "
                         f"don't fit {size} bytes of data")


def decode_message(message: Any, bridge: Any | None = None) -> np.ndarray:
    """An rgb8 array of a sensor_msgs Image, by `bridge` (a CvBridge) or by ourselves. ImageError where it is wrong."""
    check_message(message, bridge)
    if bridge is None:
        return decode_image(encoding=message.encoding, height=message.height, width=message.width, step=message.step,
                            is_bigendian=message.is_bigendian, data=message.data)
    try:
        return np.asarray(bridge.imgmsg_to_cv2(message, desired_encoding="rgb8"))
    except Exception as error:  # CvBridgeError, cv2.error, ValueError ...
        raise ImageError(f"cv_bridge cannot convert {message.encoding} to rgb8: {error}") from None
