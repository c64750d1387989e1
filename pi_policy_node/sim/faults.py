"""The switchboard of faults: what can be made to go wrong, in words, and whether it is wrong now.

A target is a camera's name, `joint_states`, `odom`, `physics` or `clock`; each has at most one fault at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Iterable

ALL = "all"
NONE = "none"
_STREAM = {
    "drop": "a fraction `value` of the messages is not sent (0 counts as all of them)",
    "freeze": "the content stays as it was, with stamps that go on",
    "delay": "each message is sent `value` seconds late, with its true stamp",
    "skew": "stamps are `value` seconds off; positive: in the future",
}
FAULTS: dict[str, dict[str, str]] = {
    "camera": {
        **_STREAM,
        "encoding": "the encoding says '16UC1' over rgb8 bytes",
        "size": "the height is one row more than there are bytes for",
        "step": "the step is shorter than a row",
    },
    "joint_states": {
        **_STREAM,
        "nan": "the position of joint number `value` is not a number",
        "missing": "joint number `value` is left out",
        "reorder": "the joints come in another order in every message",
    },
    "odom": {**_STREAM, "nan": "the velocity is not a number"},
    "physics": {"stall": "the world, and all it sends, stands still for `value` seconds (0: until cleared)"},
    "clock": {
        "pause": "no /clock for `value` seconds (0: until cleared), while the world goes on",
        "jump": "the time leaps once by `value` seconds, forwards or back; what the controllers are following goes on",
    },
}


class FaultError(ValueError):
    """No such fault; the message says what there is."""


@dataclass(frozen=True)
class Fault:
    kind: str
    value: float
    until: float  # on the caller's steady clock, s; inf: until cleared


class Switchboard:
    """Faults by target. `set` and `get` take the time from one steady clock of the caller's."""

    def __init__(self, cameras: Iterable[str]):
        self._cameras = tuple(cameras)
        self._faults: dict[str, Fault] = {}

    @property
    def targets(self) -> tuple[str, ...]:
        return (*self._cameras, *(target for target in FAULTS if target != "camera"))

    def set(self, target: str, kind: str, value: float, *, now: float) -> str:
        """Makes it so, and says in words what happens from now on. The kind "none" clears; so does the target "all"."""
        if target == ALL and kind == NONE:
            self._faults.clear()
            return "everything works"
        if target not in self.targets:
            raise FaultError(f"no target {target!r}; there are {', '.join(self.targets)}, and {ALL} with {NONE}")
        if kind == NONE:
            self._faults.pop(target, None)
            return f"{target} works"
        kinds = FAULTS["camera" if target in self._cameras else target]
        if kind not in kinds:
            raise FaultError(f"{target} has no fault {kind!r}; it has {', '.join(kinds)}, {NONE}")
        _check(target, kind, value)
        timed = kind in ("stall", "pause") and value > 0
        self._faults[target] = Fault(kind, value, now + value if timed else math.inf)
        return f"{target}: {kinds[kind]} (value {value:g})"

    def get(self, target: str, *, now: float) -> Fault | None:
        """The fault that this target has now."""
        fault = self._faults.get(target)
        if fault is not None and now >= fault.until:
            del self._faults[target]
            return None
        return fault

    def active(self) -> dict[str, Fault]:
        return dict(self._faults)


def _check(target: str, kind: str, value: float) -> None:
    if not math.isfinite(value):
        raise FaultError(f"value is {value}, but must be finite")
    if kind == "drop" and not 0 <= value <= 1:
        raise FaultError(f"drop takes a fraction between 0 and 1, not {value:g}")
    if kind in ("delay", "stall", "pause") and value < 0:
        raise FaultError(f"{kind} takes seconds, not less than 0, and not {value:g}")
    if kind in ("nan", "missing") and (value < 0 or value != int(value)):
        raise FaultError(f"{kind} takes the number of a joint, from 0, not {value:g}")
