"""What mini remembers of the task in hand. It begins anew with every task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pi_policy_node.policy.mini_next import Next


@dataclass(frozen=True)
class Asked:
    """What is remembered of the task in hand."""

    prompt: str = ""
    next: Next = Next()
    at: float = -np.inf  # s, the observation's clock: when that was chosen
    told: str = ""  # the subtask as others are told it: the one before, while it is doubted that all is done
    since: float = np.inf  # s: since when it thinks so


@dataclass(frozen=True)
class Unsaid:
    """A look after which what is next has not been chosen yet."""

    prompt: str
    stamp: float
    lasts: float  # s that the subtask had been in hand
    seen: dict[str, Tensor]
    there: Tensor
    state: np.ndarray


@dataclass
class Doing:
    """The subtask in hand."""

    subtask: str = ""
    since: float = -np.inf  # s, the observation's clock
