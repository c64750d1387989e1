"""What can happen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ProcessExited:
    action: Any
    process_name: str
    returncode: int


@dataclass(frozen=True)
class Shutdown:
    reason: str
