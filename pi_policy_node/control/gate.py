"""The door for chunks: what a chunk must be to be played at all. Every refusal has one word and a sentence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pi_policy_node.control.timeline import Chunk, Refused
from pi_policy_node.robot import Robot

RESTART = 0.5  # s of silence after which a source may start counting anew
AHEAD = 0.05  # s that an observation may be ahead of our clock: another process may have seen /clock earlier


class NotFinite(Refused):
    """NaN or infinity in a chunk: whoever made it is broken."""


@dataclass
class _Last:
    sequence: int
    observation_stamp: int
    steady: float


class Gate:
    """Remembers the last chunk of every source."""

    def __init__(self, robot: Robot) -> None:
        self._robot = robot
        self._last: dict[tuple[bool, str], _Last] = {}

    def check(self, chunk: Chunk, *, person: bool, stamp: float, observed: float, now: float, steady: float) -> None:
        """Raises Refused. `stamp`, `observed` and `now` are seconds on the time line."""
        if not np.isfinite(chunk.rows).all():
            bad = np.argwhere(~np.isfinite(chunk.rows))
            raise NotFinite("not_finite", f"{self._robot.action_names[bad[0][1]]} in row {bad[0][0]} is "
                                          f"{chunk.rows[tuple(bad[0])]}, and {len(bad) - 1} more are not finite")
        self._in_order(chunk, person, steady)
        if observed > now + AHEAD:
            raise Refused("from_the_future", f"its observation is {observed - now:.3f} s ahead of our clock")
        if not len(chunk.rows):
            return
        if stamp > now + self._robot.window + AHEAD:
            raise Refused("from_the_future", f"row 0 is due in {stamp - now:.3f} s; at most "
                                             f"{self._robot.window + AHEAD:.3f} s ahead are taken")
        end = stamp + (len(chunk.rows) - 1) * chunk.dt
        if end < now:
            raise Refused("late", f"its last row was due {now - end:.3f} s ago")
        if observed + self._robot.max_blind < now:
            raise Refused("too_blind", f"its observation is {now - observed:.3f} s old; the limit is "
                                       f"{self._robot.max_blind:g} s")

    def _in_order(self, chunk: Chunk, person: bool, steady: float) -> None:
        last = self._last.get((person, chunk.source))
        if last is not None and chunk.sequence <= last.sequence:
            restarted = steady - last.steady > RESTART and chunk.observation_stamp > last.observation_stamp
            if not restarted:
                word = "duplicate" if chunk.sequence == last.sequence else "out_of_order"
                raise Refused(word, f"sequence {chunk.sequence} of '{chunk.source}' came after {last.sequence}")

    def passed(self, chunk: Chunk, *, person: bool, steady: float) -> None:
        """This chunk was taken: older ones of its source are refused from now on."""
        if len(self._last) > 100:  # sources have few names; a hostile one must not fill the memory
            self._last.clear()
        self._last[person, chunk.source] = _Last(chunk.sequence, chunk.observation_stamp, steady)
