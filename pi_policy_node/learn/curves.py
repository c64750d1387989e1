"""Curves as a picture, with nothing but OpenCV: one small panel for each, on a logarithmic scale where that helps."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np

from pi_policy_node.learn.episodes import put

WIDTH, HEIGHT, MARGIN = 420, 240, 44
_INK, _GRID, _LINE, _DOTS = (40, 40, 40), (225, 225, 225), (180, 110, 30), (40, 60, 200)


def draw(path: Path, panels: dict[str, list[tuple[float, float]]], *, columns: int = 3) -> None:
    """Writes a PNG. panels: title -> (x, y) pairs; x is the same quantity in all."""
    pictures = [_panel(title, np.array(points, float).reshape(-1, 2)) for title, points in panels.items()]
    while len(pictures) % columns:
        pictures.append(np.full((HEIGHT, WIDTH, 3), 255, np.uint8))
    rows = [np.hstack(pictures[i : i + columns]) for i in range(0, len(pictures), columns)]
    put(path, cv2.imencode(".png", np.vstack(rows))[1].tobytes())


def _panel(title: str, points: np.ndarray) -> np.ndarray:
    image = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    _write(image, title, (MARGIN, 22), 0.5)
    points = points[np.isfinite(points).all(1)]
    if not len(points):
        return image
    log = bool((points[:, 1] > 0).all() and points[:, 1].max() > 10 * points[:, 1].min())
    y = np.log10(points[:, 1]) if log else points[:, 1]
    low, high = float(y.min()), float(y.max())
    high = high if high > low else low + 1
    left, right = float(points[:, 0].min()), float(points[:, 0].max())
    right = right if right > left else left + 1

    def at(px: float, py: float) -> tuple[int, int]:
        return (round(MARGIN + 10 + (px - left) / (right - left) * (WIDTH - 2 * MARGIN)),
                round(HEIGHT - MARGIN - (py - low) / (high - low) * (HEIGHT - 2 * MARGIN)))

    for k in range(5):
        level = low + (high - low) * k / 4
        cv2.line(image, at(left, level), at(right, level), _GRID, 1)
        _write(image, f"{10**level if log else level:.3g}", (2, at(left, level)[1] + 4), 0.35)
    for value in (left, right):
        _write(image, f"{value:g}", (at(value, low)[0] - 14, HEIGHT - MARGIN + 18), 0.35)
    path = np.array([at(px, py) for px, py in zip(points[:, 0], y)], np.int32)
    cv2.polylines(image, [path], False, _LINE, 1, cv2.LINE_AA)
    if len(path) < 40:
        for x_, y_ in path.tolist():
            cv2.circle(image, (x_, y_), 2, _DOTS, -1, cv2.LINE_AA)
    return image


def _write(image: np.ndarray, text: str, at: tuple[int, int], size: float) -> None:
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, _INK, 1, cv2.LINE_AA)


def smooth(points: list[tuple[float, float]], count: int = 200) -> list[tuple[float, float]]:
    """At most so many points, each the mean of its neighbours."""
    if len(points) <= count:
        return points
    parts = np.array_split(np.array(points), count)
    return [(float(p[:, 0].mean()), float(p[:, 1].mean())) for p in parts if math.isfinite(p[:, 1].mean())]
