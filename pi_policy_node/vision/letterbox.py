"""Fits a picture into a box without distortion; equal to openpi's `resize_with_pad`, as in its policies' training."""

from __future__ import annotations

import numpy as np
from PIL import Image


def fit(height: int, width: int, box: tuple[int, int]) -> tuple[int, int, int, int]:
    """Where a picture of height x width lands in `box` (height, width): top, left, height, width."""
    ratio = max(width / box[1], height / box[0])
    inner_height = max(1, int(height / ratio))  # a sliver of a picture keeps one row
    inner_width = max(1, int(width / ratio))
    return (box[0] - inner_height) // 2, (box[1] - inner_width) // 2, inner_height, inner_width


def letterbox(image: np.ndarray, box: tuple[int, int]) -> np.ndarray:
    """`image`, uint8 [h, w, 3], fitted into `box` (height, width), centred on black; bilinear and antialiased.

    Pillow's resampling is the reference itself. Equal code in numpy took 3.0 ms from 640x480 to 224x224, Pillow 1.8;
    OpenCV has no filter with these values.
    """
    if image.shape[:2] == tuple(box):
        return image
    top, left, height, width = fit(image.shape[0], image.shape[1], box)
    small = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    if (height, width) == tuple(box):
        return small
    boxed = np.zeros((*box, 3), dtype=np.uint8)
    boxed[top:top + height, left:left + width] = small
    return boxed
