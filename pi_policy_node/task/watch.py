"""Whether a task gets on: new steps, or more progress in them than ever before."""

from __future__ import annotations

import math

ADVANCE = 0.02  # of progress that counts


class Watch:
    """Of one attempt. A step that comes again is no news, and counts only when it gets further than before."""

    def __init__(self, now: float) -> None:
        self._advanced = now  # s, steady
        self._seen: set[str] = set()
        self._best: dict[str, float] = {}
        self.best = 0.0  # progress of the step under way

    def see(self, step: str, progress: float, now: float) -> None:
        """An answer of the policy. Progress is nan where it does not tell."""
        if math.isnan(progress):
            self._advanced = now
            return
        if step not in self._seen:
            self._seen.add(step)
            self._best.clear()  # what is done again after it, is done for another purpose
            self._advanced = now
        if progress > self._best.get(step, -1.0) + ADVANCE:
            self._best[step] = progress
            self._advanced = now
        self.best = self._best.get(step, progress)

    def pause(self, now: float) -> None:
        """The robot is not the policy's now."""
        self._advanced = now

    def still(self, now: float) -> float:
        """s without any advance."""
        return now - self._advanced
