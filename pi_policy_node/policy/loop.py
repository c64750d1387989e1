"""The loop around a ladder of policies: newest observation in, next chunk out, on the time line. Threads, but no ROS.

Two clocks. Chunks are stamped with the node's clock, as observations are; every limit runs on the steady one, or it
would never pass when the other stops.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pi_policy_node.policy.ahead import Chunk, committed, cut
from pi_policy_node.policy.base import Cancelled, DeadlineExceeded, Observation, Prefix
from pi_policy_node.policy.ladder import Answer, Ladder, Question, Rung, Task
from pi_policy_node.policy.status import Code, State, Status, WordsUnknown, explain
from pi_policy_node.robot import Robot

FRESH = 0.3  # s; an older observation is no observation
BLIND_REPEAT = 0.2  # s between empty chunks while blind
EARLY = 0.01  # s by which an observation may come sooner than it is waited for
TRANSPORT = 0.02  # s from a chunk's being ready to its being played
CLOSE_LIMIT = 1.0  # s for the loop's thread to come back; it waits for no policy
HOLD = "hold"  # what Status.source says when no rung answers


class PolicyLoop:
    """Asks policies from a thread of its own. `send` and `changed` are called from there, from `instruct` or `tick`."""

    def __init__(self, ladder: Ladder, robot: Robot, *, send: Callable[[Chunk], None], changed: Callable[[], None],
                 now: Callable[[], float], replan: float = 0.0, first_sequence: int = 1) -> None:
        """replan: s from one question to the next, at least, where all goes well and nothing else is asked for."""
        self._ladder, self._robot, self._replan = ladder, robot, replan
        self._send, self._changed, self._now = send, changed, now
        self._wake = threading.Condition(threading.RLock())
        self._stop = False
        self._task: Task | None = None
        self._answer = Answer()  # that is being waited for
        self._newest: Observation | None = None
        self._observation: Observation | None = None  # the same, unless it was thought about
        self._seen = -math.inf  # s, steady: capture of the newest good observation
        self._lack = (Code.NO_OBSERVATION, "no observation yet")
        self._last: Chunk | None = None
        self._above = (Code.OK, "")  # why the rungs above the one in use are not
        self._blind_sent = -math.inf
        self._due = -math.inf  # s, steady: when it is time to ask again
        self._sequence = first_sequence
        self._status = Status(state=State.IDLE, code=Code.NO_INSTRUCTION, cause="no instruction",
                              source=ladder.rungs[0].name)
        self._thread = threading.Thread(target=self._run, name="policy", daemon=True)

    # ------------------------------------------------------------------------------------------------------- outside

    def start(self) -> None:
        """Starts to answer."""
        self._thread.start()

    def close(self) -> bool:
        """Stops answering, at once, and asks the robot to rest. False where a policy still thinks."""
        with self._wake:
            self._stop = True
            task = self._task
            self._task = None
            self._answer.give_up()
            self._wake.notify_all()
        if task is not None:
            self._send(self._number(Chunk(self._now(), self._nothing(), task.id, self._now(),
                                          source=self._status.source)))
        if self._thread.is_alive():
            self._thread.join(timeout=CLOSE_LIMIT)
        return not any(rung.busy for rung in self._ladder.rungs)

    @property
    def status(self) -> Status:
        """What is going on now."""
        with self._wake:
            durations = np.array(self._ladder.rungs[min(self._status.rung, len(self._ladder.rungs) - 1)].durations)
            status = self._status
        if len(durations) == 0:
            return status
        return replace(status, p50=float(np.median(durations)), p99=float(np.percentile(durations, 99)))

    def instruct(self, task: Task | None) -> None:
        """The instruction now in force, renewed; None: withdrawn."""
        shorter = None
        with self._wake:
            old, self._task = self._task, task
            other = task is not None and (old is None or old.id != task.id)
            new = task is not None and (other or (old.key, old.words) != (task.key, task.words))
            if other:
                self._ladder.begin()
                self._above = (Code.OK, "")
            if task is None or new:
                self._answer.give_up()  # what is being thought out serves nobody any more
            if new:
                self._observation = self._newest  # to be thought about again, in the light of the new words
                self._due = -math.inf
                shorter = None if other else self._shorten()
                self._wake.notify_all()
        if shorter is not None:
            self._send(shorter)
        if task is None and old is not None:
            self._set(State.IDLE, Code.NO_INSTRUCTION, "the instruction was withdrawn", task="")

    def observe(self, observation: Observation, age: float) -> None:
        """A good observation, `age` s after its capture."""
        with self._wake:
            self._observation = self._newest = observation
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
            task, seen, lack = self._task, self._seen, self._lack
            say = task is not None and now - seen > FRESH and now - self._blind_sent > BLIND_REPEAT
            if say:
                self._blind_sent = now
                self._last = None
        if task is not None and now > task.until:
            with self._wake:
                expired = self._task is task
                if expired:
                    self._task = None
                    self._answer.give_up()
            if expired:
                self._set(State.IDLE, Code.NO_INSTRUCTION, "the instruction was not renewed", task="")
        elif say:
            code, cause = lack
            age = "" if seen == -math.inf else f"; the last good observation is {now - seen:.1f} s old"
            self._send(self._number(Chunk(self._now(), self._nothing(), task.id, self._now(),
                                          source=self._status.source)))
            self._set(State.BLIND, code, cause + age, task=task.id)

    # -------------------------------------------------------------------------------------------------- in the thread

    def _run(self) -> None:
        while True:
            with self._wake:
                rung = None
                while not self._stop:
                    ready = self._ready()
                    rung = self._ladder.pick(self._task, time.monotonic()) if ready else None
                    if rung is not None:
                        break
                    # A rung that hangs is given up by the clock; nobody tells when.
                    self._wake.wait(0.05 if ready and len(self._ladder.rungs) > 1 else None)
                if self._stop:
                    return
                task, observation = self._task, self._observation
                self._observation = None
                self._answer = answer = Answer()
            self._think(rung, task, observation, answer)

    def _ready(self) -> bool:
        now = time.monotonic()
        return (self._task is not None and self._observation is not None and self._ladder.knows(self._task)
                and now - self._seen <= FRESH and now >= self._due)

    def _think(self, rung: Rung, task: Task, observation: Observation, answer: Answer) -> None:
        begin = time.monotonic()
        delay = rung.delays.estimate() * self._robot.dt
        until = max(observation.stamp + delay, self._now() + self._robot.dt) + TRANSPORT
        goes_on = committed(self._last, task.id, stamp=observation.stamp, until=until, state=observation.state,
                            robot=self._robot)
        stamp, prefix = goes_on or (None, None)
        rung.ask(Question(task, observation, prefix, begin + rung.patience), answer, self._free)
        self._probe(rung, task, observation, prefix)
        if not answer.done.wait(rung.patience):
            answer.give_up()
            answer.error = DeadlineExceeded(f"'{rung.name}' did not answer within {rung.patience:g} s")
        elif answer.cancel.is_set() or isinstance(answer.error, Cancelled):
            return
        if answer.error is not None:
            self._failed(rung, task, answer.error)
            return
        self._answered(rung, task, observation, answer, stamp, prefix)

    def _answered(self, rung: Rung, task: Task, observation: Observation, answer: Answer, stamp: float | None,
                  prefix: Prefix | None) -> None:
        """stamp: when row 0 is due; None: now."""
        actions = answer.result.actions
        fixed = 0 if prefix is None else min(len(prefix.rows), len(actions))
        if fixed:
            actions[:fixed] = prefix.rows[:fixed]
        with self._wake:
            if answer.cancel.is_set() or self._task is None or self._task.key != task.key:
                return
            if self._blind_sent > answer.begin:  # the eyes died meanwhile, and the robot was asked to rest
                return
            stamp = self._now() + TRANSPORT if stamp is None else stamp
            chunk = self._number(Chunk(stamp, actions, task.id, observation.stamp, answer.took, fixed, source=rung.name))
            self._last = chunk
            self._due = answer.begin + self._replan - EARLY
            self._note(rung, observation, answer)
            place = self._ladder.rungs.index(rung)
            code, cause = self._above if place else (Code.OK, "")
            self._status = replace(self._status, chunks=self._status.chunks + 1)
        self._send(chunk)
        self._set(State.RUNNING, code, cause or "answering observations", task=task.id, source=rung.name, rung=place,
                  subtask=answer.result.subtask, progress=float(answer.result.progress))

    def _failed(self, rung: Rung, task: Task, error: BaseException) -> None:
        code, cause = explain(error)
        with self._wake:
            if self._task is None or self._task.key != task.key:
                return
            if isinstance(error, WordsUnknown):
                rung.mute = task.words
                other = self._ladder.knows(task)
            else:
                other = self._ladder.fell(rung, time.monotonic())
            self._above = (code, cause)
            if other and self._observation is None:
                self._observation = self._newest
        if other:
            self._set(self._status.state, code, cause, failed=True)
        else:
            self._set(State.FAILED, code, cause, failed=True, task=task.id, source=HOLD, rung=len(self._ladder.rungs))

    # ------------------------------------------------------------------------------------------------------- helpers

    def _probe(self, rung: Rung, task: Task, observation: Observation, prefix: Prefix | None) -> None:
        """Asks those above on the side."""
        now = time.monotonic()
        with self._wake:
            asked = self._ladder.to_probe(rung, task, now)
        for one in asked:
            one.ask(Question(task, observation, prefix, now + one.patience), Answer(),
                    lambda answer, one=one: self._probed(one, task, observation, answer))

    def _probed(self, rung: Rung, task: Task, observation: Observation, answer: Answer) -> None:
        with self._wake:
            if isinstance(answer.error, WordsUnknown):
                rung.mute = task.words
            well = answer.error is None and answer.took <= rung.patience
            if answer.error is not None:
                self._above = explain(answer.error)
            self._ladder.probed(rung, well, time.monotonic())
            if well:
                self._note(rung, observation, answer)
        self._free(answer)

    def _note(self, rung: Rung, observation: Observation, answer: Answer) -> None:
        """How long it took, and how many rows went by since what it saw."""
        rung.durations.append(answer.took)
        rung.delays.consumed(max(math.ceil((self._now() - observation.stamp) / self._robot.dt), 0))

    def _free(self, _: Answer) -> None:
        with self._wake:
            self._wake.notify_all()

    def _shorten(self) -> Chunk | None:
        """Discards what the last chunk has beyond its committed rows; what is left, to be sent."""
        if self._last is None or not len(self._last.rows):
            return None
        delay = self._ladder.rungs[self._ladder.at].delays.estimate() * self._robot.dt
        left = cut(self._last, self._now() + delay + TRANSPORT, self._robot.dt)
        if left is not None:
            self._last = left = self._number(left)
        return left

    def _number(self, chunk: Chunk) -> Chunk:
        with self._wake:
            self._sequence += 1
            return replace(chunk, sequence=self._sequence)

    def _nothing(self) -> np.ndarray:
        return np.empty((0, len(self._robot.action_names)))

    def _set(self, state: State, code: Code, cause: str, *, failed: bool = False, **fields) -> None:
        with self._wake:
            old = self._status
            new = replace(old, state=state, code=code, cause=cause, failures=old.failures + failed, **fields)
            self._status = new
            said = any(getattr(old, name) != getattr(new, name) for name in ("state", "code", "task", "subtask", "rung"))
        if said or failed:
            self._changed()
