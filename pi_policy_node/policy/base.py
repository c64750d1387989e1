"""What a policy is to the rest of the stack: an observation in, a chunk of actions in the robot's own units out.

Model engine, scripted policy and remote client all look like `Policy`; the nodes cannot tell them apart.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np


class PolicyError(Exception):
    """A policy cannot be built, or cannot answer this request; the message says what would have been right."""


class CheckpointError(PolicyError):
    """A checkpoint is not what it should be: names the file and the tensor."""


class InputError(PolicyError):
    """An observation or a prompt that no policy can answer (NaN, wrong shape, no image at all)."""


class Cancelled(PolicyError):
    """The request was cancelled while it was being answered."""


class DeadlineExceeded(PolicyError):
    """The request's deadline passed before an answer was ready."""


@dataclass(frozen=True)
class Observation:
    """One synchronised look at the robot, in the robot's own units."""

    images: dict[str, np.ndarray]  # camera name -> uint8 [H, W, 3] rgb; valid cameras only
    state: np.ndarray  # float64 [A], the robot's action layout
    prompt: str
    stamp: float  # s, the node's clock
    subtask: str = ""  # the next step in words, where somebody has said it; empty: the policy chooses


@dataclass(frozen=True)
class Prefix:
    """What is already decided: rows that will run while the policy thinks."""

    rows: np.ndarray  # float64 [d, A], committed rows from the time of row 0 on, absolute units
    planned: np.ndarray | None = None  # float64 [m, A], what the previous chunk has behind them; may still be changed


@dataclass(frozen=True)
class Result:
    """A chunk. Row 0 is due when prefix.rows[0] is, else when the answer is there."""

    actions: np.ndarray  # float64 [H, A], absolute units
    subtask: str = ""
    progress: float = math.nan  # 0..1, nan if unknown
    timing: dict[str, float] = field(default_factory=dict)  # s


@runtime_checkable
class Policy(Protocol):
    """Anything that turns observations into chunks. `infer` may be called from any thread."""

    name: str
    dt: float  # s between rows
    horizon: int  # rows in a chunk

    def warm_up(self) -> None:
        """Do everything slow now: allocate, compile, capture, measure."""

    def infer(
        self,
        obs: Observation,
        *,
        prefix: Prefix | None = None,
        deadline: float | None = None,  # s, time.monotonic()
        cancel: threading.Event | None = None,
    ) -> Result:
        """Answer within the deadline, or raise DeadlineExceeded or Cancelled.

        A policy may have a method `afterwards()`, for what can wait until the answer is out; whoever has sent the answer
        off may call it. What is not done by then, the next `infer` does.
        """


def check_alive(deadline: float | None, cancel: threading.Event | None) -> None:
    """Raise when nobody waits for the answer any more; called between the stages of an inference."""
    if cancel is not None and cancel.is_set():
        raise Cancelled("the request was cancelled")
    if deadline is not None and time.monotonic() > deadline:
        raise DeadlineExceeded(f"the deadline passed {time.monotonic() - deadline:.3f} s ago")
