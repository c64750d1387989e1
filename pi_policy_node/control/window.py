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

    def state(self, time: float) -> np.ndarray:
        """[3, A] at a time; before the start, the start; after the end, at rest."""
        return self.states(np.array([time]))[0]

    def states(self, times: np.ndarray) -> np.ndarray:
        """[N] -> [N, 3, A]"""
        since = np.clip(np.asarray(times) - self.time, 0.0, self.blend + self.tail)
        result = np.empty((len(since), *self.start.shape))
        early = since < self.blend
        if early.any():
            result[early] = self._along(since[early], blend_coefficients(self.blend), np.concatenate([self.start, self.aim]))
        if not early.all():
            result[~early] = self._along(since[~early] - self.blend, tail_coefficients(self.tail), self.aim)
        result[since >= self.blend + self.tail, 1:] = 0.0
        return result

    @staticmethod
    def _along(times: np.ndarray, coefficients: np.ndarray, ends: np.ndarray) -> np.ndarray:
        return np.einsum("dnk,ka->nda", _powers(times)[:3], coefficients @ ends)

    def samples(self) -> tuple[np.ndarray, np.ndarray]:
        """Times from the start [N] and p, v, a, jerk [4, N, A], densely, over the blend and the tail."""
        times, maps = sampler(self.blend, self.tail)
        return times, maps @ np.concatenate([self.start, self.aim])

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """What to send: times from the start [P] (> 0, increasing) and states [P, 3, A], the last one at rest.

        The points within the tail change nothing for a controller that uses accelerations; one that does not brakes
        nearly as well. There is none before the aim: the controller goes there from wherever its reference is when the
        message arrives, and the longer it has for that, the less a delay of some milliseconds disturbs.
        """
        tail = np.array([0.25, 0.5, 0.75, 1.0]) * self.tail
        times = np.concatenate([[self.blend], self.blend + tail] if self.blend > 0.0 else [tail])
        states = self.states(self.time + times)
        states[-1, 1:] = 0.0
        return times, states
