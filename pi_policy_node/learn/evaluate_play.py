"""One episode of a policy in the simulator, in lockstep: looks, thinks for as long as it is told to, acts.

The commander's own rules (task.brain) say when the task is over: the policy says that it is done, or gets no further,
or the time is up. Whether it is done is judged by the state of the world.
"""

from __future__ import annotations

import math
import time
import zlib
from dataclasses import dataclass, field

import numpy as np

from pi_policy_node.learn.evaluate_mishaps import Mishaps
from pi_policy_node.learn.evaluate_modes import MODES, Limits
from pi_policy_node.learn.evaluate_watch import Watch
from pi_policy_node.policy.base import Observation, Policy, PolicyError, Result
from pi_policy_node.robot import Robot
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
    ended: str  # as the commander would say it: "succeeded", "timed_out", "failed", "refused"; "settled": nobody said it
    reason: str
    cause: str  # why it failed, one of evaluate_watch.CAUSES; empty where it did not
    right_first: bool | None
    lifted: tuple[str, ...]
    subtasks: tuple[str, ...]
    events: tuple[tuple[int, str], ...]
    seconds: float  # simulated
    rows: int
    limited: int  # rows that the limits changed
    held: int  # rows without an answer to go by
    asked: int
    thinking: float  # s of one answer, computed, the mean
    wall: float  # s


@dataclass
class Frame:
    """A moment that a film may show."""

    qpos: np.ndarray
    words: tuple[str, ...]
    images: dict[str, np.ndarray] = field(default_factory=dict)


class Player:
    """Plays episodes in this process, one after another.

    width: of the pictures in pixels, as they are drawn; 0: each camera's own size, letterboxed as in the graph.
    """

    def __init__(self, robot: Robot, policy: Policy, *, width: int):
        self.robot, self.policy, self._width = robot, policy, width
        if abs(policy.dt - robot.dt) > 1e-9:
            raise PolicyError(f"{policy.name} has rows every {policy.dt:g} s, {robot.name} every {robot.dt:g} s")
        cameras = getattr(policy, "cameras", tuple(camera.name for camera in robot.cameras))
        shape = next((c for c in robot.cameras if c.name in cameras), None)
        size = (round(width * shape.height / shape.width), width) if width and shape else None
        self.sim = Simulator(robot, "empty", cameras=cameras, size=size)
        self._required = {camera.name for camera in robot.cameras if camera.required} & set(cameras)
        self.frames: list[Frame] = []  # of the last episode, ten a second, where it was to be filmed

    def play(self, task: Task, condition: Condition, *, film: bool = False) -> Outcome:
        """One episode."""
        begun = time.monotonic()
        self.sim.steps = 0  # an episode must not depend on those before it
        self.sim.reset(0, task.scene)
        reseed = getattr(self.policy, "reseed", None)
        if reseed is not None:
            reseed(zlib.crc32(f"{condition}/{task.seed}".encode()))
        self._reset_policy()
        self.frames = []
        episode = _Episode(self, task, condition, film)
        try:
            episode.run()
        except PhysicsError as error:
            episode.broken = str(error)
        return episode.outcome(time.monotonic() - begun)

    def observe(self, n: int, state: np.ndarray, prompt: str, lost: set[str]) -> Observation | None:
        """What the policy sees before row n; None where a picture that the robot requires is lost."""
        if lost & self._required:
            return None
        images = {name: image for name, image in self.sim.images().items() if name not in lost}
        if not self._width:
            images = {name: letterbox(np.ascontiguousarray(image), self.robot.image_size) for name, image in images.items()}
        return Observation(images, state, prompt, n * self.robot.dt)

    def _reset_policy(self) -> None:
        reset = getattr(self.policy, "reset", None)
        if reset is not None:
            reset()


class _Episode:
    """An episode under way."""

    def __init__(self, player: Player, task: Task, condition: Condition, film: bool):
        self._player, self._sim, self._robot = player, player.sim, player.robot
        self._task, self._condition, self._film = task, condition, film
        self._rng = np.random.default_rng([zlib.crc32(repr(condition).encode()), task.seed])
        self._feed = MODES[condition.mode](self._robot, replan=condition.replan, delay=condition.delay)
        self._limits = Limits(self._robot, self._robot.home)
        self._watch = Watch(task)
        self._mishaps = Mishaps(task) if condition.disturb else None
        self._brain = Brain(time_limit=task.seconds, changed=lambda _: None, stall=STALL, retries=RETRIES)
        self._waiting: tuple[int, Result] | None = None  # the row at which an answer is there, and the answer
        self._retry_at = 0  # row, after a look at which pictures were lost
        self._images: dict[str, np.ndarray] = {}
        self._thought: list[float] = []
        self._attempt = self._answers = self._n = self._held = 0
        self._view: View = look(self._sim)
        self.broken = ""

    def run(self) -> None:
        """Until it is over."""
        brain, dt = self._brain, self._robot.dt
        brain.on_bridge(Bridge.RUNNING, "", now=0.0)
        brain.begin(self._task.instruction, now=0.0, stamp=1)
        self._refuse_unknown()
        settled = 0.0
        while brain.lease is not None and settled < SETTLED:
            n, now = self._n, self._n * dt
            if n % WATCHED == 0:
                self._view = look(self._sim)
                self._watch.see(self._view)
                settled = settled + WATCHED * dt if self._task.success(self._view) else 0.0
                if self._mishaps:
                    self._mishaps.happen(n, self._view, self._sim)
                brain.on_bridge(Bridge.RUNNING, "", now=now)
                brain.tick(now)
                if self._film:
                    self._shoot()
            if brain.lease is None:
                break
            self._think(n)
            row = self._feed.row(n)
            self._held += row is None
            row = self._limits.row(row)
            self._sim.step(row if self._mishaps is None else self._mishaps.spoil(n, row))
            self._n += 1

    def outcome(self, wall: float) -> Outcome:
        task, said = self._task, self._brain.outcome
        view = look(self._sim) if not self.broken else self._view
        success = not self.broken and task.success(view)
        cause = "" if success else "physics" if self.broken else (
            "refused" if said.state == State.REFUSED else
            "no answer" if not self._answers else self._watch.cause(view))
        return Outcome(
            seed=task.seed, instruction=task.instruction, success=success, met=float(np.mean(task.met(view))),
            ended="settled" if said.state == State.RUNNING else said.state.name.lower(), reason=self.broken or said.reason,
            cause=cause, right_first=self._watch.right_first, lifted=tuple(self._watch.lifted), subtasks=said.subtasks,
            events=tuple(self._mishaps.events) if self._mishaps else (), seconds=round(self._n * self._robot.dt, 3),
            rows=self._n, limited=self._limits.limited, held=self._held, asked=len(self._thought),
            thinking=float(np.mean(self._thought)) if self._thought else math.nan, wall=wall)

    # ------------------------------------------------------------------------------------------------- the policy

    def _refuse_unknown(self) -> None:
        unknown = getattr(self._player.policy, "unknown", lambda _: ())(self._brain.lease.text)
        if unknown:
            self._report(unknown=True, cause=f"unknown words: {', '.join(unknown)}")

    def _think(self, n: int) -> None:
        """Asks where it is time to, and takes the answer when its time has come."""
        lease = self._brain.lease
        if lease.attempt != self._attempt:
            self._attempt, self._waiting = lease.attempt, None
            self._feed.forget()
            self._player._reset_policy()
        if self._waiting is None and n >= self._retry_at and self._feed.due(n):
            self._ask(n, lease.text)
        if self._waiting is not None and n >= self._waiting[0]:
            (_, result), self._waiting = self._waiting, None
            self._feed.answer(n, result.actions)
            self._answers += 1
            self._report(subtask=result.subtask, progress=result.progress)

    def _ask(self, n: int, prompt: str) -> None:
        condition, dt = self._condition, self._robot.dt
        lost = {name for name in self._sim.cameras if self._rng.random() < condition.dropout}
        state = self._sim.state()
        observation = self._player.observe(n, state, prompt, lost)
        if observation is None:
            self._retry_at = n + max(1, round(1 / (self._robot.observation_hz * dt)))
            return
        self._images = observation.images
        prefix = self._feed.ask(n, state)
        begun = time.perf_counter()
        try:
            result = self._player.policy.infer(observation, prefix=prefix)
            if not np.isfinite(result.actions).all():
                raise PolicyError("its actions are not finite")
        except PolicyError as error:
            self._report(well=False, cause=str(error))
            self._retry_at = n + condition.replan
            return
        self._thought.append(time.perf_counter() - begun)
        late = condition.delay + self._rng.random() * condition.jitter
        self._waiting = n + math.ceil(late / dt - 1e-6), result

    def _report(self, *, well: bool = True, cause: str = "answering observations", subtask: str = "",
                progress: float = math.nan, unknown: bool = False) -> None:
        latency = self._thought[-1] if self._thought else math.nan
        self._brain.on_policy(Report(self._brain.lease.id, well, cause, subtask, progress, latency, self._answers, unknown),
                              now=self._n * self._robot.dt)

    def _shoot(self) -> None:
        said = self._brain.outcome
        far = "" if math.isnan(said.progress) else f"  {said.progress:.0%}"
        words = (self._task.instruction, f"{said.subtask}{far}", f"{self._n * self._robot.dt:.1f} s  "
                 + ", ".join(kind for _, kind in (self._mishaps.events if self._mishaps else ())))
        self._player.frames.append(Frame(self._sim.physics.data.qpos.copy(), words, self._images))
