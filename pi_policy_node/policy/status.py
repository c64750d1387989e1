"""What a policy's loop says about itself, and how its failures are named."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from pi_policy_node.policy.base import DeadlineExceeded, PolicyError


class State(Enum):
    """What the loop is doing; the numbers are those of pi_msgs/PolicyStatus."""

    INACTIVE = 0
    IDLE = 1
    RUNNING = 2
    BLIND = 3
    FAILED = 4


class Code(Enum):
    """Why; the numbers are those of pi_msgs/PolicyStatus."""

    OK = 0
    NO_INSTRUCTION = 1
    NO_OBSERVATION = 2
    CAMERA_INVALID = 3
    STATE_INVALID = 4
    WORDS_UNKNOWN = 5
    DEADLINE_MISSED = 10
    EXCEPTION = 11
    NOT_FINITE = 12
    OUT_OF_MEMORY = 13
    LINK_DOWN = 14


@dataclass(frozen=True)
class Status:
    """What people and programs may know. While RUNNING on a lower rung, code and cause say why not on the one above."""

    state: State = State.INACTIVE
    code: Code = Code.OK
    cause: str = ""
    task: str = ""
    subtask: str = ""
    progress: float = math.nan
    source: str = ""  # the policy in use, or "hold"
    rung: int = 0  # its place on the ladder
    p50: float = math.nan
    p99: float = math.nan
    chunks: int = 0
    failures: int = 0


class NotFinite(Exception):
    """A policy's actions hold NaN or infinity."""


class WordsUnknown(PolicyError):
    """A policy has never seen some of the words; says which, and what it would understand."""


def explain(error: BaseException) -> tuple[Code, str]:
    """A failure's code and sentence."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, WordsUnknown):
        return Code.WORDS_UNKNOWN, text
    if isinstance(error, DeadlineExceeded):
        return Code.DEADLINE_MISSED, text
    if isinstance(error, NotFinite):
        return Code.NOT_FINITE, text
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__:
        return Code.OUT_OF_MEMORY, text
    if isinstance(error, (ConnectionError, TimeoutError)):
        return Code.LINK_DOWN, text
    return Code.EXCEPTION, f"{type(error).__name__}: {text}"
