"""How many rows run while a policy thinks."""

from __future__ import annotations

import math
from collections import deque

import numpy as np


class DelayTracker:
    """How many rows run while an inference is under way, from rows really consumed.

    A percentile over a window: one slow inference neither is ignored nor haunts the estimate for ever, and the
    first ones (warm-up) are not counted at all.
    """

    def __init__(self, *, window: int = 20, percentile: float = 95.0, initial: int = 1, skip: int = 2) -> None:
        self._seen: deque[int] = deque(maxlen=window)
        self._percentile, self._initial, self._skip = percentile, initial, skip

    def consumed(self, rows: int) -> None:
        """`rows` were played between an observation and the arrival of the chunk made from it."""
        if rows < 0:
            raise ValueError(f"{rows} rows were consumed; it cannot be fewer than none")
        if self._skip > 0:
            self._skip -= 1
            return
        self._seen.append(rows)

    def estimate(self) -> int:
        """Rows to count on, rounded up."""
        if not self._seen:
            return self._initial
        return math.ceil(np.percentile(np.asarray(self._seen), self._percentile) - 1e-9)
