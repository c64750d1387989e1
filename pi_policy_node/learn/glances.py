"""Pictures with answers: what mini learns to find things from, before and beside learning to act.

A demonstration shows one thing at a time being fetched, in some hundred pictures that are all alike. Here every picture
is of another scene, and everything in it that can be named has an answer: where the hand would close or open. The
robot stands in it as it may while it works: at home, above a thing, carrying one.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from pi_policy_node.learn.answers import Answer, answers, next_step
from pi_policy_node.learn.episodes import RECIPE, EpisodesError, encode, put
from pi_policy_node.learn.pool import spread
from pi_policy_node.learn.record import shapes, simulator, smaller, somewhere
from pi_policy_node.policy.mini_eyes import harmonics
from pi_policy_node.robot import load_robot
from pi_policy_node.sim.expert import Expert
from pi_policy_node.sim.expert.arms import Arm, ReachError
from pi_policy_node.sim.expert.skills import grip_yaws
from pi_policy_node.sim.expert.spots import SPREAD, TOUCH, spot
from pi_policy_node.sim.sight import sees
from pi_policy_node.sim.tasks import Task, View, draw, look
from pi_policy_node.sim.tasks.goals import Bring, DrawerAt, Inside, OnSurface
from pi_policy_node.sim.tasks.view import HALF_WIDTH, STROKE, TOP, half_height, handle, wrap
from pi_policy_node.sim.world import KINDS, PLACES

VERSION = 10
SHARD = 100  # scenes in a file
# in these parts
FAMILIES = {"put": 5, "stack": 2, "move": 2, "drawer": 2, "bring": 1, "clear": 3, "gather": 2, "sort": 2, "drive": 10}
RESTS = 0.7  # part of the arms that are at home while the robot drives
MET = 0.5  # part of the scenes in which some goals are met already
CARRIED = 0.5  # part of the scenes for bringing in which the robot is where it has to bring things
OWN = 0.5  # part of what is held that the task is about
AJAR = 0.5  # part of the drawers, not yet as wanted, that stand anywhere between
AT_HANDLE = 0.5  # part of the hands on the drawer's side that are about its handle, where it is to be moved
LETS_GO = 0.12  # part of the hands that are about to let go of something where it belongs
GRASPS = 0.3  # part of the hands down over a thing that have closed on it
FLOOR = 0.008  # m from a container's foot to what lies in it


@dataclass(frozen=True)
class GlanceRecipe:
    """Everything that the bytes depend on, but the code."""

    robot: str
    scenes: int
    seed: int
    cameras: tuple[str, ...]
    size: tuple[int, ...]  # pixels, width of each camera's images
    tasks: tuple[str, ...] = tuple(FAMILIES)
    version: int = VERSION


@dataclass
class Glances:
    """N pictures of each camera, what to do next in each, and M answers."""

    state: np.ndarray  # float32 [N, A]
    images: dict[str, list[bytes]]  # camera -> N JPEGs
    frame: np.ndarray  # int32 [M] which picture
    words: tuple[str, ...]  # M: what is asked for, as a subtask would
    thing: np.ndarray  # float32 [M, 3] m, in the base's frame: what the words name
    shown: dict[str, np.ndarray]  # camera -> bool [M]: nothing stands before it
    place: np.ndarray  # float32 [M, 3] m: where the hand would close or open
    turn: np.ndarray  # float32 [M, 6] harmonics of the directions in which fingers would close there; NaN: any will do
    base: np.ndarray  # float64 [N, 3] where the base stands in the room: x, y, yaw
    task: tuple[str, ...]  # N: an instruction for this scene
    step: tuple[str, ...]  # N: the subtask that is next for it


class Gazer:
    """Makes pictures in this process."""

    def __init__(self, recipe: GlanceRecipe):
        self.recipe, self.robot = recipe, load_robot(recipe.robot)
        self.arms: dict[str, Arm] = Expert(self.robot).arms
        self.shapes = shapes(self.robot, recipe.cameras, recipe.size)
        self.sim = simulator(self.robot, self.shapes)

    def shard(self, first: int, count: int) -> Glances:
        states, bases, frame, words, things, places, turns, tasks, steps = ([] for _ in range(9))
        images: dict[str, list[bytes]] = {name: [] for name in self.shapes}
        shown: dict[str, list[np.ndarray]] = {name: [] for name in self.shapes}
        for k, seed in enumerate(range(first, first + count)):
            task, view = self._scene(np.random.default_rng([seed, 31]), seed)
            for name, image in smaller(self.sim, self.shapes).items():
                images[name].append(encode(image))
            states.append(view.state)
            bases.append(view.base)
            tasks.append(task.instruction)
            steps.append(next_step(task, view, self.arms).words)
            asked = list(answers(view))
            for camera, those in self._shown(asked).items():
                shown[camera].append(those)
            for answer in asked:
                frame.append(k)
                words.append(answer.words)
                things.append(view.to_base(answer.thing))
                places.append(view.to_base(answer.place))
                turns.append(harmonics(np.array(answer.yaws) - view.base[2]) if answer.yaws else [np.nan] * 6)
        return Glances(np.array(states, np.float32), images, np.array(frame, np.int32), tuple(words),
                       np.array(things, np.float32), {c: np.concatenate(s) for c, s in shown.items()},
                       np.array(places, np.float32), np.array(turns, np.float32), np.array(bases, np.float64),
                       tuple(tasks), tuple(steps))

    def _shown(self, asked: list[Answer]) -> dict[str, np.ndarray]:
        """camera -> bool [answers]"""
        points, physics = np.array([answer.thing for answer in asked]), self.sim.physics
        bodies, reach = np.array([physics.body(answer.body) for answer in asked]), np.array([a.reach for a in asked])
        return {camera: sees(physics, camera, points, reach, bodies) for camera in self.shapes}

    def _scene(self, rng: np.random.Generator, seed: int) -> tuple[Task, View]:
        """Sets one up, with the robot somewhere in it."""
        tasks = [name for name in FAMILIES if name in self.recipe.tasks]
        parts = np.array([FAMILIES[name] for name in tasks], float)
        task = draw(str(rng.choice(tasks, p=parts / parts.sum())), seed)
        driving, first = task.family == "drive", task.goals[0]
        met = rng.random(len(task.goals)) < rng.random() * (rng.random() < MET)
        base, drawer = task.scene.base, task.scene.drawer
        if driving:
            base = _about(rng, PLACES[first.place]) if met[0] else anywhere(rng)
        elif isinstance(first, OnSurface) and (met[0] or rng.random() < CARRIED):
            base = _about(rng, PLACES[first.surface])
        if isinstance(first, DrawerAt) and met[0]:
            drawer = abs(first.opening - abs(rng.normal(0, 0.05)))
        elif isinstance(first, DrawerAt) and rng.random() < AJAR:
            drawer = rng.uniform(0.0, 1.0)
        self.sim.reset(0, replace(task.scene, base=base, drawer=drawer))
        self._bring(rng, task, look(self.sim), met)
        view = look(self.sim)
        row = self.robot.home.copy()
        row[self.robot.group("lift").columns] += rng.uniform(-0.02, 0.03) * (not driving and rng.random() < 0.5)
        things = [name for name, thing in view.things.items() if thing.kind in HALF_WIDTH]
        goals = [goal for goal in task.goals if isinstance(goal, Bring)]
        own = [goal.thing for goal in goals]
        held = {}
        for arm in self.arms.values():
            if driving and rng.random() < RESTS:
                continue
            if isinstance(first, DrawerAt) and arm.home[1] > 0 and rng.random() < AT_HANDLE:
                point, yaw, opening, thing = self._at_handle(rng, arm, view, row[arm.lift])
            elif goals and rng.random() < LETS_GO:
                point, yaw, opening, thing = self._over(rng, arm, view, row[arm.lift], goals[rng.integers(len(goals))])
            else:
                choice = own if own and rng.random() < OWN else things
                point, yaw, opening, thing = self._hand(rng, arm, view, row[arm.lift], choice)
            try:
                row[arm.columns] = arm.joints(point, yaw, row[arm.lift])
            except ReachError:
                continue  # stays at home
            row[arm.hand] = opening
            if thing and thing not in held.values():
                held[arm.name] = thing
        self._stand(row, held)
        return task, look(self.sim)

    def _bring(self, rng: np.random.Generator, task: Task, view: View, met: np.ndarray) -> None:
        """Puts things where these goals want them, without physics."""
        goals = [goal for goal, there in zip(task.goals, met) if there and isinstance(goal, Bring)]
        for goal, (x, y) in zip(goals, SPREAD):
            thing, turned = view.things[goal.thing], rng.uniform(-math.pi, math.pi)
            if isinstance(goal, Inside):
                at, pose = view.things[goal.container].position + [x, y, FLOOR + half_height(thing)], thing.quaternion
            else:
                arm = self.arms[str(rng.choice(list(self.arms)))]
                at = spot(view, goal, arm, None) + np.r_[rng.normal(0, 0.006, 2), KINDS[thing.kind].height - TOUCH]
                pose = math.cos(turned / 2), 0.0, 0.0, math.sin(turned / 2)
            self.sim.physics.pose(goal.thing, at, pose)

    def _hand(self, rng, arm: Arm, view: View, lift: float, things: list[str]) -> tuple[np.ndarray, float, float, str]:
        """Point, yaw, opening, and what it holds."""
        how = rng.random()
        if how < 0.35:  # about home
            point = arm.home + rng.normal(0, 0.015, 3) * (rng.random() < 0.7)
            return point, arm.natural_yaw(point) + rng.normal(0, 0.1), 1.0, ""
        if how < 0.65 and things:  # coming down over a thing
            name = str(rng.choice(things))
            thing, grasps = view.things[name], rng.random() < GRASPS
            high = rng.uniform(0.0, 0.02 if grasps else 0.14)
            point = view.to_base(thing.position) + np.r_[rng.normal(0, 0.006 + 0.25 * high, 2), high]
            yaw = float(rng.choice(grip_yaws(thing))) - view.base[2]
            natural = arm.natural_yaw(point)
            yaw = natural + ((yaw - natural + math.pi / 2) % math.pi - math.pi / 2)
            if grasps:
                return arm.nearest(point, lift), yaw, HALF_WIDTH[thing.kind] / STROKE, name
            return arm.nearest(point, lift), yaw, rng.uniform(0.8, 1.0), ""
        side = math.copysign(1, arm.home[1])
        point = np.array([rng.uniform(0.34, 0.66), side * rng.uniform(-0.15, 0.42), TOP + rng.uniform(0.06, 0.24)])
        yaw = arm.natural_yaw(point) + rng.uniform(-0.5, 0.5)
        if how < 0.85 and things:  # carrying
            thing = str(rng.choice(things))
            return arm.nearest(point, lift), yaw, HALF_WIDTH[view.things[thing].kind] / STROKE, thing
        return arm.nearest(point, lift), yaw, rng.uniform(0.0, 1.0), ""

    def _at_handle(self, rng, arm: Arm, view: View, lift: float) -> tuple[np.ndarray, float, float, str]:
        """The same, at or above the drawer's handle."""
        high = rng.uniform(0.0, 0.12) * (rng.random() < 0.5)
        point = view.to_base(handle(view)) + np.r_[rng.normal(0, 0.006 + 0.25 * high, 2), high]
        yaw = arm.natural_yaw(point)
        yaw += wrap(2 * (-view.base[2] - yaw)) / 2 + rng.normal(0, 0.05)  # across the bar
        return arm.nearest(point, lift), yaw, rng.uniform(0.1, 0.8), ""

    def _over(self, rng, arm: Arm, view: View, lift: float, goal: Bring) -> tuple[np.ndarray, float, float, str]:
        """The same, where it is about to let go."""
        thing, high = view.things[goal.thing], max(0.0, rng.uniform(-0.04, 0.10))
        at = view.to_base(spot(view, goal, arm, None) + [0, 0, half_height(thing)])
        point = at + np.r_[rng.normal(0, 0.006 + 0.2 * high, 2), high]
        yaw = arm.natural_yaw(point) + rng.normal(0, 0.1)
        return arm.nearest(point, lift), yaw, HALF_WIDTH[thing.kind] / STROKE, goal.thing

    def _stand(self, row: np.ndarray, held: dict[str, str]) -> None:
        """Puts the robot and what it holds there, without physics."""
        self.sim.place_robot(row)
        for arm, tool in self.sim.physics.tools().items():
            if arm in held:
                # its own axis across the fingers, whichever way the hand is turned
                pose = self.sim.physics.tool_yaw(arm)
                self.sim.physics.pose(held[arm], tool, (math.cos(pose / 2), 0.0, 0.0, math.sin(pose / 2)))


def _about(rng: np.random.Generator, pose: Sequence[float]) -> tuple[float, float, float]:
    """Where a base stands that has driven there."""
    x, y, yaw = pose + np.r_[rng.normal(0, 0.012, 2), rng.normal(0, 0.02)]
    return float(x), float(y), float(yaw)


def anywhere(rng: np.random.Generator) -> tuple[float, float, float]:
    """A pose of the base: about a place, on the way from one to another, or lost in the room."""
    start, goal = (np.array(PLACES[str(name)]) for name in rng.permutation(list(PLACES))[:2])
    how = rng.random()
    if how < 0.4:
        pose = goal + np.r_[rng.normal(0, 0.08, 2), rng.normal(0, 0.12)]
    elif how < 0.8:
        x, y = start[:2] + (goal - start)[:2] * rng.random() + rng.normal(0, 0.12, 2)
        ways = (start[2], goal[2], math.atan2(goal[1] - start[1], goal[0] - start[0]))
        aside = rng.normal(0, 0.4) if rng.random() < 0.7 else rng.uniform(-math.pi, math.pi)
        pose = x, y, float(rng.choice(ways)) + aside
    else:
        pose = somewhere(rng)
    return tuple(float(part) for part in pose)


# ------------------------------------------------------------------------------------------------------------ on disk

def record(recipe: GlanceRecipe, folder: Path, *, workers: int, report: Callable[[int, int], None]) -> None:
    """Makes what is not there yet. report: told how many scenes were made just now, and how many are left."""
    note, text = folder / RECIPE, json.dumps({"glances": asdict(recipe)}, indent=1)
    if note.exists() and json.loads(note.read_text()) != json.loads(text):
        raise EpisodesError(f"{folder} was recorded with another recipe: use that, or another folder")
    if not note.exists() and folder.exists() and any(folder.iterdir()):
        raise EpisodesError(f"{folder} holds something else: give a new folder, or an empty one")
    put(note, text.encode())
    pieces = [(k, min(SHARD, recipe.scenes - k)) for k in range(0, recipe.scenes, SHARD)]
    todo = [(recipe.seed + k, count) for k, count in pieces if not _path(folder, recipe.seed + k).exists()]
    left = sum(count for _, count in todo)
    for count in spread(_making, (recipe, folder), todo, workers):
        left -= count
        report(count, left)


def _making(recipe: GlanceRecipe, folder: Path) -> Callable[[tuple[int, int]], int]:
    gazer = Gazer(recipe)

    def make(piece: tuple[int, int]) -> int:
        write(_path(folder, piece[0]), gazer.shard(*piece))
        return piece[1]

    return make


def _path(folder: Path, first: int) -> Path:
    return folder / "glances" / f"{first:08d}.npz"


def write(path: Path, glances: Glances) -> None:
    """A file, all or nothing."""
    arrays = {"version": np.array(VERSION), "state": glances.state, "frame": glances.frame, "thing": glances.thing,
              "place": glances.place, "turn": glances.turn, "base": glances.base,
              "words": np.array(glances.words), "task": np.array(glances.task), "step": np.array(glances.step)}
    for camera, images in glances.images.items():
        arrays[f"shown.{camera}"] = glances.shown[camera]
        arrays[f"images.{camera}"] = np.frombuffer(b"".join(images), np.uint8)
        arrays[f"ends.{camera}"] = np.cumsum([len(i) for i in images], dtype=np.int64)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    put(path, buffer.getvalue())


def read(path: Path) -> Glances:
    try:
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
        if arrays["version"] != VERSION:
            raise EpisodesError(f"{path} has version {arrays['version']} of the format, not {VERSION}: record it again")
        images = {}
        for name in arrays:
            if name.startswith("images."):
                camera = name.removeprefix("images.")
                ends = arrays[f"ends.{camera}"]
                images[camera] = [arrays[name][a:b].tobytes() for a, b in zip([0, *ends[:-1]], ends)]
        words, task, step = (tuple(arrays[name].tolist()) for name in ("words", "task", "step"))
        shown = {camera: arrays[f"shown.{camera}"] for camera in images}
        thing, place, turn, base = (arrays[name] for name in ("thing", "place", "turn", "base"))
        return Glances(arrays["state"], images, arrays["frame"], words, thing, shown, place, turn, base, task, step)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise EpisodesError(f"{path} holds no pictures with answers: {error}") from None


def shards(folder: Path) -> list[Path]:
    """Every file under a folder that pictures were recorded to, in order."""
    found = sorted(folder.glob("glances/*.npz"))
    if not found:
        raise EpisodesError(f"{folder} holds no pictures with answers: make them with ./pi sim look")
    return found
