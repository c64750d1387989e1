"""From the bytes of sensor_msgs Image and CompressedImage to rgb8 arrays, or to one sentence about what is wrong."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

MAX_SIDE = 8192  # pixels; nothing a camera on a robot makes is larger, and a hostile header could ask for terabytes

# encoding -> (bytes per pixel, conversion to rgb8)
ENCODINGS: dict[str, tuple[int, int | None]] = {
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
}
FORMATS = {"JPEG": "jpeg", "PNG": "png"}
_MODES = ("RGB", "RGBA", "L", "LA", "P", "1")  # Pillow's names for 8-bit (and smaller) pictures


class ImageError(ValueError):
    """An image that can't be used. The message says what was got and what is accepted."""


def check_image(*, encoding: str, height: int, width: int, step: int, length: int,
                accepted: Iterable[str] = tuple(ENCODINGS)) -> None:
    """Checks the header of a raw image against its `length` in bytes; costs nothing. ImageError where it is wrong."""
    if encoding not in accepted:
        raise ImageError(f"encoding '{encoding[:40]}' is not accepted; accepted are {', '.join(accepted)}")
    channels = ENCODINGS[encoding][0]
    _check_size(height, width)
    if step < width * channels:
        raise ImageError(f"step is {step} bytes, but {width} pixels of {encoding} need {width * channels}")
    if length != step * height:
        raise ImageError(f"{length} bytes of data, but {height} rows of {step} bytes are {step * height}")


def decode_image(*, encoding: str, height: int, width: int, step: int, data: Any, is_bigendian: int = 0) -> np.ndarray:
    """An rgb8 array [height, width, 3] of a raw image; rows may be padded. May share memory with `data`.

    `is_bigendian` says nothing about one-byte channels and is ignored, whatever drivers put there.
    """
    pixels = np.frombuffer(data, dtype=np.uint8)
    check_image(encoding=encoding, height=height, width=width, step=step, length=pixels.size)
    channels, conversion = ENCODINGS[encoding]
    rows = np.ascontiguousarray(pixels.reshape(height, step)[:, :width * channels]).reshape(height, width, channels)
    return rows if conversion is None else cv2.cvtColor(rows, conversion)


def decode_compressed(*, format: str, data: Any) -> np.ndarray:
    """An rgb8 array [height, width, 3] of a JPEG or PNG file. `format` is only looked at for what is no colour image.

    A file cut short is refused: OpenCV would fill up the rest with grey, and a policy would act on it.
    """
    if "compressedDepth" in format:
        raise ImageError(f"format '{format[:60]}' is a depth image; accepted are colour images as jpeg or png")
    raw = bytes(data)
    try:
        with Image.open(io.BytesIO(raw), formats=tuple(FORMATS)) as picture:
            _check_size(picture.height, picture.width)  # known from the header, before anything is decoded
            if picture.mode not in _MODES:
                raise ImageError(f"a {FORMATS[picture.format]} of Pillow mode {picture.mode} (format '{format[:60]}') "
                                 "is not accepted; accepted are 8-bit colour or grey")
            if "transparency" in picture.info:  # a palette with transparency, say: keep the colours underneath
                picture = picture.convert("RGBA")
            return np.asarray(picture.convert("RGB"))
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{len(raw)} bytes that are neither jpeg nor png (format '{format[:60]}')") from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error ...
        raise ImageError(f"a broken file of {len(raw)} bytes (format '{format[:60]}'): {error}") from None


def encode_jpeg(image: np.ndarray, *, quality: int = 90) -> bytes:
    """A JPEG file of an rgb8 array [height, width, 3]."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ImageError(f"cannot encode an image of shape {image.shape}")
    return data.tobytes()


def _check_size(height: int, width: int) -> None:
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise ImageError(f"{width} x {height} pixels; accepted are 1 to {MAX_SIDE} a side")
