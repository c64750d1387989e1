"""Real-time chunking: a new chunk that agrees with the rows which run while it is being computed.

Guided (arXiv 2506.07339): each denoising step is pulled towards the previous chunk, through the network's Jacobian.
Trained (arXiv 2512.05964): the first rows are given without noise, to a model that was trained so (`Pi.loss`, clean).
`Ensemble` is temporal ensembling, for comparison; how many rows an inference takes is in delay.py.
Time as in the model: 1 is noise, 0 is data.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

STRONGEST = 5.0  # β, the cap on the guidance weight


@dataclass
class Guide:
    """What a guided chunk is pulled towards, in the model's normalised actions."""

    target: Tensor  # [B, H, D]; whatever where the weight is 0
    weight: Tensor  # [B, H, D], 0..1


def soft_mask(horizon: int, committed: int, known: int) -> np.ndarray:
    """Weights [H]: 1 for rows that will certainly run, falling to 0 where the previous chunk ends.

    committed = d, rows that run while we think; known = H - s, rows of the previous chunk that are left.
    """
    if not 0 <= committed <= known <= horizon:
        raise ValueError(f"0 <= committed ({committed}) <= known ({known}) <= horizon ({horizon}) must hold")
    i = np.arange(horizon)
    c = (known - i) / (known - committed + 1)
    falling = c * np.expm1(c) / math.expm1(1)
    return np.where(i < committed, 1.0, np.where(i < known, falling, 0.0))


def strength(t: float, strongest: float = STRONGEST) -> float:
    """The guidance weight at time t: min(β, (t² + (1 - t)²)/(t(1 - t)))."""
    return strongest if t * (1 - t) <= 0 else min(strongest, (t * t + (1 - t) ** 2) / (t * (1 - t)))


def guided_velocity(velocity: Callable[[Tensor], Tensor], x: Tensor, t: float, guide: Guide) -> Tensor:
    """The velocity at x [B, H, D], bent towards the target by a true vector-Jacobian product through the network."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        v = velocity(x)
        guess = x - t * v  # the actions this would end at
        pull = (guide.weight * (guide.target - guess)).detach()
        (bent,) = torch.autograd.grad(guess, x, pull)
    return v.detach() - strength(t) * bent


class Ensemble:
    """Temporal ensembling: each row is the mean of all chunks that planned it, the oldest weighted most.

    exp(-decay·age rank), as in ACT: rank 0 is the oldest chunk that still covers the row.
    """

    def __init__(self, *, dt: float, decay: float = 0.01, keep: int = 8) -> None:
        self._dt, self._decay = dt, decay
        self._chunks: deque[tuple[float, np.ndarray]] = deque(maxlen=keep)

    def add(self, stamp: float, rows: np.ndarray) -> np.ndarray:
        """A chunk [H, A] whose row 0 is due at stamp -> the same rows, each averaged with what older chunks said."""
        self._chunks.append((stamp, np.array(rows, dtype=np.float64)))
        total, weights = np.zeros_like(self._chunks[-1][1]), np.zeros((len(rows), 1))
        rank = np.zeros((len(rows), 1))
        for start, old in self._chunks:
            shift = round((stamp - start) / self._dt)
            if shift < 0 or shift >= len(old):
                continue
            covered = min(len(rows), len(old) - shift)
            weight = np.exp(-self._decay * rank[:covered])
            total[:covered] += weight * old[shift : shift + covered]
            weights[:covered] += weight
            rank[:covered] += 1
        return total / weights

    def reset(self) -> None:
        self._chunks.clear()
