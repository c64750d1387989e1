"""Figures out of what a probe has noted down. Times are in ns of one clock unless a name says otherwise."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping, Sequence

import numpy as np


def percentiles(values: Sequence[float], *, scale: float = 1.0) -> dict[str, float]:
    """{n, p50, p99, max}; without values, n = 0 and NaN."""
    array = np.asarray(values, float) * scale
    if not len(array):
        return {"n": 0, "p50": float("nan"), "p99": float("nan"), "max": float("nan")}
    return {"n": len(array), "p50": float(np.percentile(array, 50)), "p99": float(np.percentile(array, 99)),
            "max": float(array.max())}


def complete_sets(arrivals: Mapping[str, Mapping[int, int]]) -> dict[int, int]:
    """{stamp: arrival of its last image} of the stamps that came from every camera; arrivals[camera][stamp]."""
    cameras = list(arrivals.values())
    if not cameras:
        return {}
    common = set(cameras[0]).intersection(*cameras[1:])
    return {stamp: max(camera[stamp] for camera in cameras) for stamp in sorted(common)}


def last_arrivals(arrivals: Mapping[str, Mapping[int, int]], used: Iterable[Mapping[str, int]]) -> list[int | None]:
    """For each set of image stamps {camera: stamp}, when its last image arrived; None where one was not seen."""
    result: list[int | None] = []
    for stamps in used:
        seen = [arrivals[camera].get(stamp) for camera, stamp in stamps.items()]
        result.append(None if not seen or None in seen else max(seen))
    return result


def next_after(events: Sequence[int], times: Sequence[int]) -> list[int]:
    """For each event, how long until the first of the sorted `times` not before it; none for events after the last."""
    delays = []
    for event in events:
        index = bisect.bisect_left(times, event)
        if index < len(times):
            delays.append(times[index] - event)
    return delays


def answers(captured: Mapping[int, int], chunks: Sequence[tuple[int, int]], commands: Sequence[int]) -> list[int]:
    """How long from what was seen to the first command that follows from it, for each of the chunks (stamp of what it
    was planned from, when it was sent); captured: {stamp: when the last image of that was sent}."""
    known = [(captured[stamp], sent) for stamp, sent in chunks if stamp in captured and sent <= max(commands, default=0)]
    return [delay + sent - seen for (seen, sent), delay in zip(known, next_after([sent for _, sent in known], commands))]


def holds(
    modes: Sequence[tuple[float, bool, str]], tasks: Sequence[Sequence[float]], *,
    settled: float = 0.5, tail: float = 0.3,
) -> list[str]:
    """Why the robot was held while a task was under way: the cause of every such hold.

    modes: (s, whether it follows a plan, what holds it), one per status. tasks: [begin, end] in s; one may take
    `settled` s to begin, and in its last `tail` s the plan is over.
    """
    found = []
    followed = True
    for at, follows, cause in modes:
        inside = any(begin + settled < at < end - tail for begin, end in tasks)
        if inside and followed and not follows:
            found.append(cause)
        followed = follows or not inside
    return found


def jumps(times: Sequence[float], positions: np.ndarray, velocities: np.ndarray, limit: np.ndarray, *,
          period: float) -> list[float]:
    """When a reference moved further between two samples than its own velocities allow, in s.

    times [N] s, positions and velocities [N, J], limit [J] the joints' acceleration limits. A smooth reference moves by
    the mean of the two velocities times the step, give or take what the acceleration can change on the way. period: s,
    an update of the controller. A joint_trajectory_controller dates its last reference one update too early when it
    starts a new trajectory from it, whatever that trajectory is: at a velocity v, that step is v * period too long.
    """
    step = np.diff(np.asarray(times, float))[:, None]
    moved = np.diff(positions, axis=0)
    expected = 0.5 * (velocities[1:] + velocities[:-1]) * step
    slack = 0.5 * limit * step**2 + 1.1 * period * np.maximum(np.abs(velocities[1:]), np.abs(velocities[:-1])) + 1e-6
    return _when(times, step, np.abs(moved - expected) > slack)


def velocity_jumps(
    times: Sequence[float], velocities: np.ndarray, limit: np.ndarray, *, held: float = 0.0
) -> list[float]:
    """When a reference's velocity changed faster than `limit` [J] allows, between two samples, in s.

    held: s for which a controller holds a velocity until the next command comes (a base's), which is one step then.
    """
    step = np.diff(np.asarray(times, float))[:, None]
    changed = np.abs(np.diff(velocities, axis=0))
    return _when(times, step, changed > limit * np.maximum(step, held) * 1.02 + 1e-4)


def _when(times: Sequence[float], step: np.ndarray, wrong: np.ndarray) -> list[float]:
    """The times [N] at the end of steps [N - 1, 1] in which any joint [N - 1, J] was wrong; not of repeated samples."""
    return np.asarray(times, float)[1:][wrong.any(1) & (step[:, 0] > 0)].tolist()


def rate(stamps: Sequence[float], walls: Sequence[float]) -> float:
    """How fast a clock runs, in its seconds per second, from (stamp, time of arrival) pairs."""
    if len(stamps) < 2 or walls[-1] <= walls[0]:
        return float("nan")
    return (stamps[-1] - stamps[0]) / (walls[-1] - walls[0])
