"""Chunks on the time line, and which of their rows are committed: those that will have run before the next one comes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from pi_policy_node.policy.base import Prefix
from pi_policy_node.robot import Robot

LAG = 0.25  # s by which an arm may be behind its command


@dataclass(frozen=True)
class Chunk:
    """Rows on the time line: row k is due at stamp + k dt [s, the node's clock]. No rows: come to rest."""

    stamp: float
    rows: np.ndarray  # [H, A]
    task: str
    observed: float  # s, the node's clock
    inference_time: float = 0.0  # s
    fixed: int = 0  # leading rows repeated from the chunk before
    sequence: int = 0
    source: str = ""  # the policy that made it


def committed(last: Chunk | None, task: str, *, stamp: float, until: float, state: np.ndarray,
              robot: Robot) -> tuple[float, Prefix] | None:
    """When row 0 of the next chunk is due, and the rows from there on that will have run at `until`. stamp: of the look.

    The next chunk keeps the time grid of the last one, so that its fixed rows are that one's rows and not
    interpolations. None: nothing is committed, without a last chunk, after one of another task (the bridge brakes at once
    when the instruction changes) or of a later look (the clock jumped), and where the robot is not where that chunk would
    have it (it was held). The robot then rests, or comes to rest, and row 0 is due when the answer is there: due at the
    look, its first rows would be past, and the robot would have to jump to those after them.
    """
    if last is None or len(last.rows) == 0 or last.task != task or stamp < last.observed:
        return None
    played = min(len(last.rows), int((last.observed + robot.max_blind - last.stamp) / robot.dt) + 1)
    first = max(math.ceil((stamp - last.stamp) / robot.dt - 1e-6), 0)
    end = min(max(math.ceil((until - last.stamp) / robot.dt), first + 1), played)  # of one that is yet to begin, row 0
    if end <= first or not follows(last.rows[: played], first, state, robot):
        return None
    return last.stamp + first * robot.dt, Prefix(last.rows[first:end], planned=last.rows[end:])


def follows(rows: np.ndarray, first: int, state: np.ndarray, robot: Robot) -> bool:
    """Whether a measured state [A] is on the plan, given that an arm lags behind its command by up to LAG."""
    recent = rows[max(first - round(LAG / robot.dt), 0): first + 1]
    judged = ~(robot.is_base | robot.is_gripper)  # velocities are noise; a gripper on a block never arrives
    apart = np.abs(recent - state).min(axis=0)
    return bool(np.all(apart[judged] <= robot.splice_tolerance[judged]))


def cut(chunk: Chunk, until: float, dt: float) -> Chunk | None:
    """The same chunk without the rows due after `until`; None where nothing of it would be left, or nothing goes."""
    end = math.ceil((until - chunk.stamp) / dt)
    return replace(chunk, rows=chunk.rows[:end], fixed=end) if 0 < end < len(chunk.rows) else None
