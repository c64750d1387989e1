"""Action chunks on the time line: rows with the times at which they are due, spliced by time."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from pi_policy_node.robot import Robot

MAX_ROWS = 2000
MAX_DT = 1.0  # s


class Refused(Exception):
    """A chunk or another input is not taken. `reason` is one word for the counters, the message a sentence."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, eq=False)
class Chunk:
    """An action chunk as it came: not yet checked for what it asks, but of the right form. Stamps in ns."""

    source: str
    sequence: int
    instruction_id: str
    stamp: int  # when row 0 is due
    observation_stamp: int
    dt: float  # s
    rows: np.ndarray  # [H, A]

    @classmethod
    def read(cls, robot: Robot, *, source: str, sequence: int, instruction_id: str, stamp: int, observation_stamp: int,
             dt: float, horizon: int, names: list[str], data: np.ndarray) -> Chunk:
        """From a message's fields. Refused where the form is wrong; values are not looked at."""
        columns = len(robot.action_names)
        if not horizon:
            return cls(source, sequence, instruction_id, stamp, observation_stamp, robot.dt, np.zeros((0, columns)))
        if tuple(names) != robot.action_names:
            raise Refused("wrong_names", _names_problem(tuple(names), robot.action_names))
        if horizon > MAX_ROWS or len(data) != horizon * columns:
            raise Refused("wrong_size", f"{len(data)} numbers for {horizon} rows of {columns}")
        if not 0.0 < dt <= MAX_DT:
            raise Refused("wrong_dt", f"dt is {dt:g} s; it must be more than 0 and at most {MAX_DT:g}")
        rows = np.array(data, dtype=float).reshape(horizon, columns)
        return cls(source, sequence, instruction_id, stamp, observation_stamp, dt, rows)


def _names_problem(names: tuple[str, ...], right: tuple[str, ...]) -> str:
    if sorted(names) == sorted(right):
        at = next(i for i, (a, b) in enumerate(zip(names, right)) if a != b)
        return f"the columns are in another order: column {at} is '{names[at]}', not '{right[at]}'"
    missing, unknown = [n for n in right if n not in names], [n for n in names if n not in right]
    return "; ".join(
        f"{word} {', '.join(some[:4])}{' ...' if len(some) > 4 else ''}"
        for word, some in (("columns missing:", missing), ("unknown:", unknown)) if some
    ) or f"{len(names)} columns, not {len(right)}: some are named twice"


class Row(IntEnum):
    """What became of a row."""

    PENDING = 0
    EXECUTED = 1
    LIMITED = 2  # played, but not quite as it asked
    DISCARDED = 3  # replaced by a newer chunk, or never to be played


@dataclass(eq=False)
class Rows:
    """Rows of a plan with their due times, for those who look on."""

    times: np.ndarray  # [N] s
    values: np.ndarray  # [N, A]
    fate: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int8))  # [N] of Row

    def pick(self, mask: np.ndarray) -> Rows:
        return Rows(self.times[mask], self.values[mask], self.fate[mask])

    def join(self, other: Rows) -> Rows:
        return Rows(*(np.concatenate(pair) for pair in zip(vars(self).values(), vars(other).values())))


class Timeline:
    """The plan in force. Empty at first; times are seconds on the bridge's time line."""

    HISTORY = 1.0  # s of played rows that are kept
    SMOOTH = 0.08  # s before and after that a fit looks at; a hundredth of a radian at 0.4 Hz is off by a microradian

    def __init__(self, robot: Robot) -> None:
        self._robot = robot
        self.clear()

    def clear(self) -> None:
        columns = len(self._robot.action_names)
        nothing = Rows(np.zeros(0), np.zeros((0, columns)), np.zeros(0, dtype=np.int8))
        self.rows = nothing
        self.discarded = nothing
        self.until = -np.inf  # nothing is played after this
        self.blind = False  # whether that is because of max_blind
        self._dt = self._robot.dt

    def splice(self, times: np.ndarray, values: np.ndarray, *, dt: float, now: float, blind_after: float) -> None:
        """Rows due from now on replace those of the plan from the first of them on; rows past are dropped."""
        due = times >= now
        start = times[due][0]
        old = self.rows
        new = Rows(times[due], values[due], np.where(times[due] > blind_after, Row.DISCARDED, Row.PENDING).astype(np.int8))
        gone = old.pick((old.times >= start - 1e-9) & (old.fate == Row.PENDING))
        gone.fate[:] = Row.DISCARDED
        self.discarded = gone
        self.rows = old.pick((old.times < start - 1e-9) & (old.times > now - self.HISTORY)).join(new)
        self.until = float(min(times[-1], blind_after))
        self.blind = times[-1] > blind_after
        self._dt = dt

    def aim(self, time: float) -> np.ndarray:
        """[3, A]: value, slope and curvature of the plan at a time, by a local fit through the rows around it.

        After its end the plan holds its last row, with the base at zero.
        """
        reach = max(2.5 * self._dt, self.SMOOTH)
        count = int(2 * reach / self._dt) + 2
        played = self.rows.times <= self.until + 1e-9
        times, values = self.rows.times[played], self.rows.values[played]
        near = np.abs(times - time) < reach
        if time > self.until - reach and len(times):
            after = times[-1] + self._dt * np.arange(1, count + 1) + self._dt * max(0, int((time - times[-1]) / self._dt) - 3)
            held = np.where(self._robot.is_base, 0.0, values[-1])
            times, values = np.concatenate([times[near], after]), np.concatenate([values[near], np.tile(held, (count, 1))])
            near = np.abs(times - time) < reach
        if not near.any():  # before the first row, or in a gap: the nearest one
            near[np.argmin(np.abs(times - time))] = True
            time = float(times[near][0])
        times, values = times[near], values[near]
        x = (times - time) / reach
        result = np.zeros((3, values.shape[1]))
        if len(x) >= 4 and x[-1] - x[0] > 1.0:  # many points, far apart: the normal equations are as good, and quicker
            powers = np.stack([np.ones_like(x), x, x * x])
            weighted = powers * (1.0 - powers[2])
            result[:] = np.linalg.solve(weighted @ powers.T, weighted @ values)
        else:
            weight = np.sqrt(1.0 - x**2)[:, None]
            degree = min(2, len(x) - 1)
            powers = np.vander(x, degree + 1, increasing=True)
            result[: degree + 1] = np.linalg.lstsq(weight * powers, weight * values, rcond=None)[0]
        return result * np.array([1.0, 1.0 / reach, 2.0 / reach**2])[:, None]

    def played(self, now: float, *, limited: bool) -> None:
        """Everything due until now has been played."""
        fresh = (self.rows.times <= now) & (self.rows.fate == Row.PENDING)
        self.rows.fate[fresh] = Row.LIMITED if limited else Row.EXECUTED

    def stop(self) -> None:
        """What has not been played never will be."""
        self.rows.fate[self.rows.fate == Row.PENDING] = Row.DISCARDED
        self.until = -np.inf
