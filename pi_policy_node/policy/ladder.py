"""Several policies, the preferred one first: who is asked, when the next one down takes over, and when to climb back.

The rules:
- A task begins at the top.
- A rung that fails (an exception, NaN, no memory, no link), or takes longer than its patience, hands over to the next one
  down at once: that one plans from the newest observation, and goes on from the rows that are committed.
- Rungs above the one in use are asked on the side, and their answers thrown away. One that has answered well and in time
  for `climb_after` s, and at least CLIMB_ANSWERS times, is used again.
- Below the last rung there is only holding still.

Every policy has a thread of its own: one that hangs blocks nobody, and is not asked again before it comes back.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from pi_policy_node.policy.base import Observation, Policy, Prefix, Result
from pi_policy_node.policy.delay import DelayTracker
from pi_policy_node.policy.status import NotFinite, WordsUnknown
from pi_policy_node.robot import Robot

PROBE_EVERY, PROBE_LONGEST = 0.3, 4.0  # s between questions on the side; twice as long after each failure
CLIMB_ANSWERS = 3
FIRST_GUESS = 0.1  # s from observation to chunk, before anything is known


@dataclass(frozen=True)
class Task:
    """The instruction in force."""

    id: str
    prompt: str
    until: float  # s, steady: the end of the lease
    subtask: str = ""  # the step to do now, where somebody has said it
    attempt: int = 0  # another number: begin again, remembering nothing

    @property
    def key(self) -> tuple[str, int]:
        """What a policy's memory belongs to."""
        return self.id, self.attempt

    @property
    def words(self) -> tuple[str, str]:
        """What is asked for."""
        return self.prompt, self.subtask


class Answer:
    """One answer that is waited for."""

    def __init__(self) -> None:
        self.cancel = threading.Event()  # seen by the policy
        self.done = threading.Event()
        self.result: Result | None = None
        self.error: BaseException | None = None
        self.begin = math.nan  # s, steady
        self.took = math.nan  # s

    def give_up(self) -> None:
        """Nobody wants it any more."""
        self.cancel.set()
        self.done.set()


@dataclass(frozen=True)
class Question:
    """What a policy is asked."""

    task: Task
    observation: Observation
    prefix: Prefix | None
    deadline: float  # s, steady


class Rung:
    """One policy in a thread of its own."""

    def __init__(self, name: str, policy: Policy, robot: Robot, patience: float) -> None:
        """`patience`: s that an answer may take."""
        self.name, self.policy, self.patience = name, policy, patience
        self.durations: deque[float] = deque(maxlen=100)
        self.delays = DelayTracker(initial=math.ceil(FIRST_GUESS / robot.dt))
        self.mute: tuple[str, str] | None = None  # words that it does not know
        self.well, self.well_since, self.probe_due, self.pause = 0, math.inf, -math.inf, PROBE_EVERY
        self._width = len(robot.action_names)
        self._served: tuple[str, int] | None = None  # the task that the policy was told of
        self._checked: tuple[str, str] | None = None  # words that it knows
        self._wake = threading.Condition()
        self._job: tuple[Question, Answer, Callable[[Answer], None]] | None = None
        self._busy_since = math.inf
        self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether it thinks, be it about something that nobody wants any more."""
        return self._busy_since != math.inf

    def stuck(self, now: float) -> bool:
        """Whether it has thought for longer than it may."""
        return now - self._busy_since > self.patience

    def ask(self, question: Question, answer: Answer, then: Callable[[Answer], None] = lambda _: None) -> None:
        """Asks a policy that is not busy; `then` is called in its thread when it is free again."""
        with self._wake:
            self._busy_since = answer.begin = time.monotonic()
            self._job = question, answer, then
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"policy {self.name}", daemon=True)
                self._thread.start()
            self._wake.notify_all()

    def close(self, limit: float) -> bool:
        """Ends the thread; False where the policy did not come back within `limit` s."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join(limit)
        return self._thread is None or not self._thread.is_alive()

    # -------------------------------------------------------------------------------------------------- in the thread

    def _run(self) -> None:
        while True:
            with self._wake:
                while self._job is None and not self._closed:
                    self._wake.wait()
                if self._job is None:
                    return
                (question, answer, then), self._job = self._job, None
            try:
                answer.result = self._think(question, answer.cancel)
            except BaseException as error:
                answer.error = error
            answer.took = time.monotonic() - answer.begin
            with self._wake:
                self._busy_since = math.inf
            answer.done.set()
            then(answer)
            if answer.error is None:
                with suppress(Exception):  # the next answer meets it, and tells
                    getattr(self.policy, "afterwards", lambda: None)()

    def _think(self, question: Question, cancel: threading.Event) -> Result:
        task = question.task
        if task.key != self._served:
            getattr(self.policy, "reset", lambda: None)()  # a policy with a memory forgets the task before
            self._served = task.key
        if task.words != self._checked:
            self._check(task)
            self._checked = task.words
        # A policy that takes no subtask does the next step as if it were the task.
        prompt = task.prompt if getattr(self.policy, "takes_subtask", False) else task.subtask or task.prompt
        result = self.policy.infer(replace(question.observation, prompt=prompt, subtask=task.subtask),
                                   prefix=question.prefix, deadline=question.deadline, cancel=cancel)
        actions = np.array(result.actions, float)
        if actions.ndim != 2 or actions.shape[1] != self._width:
            raise ValueError(f"actions of shape {actions.shape}, not [horizon, {self._width}]")
        if not np.all(np.isfinite(actions)):
            raise NotFinite(f"{int((~np.isfinite(actions)).sum())} of the actions are NaN or infinite")
        return replace(result, actions=actions)

    def _check(self, task: Task) -> None:
        unknown = getattr(self.policy, "unknown", lambda text: ())
        words = tuple(dict.fromkeys(word for text in task.words if text for word in unknown(text)))
        if words:
            shown = ", ".join(f"'{word[:40]}'" for word in words[:6]) + (" …" if len(words) > 6 else "")
            understood = getattr(self.policy, "understood", "")
            raise WordsUnknown(f"'{self.name}' does not know {shown}" + (f"; it understands {understood}" if understood
                                                                         else ""))


class Ladder:
    """Not thread-safe: whoever uses it holds a lock."""

    def __init__(self, policies: Sequence[tuple[str, Policy]], robot: Robot, *, deadline: float = 0.5,
                 step_down: float = 0.25, climb_after: float = 2.0) -> None:
        """`deadline`: s that an answer of the last rung may take; `step_down`: of every one above."""
        last = len(policies) - 1
        self.rungs = [Rung(name, policy, robot, deadline if k == last else min(step_down, deadline))
                      for k, (name, policy) in enumerate(policies)]
        self._climb_after = climb_after
        self.at = 0

    def begin(self) -> None:
        """Another task."""
        self.at = 0

    def knows(self, task: Task) -> bool:
        """Whether any rung may know the words."""
        return any(rung.mute != task.words for rung in self.rungs[self.at:])

    def pick(self, task: Task, now: float) -> Rung | None:
        """Whom to ask now; None: nobody is free."""
        for k, rung in enumerate(self.rungs[: self.at]):
            if rung.well >= CLIMB_ANSWERS and now - rung.well_since >= self._climb_after and not rung.busy:
                self.at = k
                break
        while self.rungs[self.at].stuck(now) and self.at + 1 < len(self.rungs):
            self.fell(self.rungs[self.at], now)
        rung = next((rung for rung in self.rungs[self.at:] if rung.mute != task.words), None)
        return None if rung is None or rung.busy else rung

    def fell(self, rung: Rung, now: float) -> bool:
        """This one failed. Whether there is another one below it."""
        self._ill(rung, now)
        below = self.rungs.index(rung) + 1
        if below < len(self.rungs):
            self.at = max(self.at, below)
        return below < len(self.rungs)

    def to_probe(self, rung: Rung, task: Task, now: float) -> list[Rung]:
        """Those above `rung` that are to be asked on the side now."""
        above = self.rungs[: self.rungs.index(rung)]
        return [one for one in above if now >= one.probe_due and not one.busy and one.mute != task.words]

    def probed(self, rung: Rung, well: bool, now: float) -> None:
        """What became of asking on the side."""
        if not well:
            self._ill(rung, now)
            return
        rung.well += 1
        rung.well_since = min(rung.well_since, now)
        rung.pause = PROBE_EVERY
        rung.probe_due = now + rung.pause

    def _ill(self, rung: Rung, now: float) -> None:
        rung.well, rung.well_since = 0, math.inf
        rung.probe_due = now + rung.pause
        rung.pause = min(2 * rung.pause, PROBE_LONGEST)

    def close(self, limit: float = 1.0) -> list[str]:
        """Ends the threads; the names of the policies that did not come back within `limit` s."""
        end = time.monotonic() + limit
        return [rung.name for rung in self.rungs if not rung.close(max(end - time.monotonic(), 0.0))]
