"""One episode of a policy in the simulator, in lockstep: looks, thinks for as long as it is told to, acts.

Its chunks go through the hardware bridge (learn.hardware), as in the graph. The commander's own rules (task.brain) say
when the task is over: the policy says that it is done, or gets no further, or the time is up, or the bridge holds the
robot. Whether it is done is judged by the state of the world.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from pi_policy_node.learn.evaluate_mishaps import Mishaps
from pi_policy_node.learn.evaluate_modes import MODES
from pi_policy_node.learn.evaluate_watch import NOTHING, Watch
from pi_policy_node.learn.hardware import Hardware
from pi_policy_node.policy.base import Observation, Policy, PolicyError, Prefix, Result
from pi_policy_node.robot import Kinematics, Robot
from pi_policy_node.sim import Simulator
from pi_policy_node.sim.physics import PhysicsError
from pi_policy_node.sim.tasks import Task, View, look
from pi_policy_node.task.brain import Brain, Bridge, Report, State
from pi_policy_node.vision.letterbox import letterbox

WATCHED = 5  # rows from one look at the world to the next
SETTLED = 3.0  # s for which all goals are met until an episode ends though the policy does not say that it is done
STALL, RETRIES = 15.0, 2  # the commander's own values


@dataclass(frozen=True)
class Condition:
    """Under which circumstances a task is done: a row of the table."""

    family: str
    split: str = "train"
    mode: str = "rtc"
    replan: int = 10  # rows from one look to the next, at least
    delay: float = 0.0  # s from a look to its answer
    jitter: float = 0.0  # s by which that may be longer
    dropout: float = 0.0  # part of the pictures that is lost
    disturb: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of an episode."""

    seed: int
    instruction: str
    success: bool
    met: float  # part of the goals
    ended: str  # as the commander would say it: "succeeded", "timed_out", "failed" or "refused"; else "settled"
    reason: str
    cause: str  # why it failed, one of evaluate_watch.CAUSES; empty where it did not
    right_first: bool | None
    lifted: tuple[str, ...]
    subtasks: tuple[str, ...]
    events: tuple[tuple[int, str], ...]
    seconds: float  # simulated
    rows: int
    limited: int  # rows that the bridge's limits changed
    held: int  # rows without an answer to go by
    refused: int  # chunks that the bridge would not have
    asked: int
    thinking: float  # s of one answer, computed, the mean
    wall: float  # s


@dataclass
class Frame:
    """A moment that a film may show."""

    qpos: np.ndarray
    words: tuple[str, ...]
    images: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """What the policy is asked."""

    observation: Observation
    prefix: Prefix | None


@dataclass
class Finished:
    """An episode that is over; the world is as it left it until the next one is asked for."""

    number: int  # of the game
    outcome: Outcome
    sim: Simulator
    frames: list[Frame]


class Player:
    """Plays episodes in this process.

    width: of the pictures in pixels, as they are drawn; 0: each camera's own size, letterboxed as in the graph.
    seats: episodes that are played side by side, their questions answered together (policies with `infer_batch`).
    """

    def __init__(self, robot: Robot, policy: Policy, *, width: int, seats: int = 1):
        self.robot, self.policy, self._width = robot, policy, width
        self.kinematics = Kinematics(robot)
        if abs(policy.dt - robot.dt) > 1e-9:
            raise PolicyError(f"{policy.name} has rows every {policy.dt:g} s, {robot.name} every {robot.dt:g} s")
        if seats > 1 and not hasattr(policy, "infer_batch"):
            raise PolicyError(f"{policy.name} answers one question at a time: it has no infer_batch")
        cameras = getattr(policy, "cameras", tuple(camera.name for camera in robot.cameras))
        shape = next((c for c in robot.cameras if c.name in cameras), None)
        size = (round(width * shape.height / shape.width), width) if width and shape else None
        self.sims = [Simulator(robot, "empty", cameras=cameras, size=size) for _ in range(seats)]
        self._required = {camera.name for camera in robot.cameras if camera.required} & set(cameras)

    def close(self) -> None:
        for sim in self.sims:
            sim.close()

    def play(self, task: Task, condition: Condition) -> Outcome:
        """One episode."""
        finished, = self.play_all([(task, condition)])
        return finished.outcome

    def play_all(self, games: Sequence[tuple[Task, Condition]], *, film: bool = False) -> Iterator[Finished]:
        """Episodes as they end. What comes of them follows from the whole list."""
        self._seed("/".join(f"{condition} {task.seed}" for task, condition in games))
        ahead, free, asking = enumerate(games), list(self.sims), []
        while True:
            while free and (game := next(ahead, None)) is not None:
                asking.append(_Episode(self, free.pop(), game[0], *game[1], film))
            over = [episode for episode in asking if episode.question is None]
            for episode in over:
                asking.remove(episode)
                yield Finished(episode.number, episode.outcome(), episode.sim, episode.frames)
                free.append(episode.sim)
            if not over and not asking:
                return
            if not over:
                self._answer(asking)

    def reset_policy(self) -> None:
        """The policy begins a task, or begins again."""
        reset = getattr(self.policy, "reset", None)
        if reset is not None and len(self.sims) == 1:  # side by side it remembers nothing
            reset()

    def observe(self, sim: Simulator, n: int, state: np.ndarray, prompt: str, lost: set[str]) -> Observation | None:
        """What the policy sees before row n; None where a picture that the robot requires is lost."""
        if lost & self._required:
            return None
        images = {name: np.ascontiguousarray(image) for name, image in sim.images().items() if name not in lost}
        if not self._width:
            images = {name: letterbox(image, self.robot.image_size) for name, image in images.items()}
        return Observation(images, state, prompt, n * self.robot.dt)

    def _answer(self, asking: list[_Episode]) -> None:
        begun = time.perf_counter()
        try:
            if len(self.sims) == 1:
                answers = [self.policy.infer(e.question.observation, prefix=e.question.prefix) for e in asking]
            else:
                answers = self.policy.infer_batch([episode.question for episode in asking])
        except PolicyError as error:
            answers = [error] * len(asking)
        each = (time.perf_counter() - begun) / len(asking)
        for episode, answer in zip(asking, answers):
            episode.hear(answer, each)
        if len(self.sims) == 1 and not isinstance(answers[0], PolicyError):
            getattr(self.policy, "afterwards", lambda: None)()

    def _seed(self, text: str) -> None:
        reseed = getattr(self.policy, "reseed", None)
        if reseed is not None:
            reseed(zlib.crc32(text.encode()))


class _Episode:
    """An episode under way."""

    def __init__(self, player: Player, sim: Simulator, number: int, task: Task, condition: Condition, film: bool):
        self._begun = time.monotonic()
        self.sim, self.number, self.frames = sim, number, []
        self._player, self._robot = player, player.robot
        self._task, self._condition, self._film = task, condition, film
        sim.steps = 0  # an episode must not depend on those before it
        sim.reset(0, task.scene)
        player.reset_policy()
        self._rng = np.random.default_rng([zlib.crc32(repr(condition).encode()), task.seed])
        self._feed = MODES[condition.mode](self._robot, replan=condition.replan, delay=condition.delay)
        self._hardware = Hardware(self._robot, sim, self._robot.home, player.kinematics)
        self._watch = Watch(task)
        self._mishaps = Mishaps(task) if condition.disturb else None
        self._brain = Brain(time_limit=task.seconds, changed=lambda _: None, stall=STALL, retries=RETRIES)
        self._waiting: tuple[int, Result] | None = None  # the row at which an answer is there, and the answer
        self._retry_at = 0  # row, after a look at which pictures were lost, or an answer that was none
        self._images: dict[str, np.ndarray] = {}
        self._thought: list[float] = []
        self._attempt = self._answers = self._n = 0
        self._view: View = look(sim)
        self._broken = ""
        self._brain.on_bridge(Bridge.RUNNING, "", now=0.0)
        self._brain.begin(task.instruction, now=0.0, stamp=1)
        unknown = getattr(player.policy, "unknown", lambda _: ())(self._brain.lease.text)
        if unknown:
            self._report(unknown=True, cause=f"unknown words: {', '.join(unknown)}")
        self._course = self._run()
        self.question = next(self._course, None)  # that is to be answered before it can go on; None: it is over

    def hear(self, answer: Result | PolicyError, seconds: float) -> None:
        """The answer, and what it took to compute; goes on to the next question."""
        self._thought.append(seconds)
        try:
            self.question = self._course.send(answer)
        except StopIteration:
            self.question = None

    def outcome(self) -> Outcome:
        """What came of it."""
        task, said = self._task, self._brain.outcome
        view = self._view if self._broken else look(self.sim)
        success = not self._broken and task.success(view)
        return Outcome(
            seed=task.seed, instruction=task.instruction, success=success, met=float(np.mean(task.met(view))),
            ended="settled" if said.state == State.RUNNING else said.state.name.lower(),
            reason=self._broken or said.reason, cause="" if success else self._cause(view),
            right_first=self._watch.right_first, lifted=tuple(self._watch.lifted), subtasks=said.subtasks,
            events=tuple(self._mishaps.events) if self._mishaps else (), seconds=round(self._n * self._robot.dt, 3),
            rows=self._n, limited=self._hardware.limited, held=self._hardware.held, refused=self._hardware.refused,
            asked=len(self._thought),
            thinking=float(np.mean(self._thought)) if self._thought else math.nan,
            wall=(time.monotonic() - self._begun) / len(self._player.sims))

    def _cause(self, view: View) -> str:
        if self._broken:
            return "physics"
        if self._hardware.status.latched:
            return "fault"
        if self._brain.outcome.state == State.REFUSED:
            return "refused"
        cause = self._watch.cause(view) if self._answers else "no answer"
        return "said done" if cause in NOTHING and self._brain.outcome.state == State.SUCCEEDED else cause

    # ------------------------------------------------------------------------------------------------ what happens

    def _run(self) -> Generator[Question, Result | PolicyError, None]:
        try:
            yield from self._rows()
        except PhysicsError as error:
            self._broken = str(error)

    def _rows(self) -> Generator[Question, Result | PolicyError, None]:
        settled = 0.0
        while self._brain.lease is not None and settled < SETTLED:
            n = self._n
            self._hardware.hear(n)
            if n % WATCHED == 0:
                self._look_on(n)
                settled = settled + WATCHED * self._robot.dt if self._task.success(self._view) else 0.0
            question = self._ask(n)
            if question is not None:
                self._hear(n, (yield question))
            if self._waiting is not None and n >= self._waiting[0]:
                self._take(n)
            row = self._hardware.row()
            self.sim.step(row if self._mishaps is None else self._mishaps.spoil(n, row))
            self._n += 1

    def _look_on(self, n: int) -> None:
        """Those who watch: the world's judge, mischief, the commander, the film."""
        now = n * self._robot.dt
        self._view = look(self.sim)
        self._watch.see(self._view)
        if self._mishaps:
            self._mishaps.happen(n, self._view, self.sim)
        bridge = self._hardware.status
        self._brain.on_bridge(Bridge(bridge.mode), bridge.cause, now=now)
        self._brain.tick(now)
        if self._film:
            said = self._brain.outcome
            far = "" if math.isnan(said.progress) else f"  {said.progress:.0%}"
            events = ", ".join(kind for _, kind in (self._mishaps.events if self._mishaps else ()))
            words = self._task.instruction, f"{said.subtask}{far}", f"{now:.1f} s  {events}"
            self.frames.append(Frame(self.sim.physics.data.qpos.copy(), words, self._images))

    def _ask(self, n: int) -> Question | None:
        """Looks, where it is time to; None where not, or where the pictures are lost."""
        lease = self._brain.lease
        if lease is None:
            return None
        if lease.attempt != self._attempt:
            self._attempt, self._waiting = lease.attempt, None
            self._feed.forget()
            self._player.reset_policy()
        if self._waiting is not None or n < self._retry_at or not self._feed.due(n, resting=self._hardware.resting):
            return None
        lost = {name for name in self.sim.cameras if self._rng.random() < self._condition.dropout}
        state = self.sim.state()
        observation = self._player.observe(self.sim, n, state, lease.text, lost)
        if observation is None:
            self._retry_at = n + max(1, round(1 / (self._robot.observation_hz * self._robot.dt)))
            return None
        self._images = observation.images
        return Question(observation, self._feed.ask(n, state))

    def _hear(self, n: int, answer: Result | PolicyError) -> None:
        if isinstance(answer, PolicyError) or not np.isfinite(answer.actions).all():
            cause = str(answer) if isinstance(answer, PolicyError) else "its actions are not finite"
            self._report(well=False, cause=cause)
            self._retry_at = n + self._condition.replan
            return
        late = self._condition.delay + self._rng.random() * self._condition.jitter
        self._waiting = n + math.ceil(late / self._robot.dt - 1e-6), answer

    def _take(self, n: int) -> None:
        """The answer is there."""
        (_, result), self._waiting = self._waiting, None
        self._hardware.take(self._feed.answer(n, result.actions))
        self._answers += 1
        self._report(subtask=result.subtask, progress=result.progress)

    def _report(self, *, well: bool = True, cause: str = "answering observations", subtask: str = "",
                progress: float = math.nan, unknown: bool = False) -> None:
        if self._brain.lease is None:
            return
        latency = self._thought[-1] if self._thought else math.nan
        report = Report(self._brain.lease.id, well, cause, subtask, progress, latency, self._answers, unknown)
        self._brain.on_policy(report, now=self._n * self._robot.dt)
