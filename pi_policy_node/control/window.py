"""A window: the next stretch of a motion and how it ends, as a controller will interpolate it.

A window starts in a state, reaches an aim after `blend` seconds along one quintic, and from there comes to rest within
`tail` seconds along the quartic whose velocity is cubic. A controller that is given positions, velocities and
accelerations at its points follows exactly these curves, as a quintic through two points of a quintic (or quartic) is
that curve itself. A state is [3, A]: position, velocity, acceleration. The base's columns have no position that counts;
theirs is the distance since the window's start.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np


EARLIEST = 0.08  # s from the start of a braking window to its first point, if it lasts so long


@functools.lru_cache(maxsize=64)
def blend_coefficients(duration: float) -> np.ndarray:
    """[6, 6]: (p, v, a at the start, p, v, a at the end) -> coefficients of the quintic, lowest power first."""
    ends = np.concatenate([_powers(np.array([t]))[:3, 0] for t in (0.0, duration)])  # [6 conditions, 6 coefficients]
    return np.linalg.inv(ends)


@functools.lru_cache(maxsize=64)
def tail_coefficients(duration: float) -> np.ndarray:
    """[6, 3]: (p, v, a) -> coefficients of the quartic that is at rest, without acceleration, after `duration`."""
    t = duration
    return np.array([
        [1, 0, 0],
        [0, 1, 0],
        [0, 0, 1 / 2],
        [0, -1 / t**2, -2 / (3 * t)],
        [0, 1 / (2 * t**3), 1 / (4 * t**2)],
        [0, 0, 0],
    ])  # fmt: skip


def _powers(times: np.ndarray) -> np.ndarray:
    """[N] -> [4, N, 6]: how much each coefficient adds to position, velocity, acceleration and jerk."""
    result = np.zeros((4, len(times), 6))
    factor = np.ones(6)
    for d in range(4):
        for k in range(d, 6):
            result[d, :, k] = factor[k] * times ** (k - d)
        factor = factor * (np.arange(6) - d)
    return result


@functools.lru_cache(maxsize=32)
def sampler(blend: float, tail: float, count: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Times [N] over a whole window, from its start, and [4, N, 6]: (start, aim) -> p, v, a and jerk at those times."""
    times, maps = [], []
    if blend > 0.0:
        t = np.linspace(0.0, blend, count + 1)
        times.append(t)
        maps.append(_powers(t) @ blend_coefficients(blend))
    t = np.linspace(0.0, tail, count + 1)
    after = np.zeros((4, count + 1, 6))
    after[:, :, 3:] = _powers(t) @ tail_coefficients(tail)
    times.append(blend + t)
    maps.append(after)  # the joint of the two is there twice, as the jerk has two values there
    return np.concatenate(times), np.concatenate(maps, axis=1)


def free_position(start: np.ndarray, velocity: np.ndarray, acceleration: np.ndarray, duration: float) -> np.ndarray:
    """Where a column ends whose velocity goes from start [3, A] to the given one along a cubic."""
    return start[0] + duration / 2 * (start[1] + velocity) + duration**2 / 12 * (start[2] - acceleration)


@dataclass(frozen=True, eq=False)
class Window:
    """Immutable; times are seconds on the bridge's time line."""

    time: float  # of the start
    start: np.ndarray  # [3, A]
    aim: np.ndarray  # [3, A], due at time + blend
    blend: float  # s; 0: brakes at once, from start
    tail: float  # s, > 0

    @classmethod
    def rest(cls, time: float, position: np.ndarray) -> Window:
        """Stays where it is."""
        state = np.zeros((3, len(position)))
        state[0] = position
        return cls(time, state, state, 0.0, 1e-3)

    @property
    def end(self) -> float:
        """When it is at rest."""
        return self.time + self.blend + self.tail

    @functools.cached_property
    def _curves(self) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients [6, A] of the blend and of the tail."""
        blend = blend_coefficients(self.blend) @ np.concatenate([self.start, self.aim]) if self.blend > 0.0 else None
        return blend, tail_coefficients(self.tail) @ self.aim

    @functools.cached_property
    def _known(self) -> dict[float, np.ndarray]:
        """States that were asked for already: in one tick, the same few times again and again."""
        return {}

    def state(self, time: float) -> np.ndarray:
        """[3, A] at a time; before the start, the start; after the end, at rest."""
        t = min(max(time - self.time, 0.0), self.blend + self.tail)
        if t not in self._known:
            if len(self._known) >= 16:
                self._known.clear()
            self._known[t] = self._state(t)
        return self._known[t].copy()

    def _state(self, t: float) -> np.ndarray:
        over = t >= self.blend + self.tail
        blend, tail = self._curves
        curve, t = (blend, t) if t < self.blend else (tail, t - self.blend)
        t2, t3, t4 = t * t, t**3, t**4
        state = np.array([
            [1.0, t, t2, t3, t4, t4 * t],
            [0.0, 1.0, 2 * t, 3 * t2, 4 * t3, 5 * t4],
            [0.0, 0.0, 2.0, 6 * t, 12 * t2, 20 * t3],
        ]) @ curve  # fmt: skip
        if over:
            state[1:] = 0.0
        return state

    def samples(self) -> tuple[np.ndarray, np.ndarray]:
        """Times from the start [N] and p, v, a, jerk [4, N, A], densely, over the blend and the tail."""
        times, maps = sampler(self.blend, self.tail)
        return times, maps @ np.concatenate([self.start, self.aim])

    @functools.cached_property
    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """What to send: times from the start [P] (> 0, increasing) and states [P, 3, A], the last one at rest.

        The points within the tail change nothing for a controller that uses accelerations; one that does not brakes
        nearly as well. There is none soon after the start: the controller goes to the first one from wherever its
        reference is when the message arrives, and the longer it has for that, the less some milliseconds disturb.
        """
        times = self.blend + self.tail * np.array([0.0, 0.25, 0.5, 0.75, 1.0])
        times = times[(times >= min(EARLIEST, self.blend or self.tail))]
        return times, np.stack([self.state(self.time + t) for t in times[:-1]] + [self.state(np.inf)])
