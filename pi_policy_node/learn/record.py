"""Makes demonstrations: the expert in the simulator, in lockstep, in as many processes as wanted.

What comes out follows from the recipe: the same bytes whatever the number of processes, interrupted or not.
"""

from __future__ import annotations

import json
import math
import time
import zlib
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Callable, Iterator

import cv2
import numpy as np

from pi_policy_node.learn.episodes import RECIPE, VERSION, Episode, EpisodesError, encode, put, write
from pi_policy_node.learn.pool import spread
from pi_policy_node.robot import Robot, load_robot
from pi_policy_node.sim import Simulator
from pi_policy_node.sim.expert import Expert
from pi_policy_node.sim.expert.disturb import Disturbances
from pi_policy_node.sim.physics import PhysicsError
from pi_policy_node.sim.tasks import DONE, Task, draw, look

SHARD = 10  # episodes in a file
LINGER = 20  # steps that an episode goes on after its end: "done" has to be seen
FINER = 2  # times the size at which images are drawn, as far as the camera has it
TRIES = 3  # scenes drawn, one after another, until the expert does its task
DRIVING = ("drive", "bring")  # families in which a disturbed episode may begin with the base astray
ASTRAY = 0.7  # part of those in which it does
ROOM = np.array([[-1.5, -1.25], [-0.4, 0.6]])  # m: there the base may turn as it likes, its arms before it
_OTHER = 1_000_000_007  # from the seed of one try to that of the next


@dataclass(frozen=True)
class Recipe:
    """What is recorded: everything that the bytes depend on, but the code."""

    robot: str
    tasks: tuple[str, ...]
    episodes: int  # of each family
    seed: int  # of the first; the others follow
    split: str = "train"
    cameras: tuple[str, ...] = ()
    size: tuple[int, ...] = (64,)  # pixels, width of each camera's images, or of all; the height follows its shape
    every: int = 5  # steps from one image to the next
    jpeg: bool = True
    disturb: float = 0.5  # part of the episodes in which something goes wrong
    correct: str = ""  # weights of mini, which then does the tasks, and the expert says what it would have done
    version: int = VERSION


@dataclass(frozen=True)
class Shard:
    """One file: these seeds of a family."""

    family: str
    first: int
    count: int

    def path(self, folder: Path) -> Path:
        return folder / self.family / f"{self.first:08d}.npz"


@dataclass(frozen=True)
class Made:
    """What came of a shard."""

    shard: Shard
    episodes: int
    failed: int  # tries in which the expert did not do it
    disturbed: int  # episodes in which something went wrong
    simulated: float  # s
    cpu: float  # s
    size: int  # bytes


def shapes(robot: Robot, cameras: tuple[str, ...], widths: tuple[int, ...]) -> dict[str, tuple[int, int]]:
    """camera -> (h, w) of its images; one width for all, or one for each."""
    wide = dict(zip(cameras, widths * (len(cameras) if len(widths) == 1 else 1)))
    return {c.name: (round(wide[c.name] * c.height / c.width), wide[c.name]) for c in robot.cameras if c.name in wide}


def simulator(robot: Robot, shapes: dict[str, tuple[int, int]]) -> Simulator:
    """One that draws these cameras finer than that."""
    own = {camera.name: (camera.height, camera.width) for camera in robot.cameras}
    finer = {name: max(shape, min((FINER * shape[0], FINER * shape[1]), own[name])) for name, shape in shapes.items()}
    return Simulator(robot, "empty", cameras=tuple(shapes), size=finer)


def smaller(sim: Simulator, shapes: dict[str, tuple[int, int]]) -> dict[str, np.ndarray]:
    """uint8 [h, w, 3] of each camera now: drawn finer and averaged, as what is made smaller on the robot is."""
    return {camera: cv2.resize(image, shapes[camera][::-1], interpolation=cv2.INTER_AREA)
            for camera, image in sim.images().items()}


def somewhere(rng: np.random.Generator) -> tuple[float, float, float]:
    """A pose of the base in the middle of the room: how to get on from where no drive should have led."""
    x, y = rng.uniform(*ROOM)
    return float(x), float(y), float(rng.uniform(-math.pi, math.pi))


class Recorder:
    """Records the episodes of a recipe in this process."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self.robot = load_robot(recipe.robot)
        self.expert = Expert(self.robot)
        self.shapes = shapes(self.robot, recipe.cameras, recipe.size)
        self.sim = simulator(self.robot, self.shapes)
        self.simulated = 0.0  # s

    def shard(self, shard: Shard, folder: Path) -> Made:
        begun, before, failed = time.process_time(), self.simulated, 0
        episodes: list[Episode] = []
        for seed in range(shard.first, shard.first + shard.count):
            for again in range(TRIES):
                episode = self.episode(draw(shard.family, seed + again * _OTHER, self.recipe.split))
                if episode is not None:
                    episodes.append(episode)
                    break
                failed += 1
        size = write(shard.path(folder), episodes)
        return Made(shard, len(episodes), failed, sum(bool(e.events) for e in episodes), self.simulated - before,
                    time.process_time() - begun, size)

    def episode(self, task: Task) -> Episode | None:
        """None where the expert fails."""
        rng = np.random.default_rng([zlib.crc32(task.family.encode()), task.seed, 99])
        hit = rng.random() < self.recipe.disturb
        wrong = Disturbances(rng, count=int(rng.integers(1, 2 + len(task.goals))) if hit else 0)
        row = self.begin(task, rng, hit)
        self.expert.reset(row)
        try:
            return self._play(task, wrong, row)
        except PhysicsError:
            return None

    def begin(self, task: Task, rng: np.random.Generator, hit: bool) -> np.ndarray:
        """Sets a task up; the row that is commanded then. hit: not as one is used to it."""
        self.sim.steps = 0  # an episode must not depend on those before it
        astray = hit and task.family in DRIVING and rng.random() < ASTRAY
        self.sim.reset(0, replace(task.scene, base=somewhere(rng)) if astray else task.scene)
        return self._elsewhere(rng) if hit else self.robot.home.copy()

    def images(self) -> dict[str, np.ndarray]:
        """uint8 [h, w, 3] of each camera now."""
        return smaller(self.sim, self.shapes)

    def _elsewhere(self, rng: np.random.Generator) -> np.ndarray:
        """Moves the hands a little away from home, to begin there."""
        robot, row = self.robot, self.robot.home.copy()
        for arm in self.expert.arms.values():
            point = arm.nearest(arm.home + rng.uniform([-0.05, -0.07, -0.02], [0.07, 0.07, 0.06]), arm.home_lift)
            row[arm.columns] = arm.joints(point, arm.natural_yaw(point) + rng.uniform(-0.6, 0.6), arm.home_lift)
            row[arm.hand] = rng.uniform(0.4, 1.0)
        row[robot.group("lift").columns] += rng.uniform(-0.01, 0.02)
        for u in np.linspace(0.02, 1.0, 50):
            self.sim.step(robot.home + (row - robot.home) * u * u * (3 - 2 * u))
        return row

    def _play(self, task: Task, wrong: Disturbances, row: np.ndarray) -> Episode | None:
        sim, dt, cameras = self.sim, self.robot.dt, self.recipe.cameras
        states, actions, clean, segments, arms, frames = [], [], [], [], [], []
        words: list[str] = []
        ended: list[bool] = []  # by segment
        images: dict[str, list] = {camera: [] for camera in cameras}
        act, fresh, over = None, True, 0
        for step in range(round(task.seconds / dt)):
            view = look(sim)
            late = wrong.late(step)
            if late:
                subtask, finished, executed = task.next(view), False, row
            else:
                push = wrong.before(step, view, self.expert, act.subtask.kind if act else "", sim)
                act = self.expert.act(view, task, push=push)
                subtask, finished, executed = act.subtask, act.finished, wrong.after(self.robot, act)
            if not words or words[-1] != subtask.words or fresh and subtask.words != DONE:
                words.append(subtask.words)
                ended.append(False)
            fresh, ended[-1] = not late and self.expert.between, finished
            segments.append(len(words) - 1)
            arms.append(-1 if late else self.expert.number)
            states.append(view.state)
            actions.append(executed)
            clean.append(not late and not wrong.acting)
            if cameras and step % self.recipe.every == 0:
                frames.append(step)
                for camera, image in self.images().items():
                    images[camera].append(encode(image) if self.recipe.jpeg else image)
            sim.step(executed)
            self.simulated += dt
            over += subtask.words == DONE and (finished or over > 0)
            if over > LINGER:
                break
        if not over or not task.success(look(sim)):
            return None
        return Episode(
            family=task.family, seed=task.seed, split=task.split, instruction=task.instruction, target=task.target,
            state=np.array(states, np.float32), action=np.array(actions, np.float32), clean=np.array(clean),
            subtasks=tuple(words), subtask=np.array(segments, np.int16), progress=_progress(segments, words, ended),
            arm=np.array(arms, np.int8), frames=np.array(frames, np.int32), events=tuple(wrong.events),
            images={c: i if self.recipe.jpeg else np.array(i, np.uint8) for c, i in images.items()})


def _progress(segments: list[int], words: list[str], ended: list[bool]) -> np.ndarray:
    """[T] from 0 at a subtask's first step to 1 at its last; 1 when nothing is left; NaN where it came to nothing."""
    numbers = np.array(segments)
    result = np.full(len(numbers), np.nan, np.float32)
    for k, (said, finished) in enumerate(zip(words, ended)):
        steps = numbers == k
        if said == DONE:
            result[steps] = 1.0
        elif finished:
            result[steps] = np.linspace(0, 1, int(steps.sum()))
    return result


def recorder_of(recipe: Recipe) -> Recorder:
    """What records such a recipe."""
    if not recipe.correct:
        return Recorder(recipe)
    from pi_policy_node.learn.correct import Corrector

    return Corrector(recipe)


def plan(recipe: Recipe) -> list[Shard]:
    """The files of a recipe, the families in turn, so that an interrupted recording has some of each."""
    return [Shard(name, recipe.seed + k, min(SHARD, recipe.episodes - k))
            for k in range(0, recipe.episodes, SHARD) for name in recipe.tasks]


def record(recipe: Recipe, folder: Path, *, workers: int, report: Callable[[Made, int], None]) -> int:
    """Makes what is not there yet, and returns how many files were. report: told of each, and how many are left."""
    _agree(recipe, folder)
    todo = plan(recipe)
    left = [shard for shard in todo if not shard.path(folder).exists()]
    for k, made in enumerate(_make(recipe, folder, left, workers), start=1):
        report(made, len(left) - k)
    return len(todo) - len(left)


def _make(recipe: Recipe, folder: Path, shards: list[Shard], workers: int) -> Iterator[Made]:
    try:
        yield from spread(_recording, (recipe, folder), shards, workers)
    except BrokenProcessPool:
        raise EpisodesError("a worker died, perhaps for want of memory: the same command goes on from here, "
                            "with fewer --workers if need be") from None


def _recording(recipe: Recipe, folder: Path) -> Callable[[Shard], Made]:
    recorder = recorder_of(recipe)
    return lambda shard: recorder.shard(shard, folder)


def _agree(recipe: Recipe, folder: Path) -> None:
    """A folder holds one recipe; more families and more episodes may be added."""
    path, new = folder / RECIPE, json.loads(json.dumps(asdict(recipe)))
    if path.exists():
        try:
            old = json.loads(path.read_bytes())
        except ValueError:
            raise EpisodesError(f"{path} cannot be read: delete the folder if it is not wanted") from None
        old.setdefault("correct", "")
        differ = [k for k in new if k not in ("episodes", "tasks") and old.get(k) != new[k]]
        if differ:
            was = ", ".join(f"{k} {old.get(k)}" for k in differ)
            raise EpisodesError(f"{folder} was recorded with another recipe ({was}): use that, or another folder")
        if old["episodes"] != new["episodes"] and min(old["episodes"], new["episodes"]) % SHARD:
            raise EpisodesError(f"{folder} has {old['episodes']} episodes of each family: more can be added to "
                                f"multiples of {SHARD} only")
        new["tasks"] = sorted({*old["tasks"], *new["tasks"]})
        new["episodes"] = max(old["episodes"], new["episodes"])
    elif folder.exists() and any(folder.iterdir()):
        raise EpisodesError(f"{folder} holds something else: give a new folder, or an empty one")
    put(path, json.dumps(new, indent=1).encode() + b"\n")
