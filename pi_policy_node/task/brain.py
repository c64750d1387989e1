"""The task in hand: how it is taken on, how it goes on, and each way in which it ends. Time is given, never asked for.

The rules:
- One task at a time. A new command replaces the one in hand, which ends CANCELLED.
- A stop word, or the bridge's being stopped by anybody, ends the task STOPPED. A fault of the bridge ends it FAILED.
- While the bridge is latched, or silent, commands are REFUSED: after a resume nothing old may start to move.
- A task has SUCCEEDED when the policy says that its progress is 1.
- It has TIMED_OUT after its time limit. It has FAILED when the policy gives no answer, or only failures, for a while.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from pi_policy_node.task.words import Refused, check

DONE = 0.999  # progress from which a task is done
POLICY_PATIENCE = 5.0  # s of failures or silence of the policy until the task has failed
BRIDGE_PATIENCE = 2.0  # s of silence of the bridge until it counts as dead; it speaks at 5 Hz
LONGEST = 3600.0  # s, of time limits


class State(Enum):
    """The numbers are those of pi_msgs/TaskStatus."""

    IDLE = 0
    RUNNING = 1
    SUCCEEDED = 2
    FAILED = 3
    TIMED_OUT = 4
    CANCELLED = 5
    REFUSED = 6
    STOPPED = 7


class Bridge(Enum):
    """The numbers of the modes in pi_msgs/BridgeStatus."""

    HOLD = 0
    RUNNING = 1
    TAKEOVER = 2
    FAULT = 3
    STOPPED = 4


@dataclass(frozen=True)
class Lease:
    """What the robot is to do now."""

    id: str
    text: str
    subtask: str
    issued: int  # ns, the node's clock


@dataclass(frozen=True)
class Report:
    """What the policy says about itself."""

    task: str
    well: bool  # it answers, or waits for work
    cause: str
    subtask: str
    progress: float
    latency: float


@dataclass(frozen=True)
class Outcome:
    """The task in hand, or the last one."""

    id: str = ""
    text: str = ""
    state: State = State.IDLE
    reason: str = "no task yet"
    subtask: str = ""
    progress: float = math.nan
    elapsed: float = 0.0
    latency: float = math.nan
    subtasks: tuple[str, ...] = ()


class Brain:
    """`changed` is called with every change of the outcome: for people to see."""

    def __init__(self, *, time_limit: float, changed: Callable[[Outcome], None]) -> None:
        self._limit_default = time_limit
        self._changed = changed
        self.outcome = Outcome()
        self.lease: Lease | None = None
        self._begin = self._limit = 0.0  # s, steady
        self._policy_well = 0.0  # s, steady: when the policy was last seen to be well
        self._policy_cause = ""
        self._bridge: tuple[Bridge, str] | None = None
        self._bridge_seen = -math.inf  # s, steady

    # ------------------------------------------------------------------------------------------------------ commands

    def begin(self, text: str, *, now: float, stamp: int, limit: float = 0.0, direct: bool = False) -> str:
        """Takes on a task; its id. `now`: s, steady. `stamp`: ns, the node's clock. `limit`: s, 0 for the default.

        Refused where it is not taken on; the task in hand then goes on, and is what `outcome` is about again.
        """
        cleaned = check(text)
        if not (math.isfinite(limit) and 0 <= limit <= LONGEST):
            raise Refused(f"the time limit is {limit:g} s; it must be between 0 (the default) and {LONGEST:g} s")
        if stamp <= 0:
            raise Refused("the clock has not started: is the simulator running and publishing /clock?")
        self._bridge_ready(now)
        if self.lease is not None:
            self.end(State.CANCELLED, f"replaced by '{cleaned}'", now=now)
        task = uuid.uuid4().hex[:12]
        self.lease = Lease(task, cleaned, cleaned if direct else "", stamp)
        self._begin, self._limit = now, limit or self._limit_default
        self._policy_well, self._policy_cause = now, "it did not answer"
        self._say(Outcome(task, cleaned, State.RUNNING, "started"))
        return task

    def end(self, state: State, reason: str, *, now: float) -> None:
        """Ends the task in hand, if there is one, and withdraws its lease."""
        if self.lease is None:
            return
        self.lease = None
        self._say(replace(self.outcome, state=state, reason=reason, elapsed=now - self._begin))

    def refuse(self, text: str, reason: str, *, stopped: bool = False) -> None:
        """Says that words were not taken on (or were a stop, with nothing in hand). The task in hand is not touched."""
        shown = " ".join(text[:80].split())
        state = State.STOPPED if stopped else State.REFUSED
        refusal = Outcome(text=shown if shown.isprintable() else ascii(shown), state=state, reason=reason)
        if self.lease is None:
            self._say(refusal)
        else:
            self._changed(refusal)
            self._changed(self.outcome)  # latched topics show the last message: that is about the task in hand

    # ---------------------------------------------------------------------------------------------------- the others

    def on_bridge(self, mode: Bridge, cause: str, *, now: float) -> None:
        """What the bridge says: its being latched ends the task."""
        self._bridge, self._bridge_seen = (mode, cause), now
        if mode == Bridge.STOPPED:
            self.end(State.STOPPED, cause, now=now)
        elif mode == Bridge.FAULT:
            self.end(State.FAILED, f"the hardware bridge holds: {cause}", now=now)

    def on_policy(self, report: Report, *, now: float) -> None:
        """What the policy says: steps, progress, and failures."""
        if self.lease is None:
            return
        if report.well:
            self._policy_well = now
        else:
            self._policy_cause = report.cause
        if report.task != self.lease.id:
            return
        old = self.outcome
        steps = old.subtasks
        if report.subtask and report.subtask != old.subtask:
            steps = (*steps, report.subtask)
        changed = replace(old, subtask=report.subtask, progress=report.progress, latency=report.latency, subtasks=steps,
                          elapsed=now - self._begin, reason=report.cause)
        if report.well and report.progress >= DONE:
            self.outcome = changed
            self.end(State.SUCCEEDED, "done", now=now)
        elif _shown(changed) != _shown(old):
            self._say(changed)
        else:
            self.outcome = changed

    def tick(self, now: float) -> None:
        """Watches the limits."""
        if self.lease is None:
            return
        self.outcome = replace(self.outcome, elapsed=now - self._begin)
        if now - self._begin > self._limit:
            self.end(State.TIMED_OUT, f"not done within {self._limit:g} s", now=now)
        elif now - self._bridge_seen > BRIDGE_PATIENCE:
            self.end(State.FAILED, "the hardware bridge is silent: is it running?", now=now)
        elif now - self._policy_well > POLICY_PATIENCE:
            self.end(State.FAILED, f"the policy has failed for {POLICY_PATIENCE:g} s: {self._policy_cause}", now=now)

    def _bridge_ready(self, now: float) -> None:
        if self._bridge is None or now - self._bridge_seen > BRIDGE_PATIENCE:
            raise Refused("the hardware bridge is silent: is it running?")
        mode, cause = self._bridge
        if mode in (Bridge.STOPPED, Bridge.FAULT):
            raise Refused(f"the robot is latched ({cause}): call the service 'resume' (./pi say --resume) first")

    def _say(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self._changed(outcome)


def _shown(outcome: Outcome) -> tuple[str, str, float]:
    progress = -1.0 if math.isnan(outcome.progress) else round(outcome.progress, 2)
    return outcome.subtask, outcome.reason, progress
