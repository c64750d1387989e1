"""What a bridge hands out: what to send, and how things stand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pi_policy_node.control.modes import Code, Mode
from pi_policy_node.control.window import Window


@dataclass(frozen=True, eq=False)
class Output:
    """What is to be sent now."""

    window: Window | None  # for trajectory controllers, when it is new
    action: np.ndarray | None  # [A] for the others; None before the robot's place is known
    at_rest: bool


@dataclass(frozen=True)
class Status:
    """BridgeStatus.msg, without its header."""

    mode: Mode
    code: Code
    cause: str
    latched: bool
    at_rest: bool
    instruction_id: str
    source: str
    sequence: int
    plan_left: float  # s
    tracking_error: float  # rad or m
    counters: dict[str, int]
