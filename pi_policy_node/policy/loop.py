"""The loop around a policy: newest observation in, next chunk out, on the time line. Threads, but no ROS.

Two clocks. Chunks are stamped with the node's clock, as observations are; every limit runs on the steady one, or it
would never pass when the other stops.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from pi_policy_node.policy.base import Cancelled, DeadlineExceeded, Observation, Policy, Prefix
from pi_policy_node.robot import Robot

FRESH = 0.3  # s; an older observation is no observation
BLIND_REPEAT = 0.2  # s between empty chunks while blind
TRANSPORT = 0.02  # s from a chunk's being ready to its being played, on top of the inference


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
    DEADLINE_MISSED = 10
    EXCEPTION = 11
    NOT_FINITE = 12
    OUT_OF_MEMORY = 13
    LINK_DOWN = 14


@dataclass(frozen=True)
class Task:
    """The instruction in force."""

    id: str
    prompt: str
    until: float  # s, steady: the end of the lease


@dataclass(frozen=True)
class Chunk:
    """Rows on the time line: row k is due at stamp + k dt [s, the node's clock]. No rows: come to rest."""

    stamp: float
    rows: np.ndarray  # [H, A]
    task: str
    observed: float  # s, the node's clock
    inference_time: float = 0.0  # s
    fixed: int = 0  # leading rows repeated from the chunk before
    sequence: int = 0


@dataclass(frozen=True)
class Status:
    """What people and programs may know."""

    state: State = State.INACTIVE
    code: Code = Code.OK
    cause: str = ""
    task: str = ""
    subtask: str = ""
    progress: float = math.nan
    p50: float = math.nan
    p99: float = math.nan
    chunks: int = 0
    failures: int = 0


class NotFinite(Exception):
    """A policy's actions hold NaN or infinity."""


def committed(last: Chunk | None, task: str, *, stamp: float, until: float, state: np.ndarray,
              robot: Robot) -> tuple[float, Prefix | None]:
    """When row 0 of the next chunk is due, and the rows from there on that will have run at `until`.

    The next chunk keeps the time grid of the last one, so that its fixed rows are that one's rows and not
    interpolations. Nothing is committed, and row 0 is due at the stamp of the observation, without a last chunk, after
    one of another task (the bridge brakes at once when the instruction changes), and where the robot is not where that
    chunk would have it (it was held).
    """
    if last is None or len(last.rows) == 0 or last.task != task:
        return stamp, None
    played = min(len(last.rows), int((last.observed + robot.max_blind - last.stamp) / robot.dt) + 1)
    first = max(math.ceil((stamp - last.stamp) / robot.dt - 1e-6), 0)
    end = min(math.ceil((until - last.stamp) / robot.dt), played)
    if end <= first or not follows(last.rows[: played], first, state, robot):
        return stamp, None
    return last.stamp + first * robot.dt, Prefix(last.rows[first:end], planned=last.rows[end:])


def follows(rows: np.ndarray, first: int, state: np.ndarray, robot: Robot) -> bool:
    """Whether a measured state [A] is on the plan, given that an arm lags behind its command by up to 0.25 s."""
    recent = rows[max(first - round(0.25 / robot.dt), 0): first + 1]
    judged = ~(robot.is_base | robot.is_gripper)  # velocities are noise; a gripper on a block never arrives
    apart = np.abs(recent - state).min(axis=0)
    return bool(np.all(apart[judged] <= robot.splice_tolerance[judged]))


class PolicyLoop:
    """Runs a policy in a worker thread. `send` and `changed` are called from there, or from whoever calls `tick`."""

    def __init__(self, policy: Policy, robot: Robot, *, send: Callable[[Chunk], None], changed: Callable[[], None],
                 now: Callable[[], float], deadline: float = 0.5, first_sequence: int = 1) -> None:
        self._policy, self._robot = policy, robot
        self._send, self._changed, self._now = send, changed, now
        self._deadline = deadline
        self._wake = threading.Condition(threading.RLock())
        self._stop = False
        self._cancel = threading.Event()
        self._task: Task | None = None
        self._observation: Observation | None = None  # newest that was not thought about
        self._seen = -math.inf  # s, steady: capture of the newest good observation
        self._lack = (Code.NO_OBSERVATION, "no observation yet")
        self._last: Chunk | None = None
        self._served = ""  # id of the task that the policy was told of
        self._thinking = math.inf  # s, steady: begin of the inference under way
        self._blind_sent = -math.inf
        self._durations: deque[float] = deque(maxlen=100)
        self._sequence = first_sequence
        self._status = Status(state=State.IDLE, code=Code.NO_INSTRUCTION, cause="no instruction")
        self._thread = threading.Thread(target=self._run, name="policy", daemon=True)

    # ------------------------------------------------------------------------------------------------------- outside

    def start(self) -> None:
        """Starts to answer."""
        self._thread.start()

    def close(self) -> bool:
        """Stops answering and asks the robot to rest. False when the policy did not come back in time."""
        with self._wake:
            self._stop = True
            task = self._task
            self._task = None
            self._cancel.set()
            self._wake.notify_all()
        if task is not None:
            self._send(self._number(Chunk(self._now(), self._nothing(), task.id, self._now())))
        if self._thread.is_alive():
            self._thread.join(timeout=self._deadline + 1.0)
        return not self._thread.is_alive()

    @property
    def status(self) -> Status:
        """What is going on now."""
        with self._wake:
            durations = np.array(self._durations)
            status = self._status
        if len(durations) == 0:
            return status
        return replace(status, p50=float(np.median(durations)), p99=float(np.percentile(durations, 99)))

    def instruct(self, task: Task | None) -> None:
        """The instruction now in force, renewed; None: withdrawn."""
        with self._wake:
            old, self._task = self._task, task
            new = task is not None and (old is None or (old.id, old.prompt) != (task.id, task.prompt))
            if task is None or new:
                self._cancel.set()  # what is being thought out serves nobody any more
            if new:
                self._wake.notify_all()
        if task is None and old is not None:
            self._set(State.IDLE, Code.NO_INSTRUCTION, "the instruction was withdrawn", task="")

    def observe(self, observation: Observation, age: float) -> None:
        """A good observation, `age` s after its capture."""
        with self._wake:
            self._observation = observation
            self._seen = time.monotonic() - max(age, 0.0)
            self._wake.notify_all()

    def lack(self, code: Code, cause: str) -> None:
        """An observation that can't be used, and why."""
        with self._wake:
            self._lack = (code, cause)

    def tick(self) -> None:
        """Watches the limits; to be called every few 10 ms from a thread that nothing blocks."""
        now = time.monotonic()
        with self._wake:
            task, seen, thinking, lack = self._task, self._seen, self._thinking, self._lack
            blind = task is not None and now - seen > FRESH
            say = blind and now - self._blind_sent > BLIND_REPEAT
            if say:
                self._blind_sent = now
                self._last = None
        if task is not None and now > task.until:
            with self._wake:
                expired = self._task is task
                if expired:
                    self._task = None
                    self._cancel.set()
            if expired:
                self._set(State.IDLE, Code.NO_INSTRUCTION, "the instruction was not renewed", task="")
        elif say:
            code, cause = lack
            age = "" if seen == -math.inf else f"; the last good observation is {now - seen:.1f} s old"
            self._send(self._number(Chunk(self._now(), self._nothing(), task.id, self._now())))
            self._set(State.BLIND, code, cause + age, task=task.id)
        elif task is not None and now - thinking > self._deadline and not self._cancel.is_set():
            self._cancel.set()
            self._set(State.FAILED, Code.DEADLINE_MISSED, f"no answer within {self._deadline:g} s", failed=True)

    # -------------------------------------------------------------------------------------------------- in the worker

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._stop and not self._ready():
                    self._wake.wait()
                if self._stop:
                    return
                task, observation = self._task, self._observation
                self._observation = None
                self._cancel = threading.Event()
                cancel = self._cancel
                self._thinking = time.monotonic()
            try:
                self._think(task, observation, cancel)
            finally:
                with self._wake:
                    self._thinking = math.inf

    def _ready(self) -> bool:
        return self._task is not None and self._observation is not None and time.monotonic() - self._seen <= FRESH

    def _think(self, task: Task, observation: Observation, cancel: threading.Event) -> None:
        begin = time.monotonic()
        until = self._now() + self._expected() + TRANSPORT
        stamp, prefix = committed(self._last, task.id, stamp=observation.stamp, until=until,
                                  state=observation.state, robot=self._robot)
        try:
            if task.id != self._served:
                getattr(self._policy, "reset", lambda: None)()  # a policy with a memory forgets the task before
                self._served = task.id
            result = self._policy.infer(replace(observation, prompt=task.prompt), prefix=prefix,
                                        deadline=begin + self._deadline, cancel=cancel)
            actions = np.array(result.actions, float)
            if actions.ndim != 2 or actions.shape[1] != len(self._robot.action_names):
                raise ValueError(f"actions of shape {actions.shape}, not [horizon, {len(self._robot.action_names)}]")
            if not np.all(np.isfinite(actions)):
                raise NotFinite(f"{int((~np.isfinite(actions)).sum())} of the actions are NaN or infinite")
        except Exception as error:
            if not cancel.is_set() and not isinstance(error, Cancelled):
                self._set(State.FAILED, *_explain(error), failed=True)
            return
        took = time.monotonic() - begin
        fixed = 0 if prefix is None else min(len(prefix.rows), len(actions))
        if fixed:
            actions[:fixed] = prefix.rows[:fixed]
        with self._wake:
            if cancel.is_set() or self._task is None or self._task.id != task.id:
                return
            if self._blind_sent > begin:  # the eyes died meanwhile, and the robot was asked to rest
                return
            chunk = self._number(Chunk(stamp, actions, task.id, observation.stamp, took, fixed))
            self._last = chunk
            self._durations.append(took)
            self._status = replace(self._status, chunks=self._status.chunks + 1)
        self._send(chunk)
        self._set(State.RUNNING, Code.OK, "answering observations", task=task.id, subtask=result.subtask,
                  progress=float(result.progress))

    def _expected(self) -> float:
        # The slowest of the latest few: a lifetime maximum would never forget a hiccup.
        return max(list(self._durations)[-10:], default=0.05)

    # ------------------------------------------------------------------------------------------------------- helpers

    def _number(self, chunk: Chunk) -> Chunk:
        with self._wake:
            self._sequence += 1
            return replace(chunk, sequence=self._sequence)

    def _nothing(self) -> np.ndarray:
        return np.empty((0, len(self._robot.action_names)))

    def _set(self, state: State, code: Code, cause: str, *, failed: bool = False, **fields) -> None:
        with self._wake:
            old = self._status
            self._status = replace(old, state=state, code=code, cause=cause, failures=old.failures + failed, **fields)
            said = (old.state, old.code, old.task, old.subtask) != (state, code, self._status.task, self._status.subtask)
        if said or failed:
            self._changed()


def _explain(error: Exception) -> tuple[Code, str]:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, DeadlineExceeded):
        return Code.DEADLINE_MISSED, text
    if isinstance(error, NotFinite):
        return Code.NOT_FINITE, text
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__:
        return Code.OUT_OF_MEMORY, text
    if isinstance(error, (ConnectionError, TimeoutError)):
        return Code.LINK_DOWN, text
    return Code.EXCEPTION, f"{type(error).__name__}: {text}"
