"""What the bridge may be doing, why it may not move, and which of that latches. The numbers are BridgeStatus.msg's."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Mode(IntEnum):
    HOLD = 0  # at rest or coming to rest; clears by itself
    RUNNING = 1  # following the policy's chunks
    TAKEOVER = 2  # following a person's chunks
    FAULT = 3  # at rest or coming to rest, latched until `resume`
    STOPPED = 4  # the same, by somebody's wish


class Code(IntEnum):
    OK = 0
    # Transient holds.
    STARTING = 1
    NO_INSTRUCTION = 2
    NO_CHUNK = 3
    EMPTY_CHUNK = 4
    TOO_BLIND = 5
    NO_SUBSCRIBER = 6
    AWAITING_TAKEOVER = 7
    AWAITING_RESUMED_TASK = 8
    NO_HEARTBEAT_YET = 9
    # Faults.
    CHUNK_NOT_FINITE = 20
    JOINTS_STALE = 21
    JOINTS_MALFORMED = 22
    TRACKING_ERROR = 23
    CLOCK = 24
    CAMERA = 25
    CONTROLLER = 26
    INTERNAL = 27
    # Stops.
    STOP_SERVICE = 40
    HEARTBEAT_FALSE = 41
    HEARTBEAT_SILENT = 42

    @property
    def stops(self) -> bool:
        return self >= 40

    @property
    def latches(self) -> bool:
        return self >= 20


@dataclass(frozen=True)
class Cause:
    """A code, and what was seen, in a sentence."""

    code: Code
    words: str = ""


class Latch:
    """The fault or stop that holds the robot until somebody resumes. A stop replaces a fault; otherwise the first counts."""

    def __init__(self) -> None:
        self.cause: Cause | None = None

    def set(self, cause: Cause) -> bool:
        """True if this is what holds the robot from now on."""
        assert cause.code.latches, cause
        if self.cause is not None and (self.cause.code.stops or not cause.code.stops):
            return False
        self.cause = cause
        return True

    def clear(self) -> None:
        self.cause = None

    @property
    def mode(self) -> Mode | None:
        """FAULT or STOPPED, or None while nothing is latched."""
        if self.cause is None:
            return None
        return Mode.STOPPED if self.cause.code.stops else Mode.FAULT
