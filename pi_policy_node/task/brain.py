"""The task in hand: how it is taken on, how it goes on, and each way in which it ends. Time is given, never asked for.

The rules:
- One task at a time, and no queue. A new command or goal replaces the one in hand, which ends CANCELLED.
- A stop word, or the bridge's being stopped by anybody, ends the task STOPPED. A fault of the bridge ends it FAILED.
- While the bridge is latched, or silent, commands are REFUSED: after a resume nothing old may start to move.
- Words that the policy does not know end the task REFUSED.
- A task has SUCCEEDED when the policy has said "done" in SURE fresh answers in a row and for SURE_FOR s. Where the step
  was said by a person, or the policy names no steps, a progress of STEP_DONE says the same.
- A step that somebody says takes effect at once. When it is done, the policy chooses again; a task that is nothing but
  that step (direct) is done with it.
- Without progress for a while the policy is asked again, remembering nothing; a limited number of times, then the task
  has FAILED. A policy that does not tell its progress is not watched.
- It has TIMED_OUT after its time limit. It has FAILED when the policy gives no answer, or only failures, for a while.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from pi_policy_node.task.watch import Watch
from pi_policy_node.task.words import Refused, check, plain, shown

DONE = "done"  # the subtask of a policy that has done the whole task
STEP_DONE = 0.95  # progress from which a step is done
SURE = 3  # fresh answers in a row ...
SURE_FOR = 0.7  # ... over so many s: a policy may repeat a step's name for a while before it looks again
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
    subtask: str  # as somebody said it; empty: the policy chooses
    issued: int  # ns, the node's clock
    attempt: int = 0


@dataclass(frozen=True)
class Report:
    """What the policy says about itself."""

    task: str
    well: bool  # it answers, or waits for work
    cause: str
    subtask: str
    progress: float
    latency: float
    answers: int  # so far: tells fresh answers from old ones
    unknown: bool = False  # it does not know the words


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
    retries: int = 0
    subtasks: tuple[str, ...] = ()


class Brain:
    """`changed` is called with every change of the outcome: for people to see."""

    def __init__(self, *, time_limit: float, changed: Callable[[Outcome], None], stall: float = 15.0,
                 retries: int = 2) -> None:
        """`stall`: s without progress until the policy is asked again; `retries`: how often."""
        self._limit_default, self._stall, self._retries = time_limit, stall, retries
        self._changed = changed
        self.outcome = Outcome()
        self.lease: Lease | None = None
        self._direct = self._understood = False
        self._begin = self._limit = 0.0  # s, steady
        self._policy_well = 0.0  # s, steady: when the policy was last seen to be well
        self._policy_cause = ""
        self._done_since: tuple[int, float] | None = None  # the first answer of those in a row that say so, and when
        self._watch = Watch(0.0)
        self._bridge: tuple[Bridge, str] | None = None
        self._bridge_seen = -math.inf  # s, steady

    # ------------------------------------------------------------------------------------------------------ commands

    def begin(self, text: str, *, now: float, stamp: int, limit: float = 0.0, direct: bool = False) -> str:
        """Takes on a task; its id. `now`: s, steady. `stamp`: ns, the node's clock. `limit`: s, 0 for the default.

        `direct`: the words are one step. Refused where it is not taken on; the task in hand then goes on, and is what
        `outcome` is about again.
        """
        cleaned, words = check(text), plain(check(text))
        if not (math.isfinite(limit) and 0 <= limit <= LONGEST):
            raise Refused(f"the time limit is {limit:g} s; it must be between 0 (the default) and {LONGEST:g} s")
        if stamp <= 0:
            raise Refused("the clock has not started: is the simulator running and publishing /clock?")
        self._bridge_ready(now)
        if self.lease is not None:
            self.end(State.CANCELLED, f"replaced by '{cleaned}'", now=now)
        task = uuid.uuid4().hex[:12]
        self.lease = Lease(task, words, words if direct else "", stamp)
        self._direct, self._understood = direct, False
        self._begin, self._limit = now, limit or self._limit_default
        self._policy_well, self._policy_cause = now, "it did not answer"
        self._done_since, self._watch = None, Watch(now)
        self._say(Outcome(task, cleaned, State.RUNNING, "started"))
        return task

    def step(self, text: str, *, now: float, stamp: int) -> None:
        """The next step, as a person says it; "": the policy is to choose. Without a task it is one. Refused."""
        if self.lease is None:
            if not text:
                raise Refused("there is no task that could go on")
            self.begin(text, now=now, stamp=stamp, direct=True)
            return
        if not text and self._direct:
            raise Refused("this task is a single step: there is nothing else to choose")
        self._bridge_ready(now)
        self._steer(plain(check(text)) if text else "", now)

    def end(self, state: State, reason: str, *, now: float) -> None:
        """Ends the task in hand, if there is one, and withdraws its lease."""
        if self.lease is None:
            return
        self.lease = None
        self._say(replace(self.outcome, state=state, reason=reason, elapsed=now - self._begin))

    def refuse(self, text: str, reason: str, *, stopped: bool = False) -> None:
        """Says that words were not taken on (or were a stop, with nothing in hand). The task in hand is not touched."""
        state = State.STOPPED if stopped else State.REFUSED
        refusal = Outcome(text=shown(text), state=state, reason=reason)
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
        elif mode == Bridge.TAKEOVER:
            self._watch.pause(now)  # a person has the robot

    def on_policy(self, report: Report, *, now: float) -> None:
        """What the policy says: steps, progress, and failures."""
        if self.lease is None:
            return
        if report.task == self.lease.id and report.unknown:
            self._not_understood(report.cause, now)
            return
        if report.well:
            self._policy_well = now
        else:
            self._policy_cause = report.cause
            self._watch.pause(now)  # its failing has a patience of its own
        if report.task != self.lease.id:
            return
        self._understood |= report.well
        old = self.outcome
        steps = old.subtasks
        if report.subtask and report.subtask not in (DONE, old.subtask):
            steps = (*steps, report.subtask)
        changed = replace(old, subtask=report.subtask, progress=report.progress, latency=report.latency, subtasks=steps,
                          elapsed=now - self._begin, reason=report.cause)
        self.outcome = changed
        if report.well:
            self._watch.see(report.subtask, report.progress, now)
            if self._sure(report, now):
                self._done(now)
                return
        if _looks(changed) != _looks(old):
            self._say(changed)

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
        elif self._watch.still(now) > self._stall:
            self._again(now)

    # ------------------------------------------------------------------------------------------------------- helpers

    def _sure(self, report: Report, now: float) -> bool:
        """Whether the policy has said often enough in a row that it is done."""
        whole = bool(self.lease.subtask) or not report.subtask
        if not (report.subtask == DONE or whole and report.progress >= STEP_DONE):
            self._done_since = None
            return False
        if self._done_since is None or report.answers < self._done_since[0]:  # fewer: the policy was started again
            self._done_since = report.answers, now
        answers, since = self._done_since
        return report.answers >= answers + SURE - 1 and now - since > SURE_FOR

    def _done(self, now: float) -> None:
        if self._direct or not self.lease.subtask:
            self.end(State.SUCCEEDED, "done", now=now)
        else:
            self._steer("", now)

    def _steer(self, step: str, now: float) -> None:
        """From now on this step, or what the policy chooses."""
        self.lease = replace(self.lease, subtask=step)
        self._done_since, self._watch = None, Watch(now)
        reason = f"the next step was said: {step}" if step else "the policy chooses the steps"
        self._say(replace(self.outcome, reason=reason))

    def _again(self, now: float) -> None:
        at = f" at '{self.outcome.subtask}'" if self.outcome.subtask else ""
        stood = f"no progress for {self._stall:g} s{at}, which was {self._watch.best:.0%} done"
        tried = self.outcome.retries
        if tried >= self._retries:
            times = "once" if tried == 1 else f"{tried} times"
            self.end(State.FAILED, f"{stood}; given up" + (f" after trying again {times}" if tried else ""), now=now)
            return
        self.lease = replace(self.lease, attempt=self.lease.attempt + 1)
        self._done_since, self._watch = None, Watch(now)
        reason = f"{stood}: trying again ({tried + 1} of {self._retries})"
        self._say(replace(self.outcome, retries=tried + 1, reason=reason))

    def _not_understood(self, cause: str, now: float) -> None:
        step = self.lease.subtask
        if not self._understood or self._direct:
            self.end(State.REFUSED, cause, now=now)
        elif step:  # else an old report: the task's own words are known
            self._steer("", now)
            self.refuse(step, cause)

    def _bridge_ready(self, now: float) -> None:
        if self._bridge is None or now - self._bridge_seen > BRIDGE_PATIENCE:
            raise Refused("the hardware bridge is silent: is it running?")
        mode, cause = self._bridge
        if mode in (Bridge.STOPPED, Bridge.FAULT):
            raise Refused(f"the robot is latched ({cause}): call the service 'resume' (./pi say --resume) first")

    def _say(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self._changed(outcome)


def _looks(outcome: Outcome) -> tuple[str, str, float]:
    progress = -1.0 if math.isnan(outcome.progress) else round(outcome.progress, 2)
    return outcome.subtask, outcome.reason, progress
