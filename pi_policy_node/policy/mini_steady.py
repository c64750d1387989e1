"""Where the subtask's thing is, looked at again and again: it lies still, whatever one look makes of it.

A hand that comes near hides what it is for, and eyes then take something else for it, for one look: what is 10 cm away
in this look and was not in the last is not believed until it has been seen there several times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

JUMP = 0.03  # m, seen from above: farther from where it was, it is not believed at once
LOOKS = 3  # in a row that must agree on it, until it is
BLEND = 0.5  # part of the way to what the newest look says
SURE = 0.5  # of what a look says: less is not listened to
FORGETS = 3.0  # s without a look that agrees


@dataclass
class Steady:
    """Of one robot."""

    _about: str = ""  # the subtask's words
    _at: np.ndarray | None = None  # [3] m in the base's frame
    _seen: float = -math.inf  # s: when a look agreed last
    lost: float = -math.inf  # s: since when nothing is known of where it is, though something was
    _others: list[np.ndarray] = field(default_factory=list)  # [3] what the last looks said instead
    lay: float = math.inf  # m: the lowest that it was: before it was lifted, and before a hand hid half of it

    @property
    def knows(self) -> bool:
        """Whether a look that was sure has said where it is, not long ago."""
        return self._at is not None

    def take(self, subtask: str, place: np.ndarray, sure: float, stamp: float) -> np.ndarray:
        """Where it is, [3] in the base's frame, from what this look says. How high it is may change: it is lifted."""
        if subtask != self._about or stamp < self._seen:
            self._about, self._at, self._others, self.lay, self.lost = subtask, None, [], math.inf, -math.inf
        if self._at is not None and stamp - self._seen >= FORGETS:
            self._at, self._others, self.lost = None, [], stamp
        if self._at is None or math.dist(place[:2], self._at[:2]) < JUMP:
            if sure >= SURE:
                before = place if self._at is None else self._at
                self._at = np.r_[before[:2] + BLEND * (place - before)[:2], place[2]]
                self._seen, self._others = stamp, []
        elif sure >= SURE:
            self._others = [other for other in self._others if math.dist(place[:2], other[:2]) < JUMP] + [place.copy()]
            if len(self._others) >= LOOKS:
                self._at, self._seen, self._others = place.copy(), stamp, []
        if self._at is None:
            return place
        self.lay = min(self.lay, float(self._at[2]))
        return self._at.copy()
