"""Evaluates a policy in the simulator: episodes under conditions, in as many processes as wanted, and what came of it.

The scene of an episode follows from family, split and seed alone (`trial`), so that policies, modes and delays are
compared on the same ones, and the ROS graph on those of lockstep. Seeds are never those of demonstrations.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pi_policy_node.learn.evaluate_play import Condition, Outcome, Player
from pi_policy_node.learn.pool import spread
from pi_policy_node.policy.registry import make_policy
from pi_policy_node.robot import load_robot
from pi_policy_node.sim.tasks import KEPT_SEEDS, Task, draw

VERSION = 2  # of the files
ROUNDS = 2  # episodes that are played one after another on each of several seats


class EvaluationError(ValueError):
    """An evaluation cannot begin or go on; the message says what would be right."""


@dataclass(frozen=True)
class Setting:
    """What is evaluated, and how: all that outcomes follow from, but the conditions, the seeds and the code."""

    policy: str
    options: dict[str, object] = field(default_factory=dict)
    robot: str = "pi_mobile"
    width: int = 192  # pixels of the pictures as they are drawn; 0: as in the graph
    seats: int = 1  # episodes side by side in each process


@dataclass(frozen=True)
class Trial:
    """One episode to be played."""

    condition: Condition
    seed: int

    @property
    def key(self) -> str:
        """Names it in files."""
        return json.dumps([asdict(self.condition), self.seed], sort_keys=True)


@dataclass(frozen=True)
class Played:
    """A trial and its outcome."""

    trial: Trial
    outcome: Outcome


def trial_task(family: str, seed: int, split: str = "train") -> Task:
    """The task of an evaluation's seed, wherever it is played."""
    return draw(family, KEPT_SEEDS + seed, split)


def plan(conditions: Sequence[Condition], episodes: int, seed: int) -> list[Trial]:
    """All conditions seed by seed, so that an evaluation which is interrupted has some of each."""
    return [Trial(condition, k) for k in range(seed, seed + episodes) for condition in conditions]


def evaluate(setting: Setting, trials: Sequence[Trial], *, workers: int, log: Path | None = None,
             videos: Path | None = None, report: Callable[[Played, int], None]) -> list[Played]:
    """Plays what is not in the log yet, and returns all in the order of `trials`.

    log: outcomes are added there one by one. videos: a folder for films of failures. report: told of each episode, and
    how many are left.
    """
    done = read_log(log, setting) if log else {}
    size = ROUNDS * setting.seats if setting.seats > 1 else 1  # what is played together comes out together
    groups = [tuple(trials[k:k + size]) for k in range(0, len(trials), size)]
    groups = [group for group in groups if any(trial.key not in done for trial in group)]
    left = sum(map(len, groups))
    for together in _play(setting, groups, workers, videos):
        if log:
            append_log(log, setting, together)
        for played in together:
            done[played.trial.key] = played.outcome
            left -= 1
            report(played, left)
    return [Played(trial, done[trial.key]) for trial in trials]


class Evaluator:
    """Plays trials in this process."""

    def __init__(self, setting: Setting, videos: Path | None = None):
        robot = load_robot(setting.robot)
        policy = make_policy(setting.policy, robot, **setting.options)
        policy.warm_up()
        self._robot, self._videos = robot, videos
        self._player = Player(robot, policy, width=setting.width, seats=setting.seats)

    def play(self, trials: Sequence[Trial]) -> list[Played]:
        """Trials that are played together."""
        games = [(trial_task(t.condition.family, t.seed, t.condition.split), t.condition) for t in trials]
        outcomes = {}
        for finished in self._player.play_all(games, film=self._videos is not None):
            outcomes[finished.number] = finished.outcome
            if self._videos is not None and not finished.outcome.success:
                from pi_policy_node.learn.evaluate_film import film

                film(self._robot, finished, trials[finished.number], self._videos)
        return [Played(trial, outcomes[number]) for number, trial in enumerate(trials)]


# --------------------------------------------------------------------------------------------------- in processes

Group = tuple[Trial, ...]


def _play(setting: Setting, groups: list[Group], workers: int, videos: Path | None) -> Iterator[list[Played]]:
    try:
        yield from spread(_evaluator, (setting, videos), groups, workers)
    except BrokenProcessPool:
        raise EvaluationError("a worker died, perhaps for want of memory: try fewer --workers") from None


def _evaluator(setting: Setting, videos: Path | None) -> Callable[[Group], list[Played]]:
    return Evaluator(setting, videos).play


# -------------------------------------------------------------------------------------------------------- on disk

def _head(setting: Setting) -> dict:
    """What must be the same for a log to go on."""
    files = [Path(value) for value in setting.options.values() if isinstance(value, str) and Path(value).is_file()]
    return json.loads(json.dumps({"version": VERSION, "setting": asdict(setting),
                                  "changed": [file.stat().st_mtime for file in files]}))


def append_log(log: Path, setting: Setting, together: Sequence[Played]) -> None:
    """Adds outcomes."""
    with open(log, "a", encoding="utf-8") as file:
        if file.tell() == 0:
            file.write(json.dumps(_head(setting)) + "\n")
        for played in together:
            file.write(json.dumps([asdict(played.trial.condition), played.trial.seed, asdict(played.outcome)]) + "\n")


def read_log(log: Path, setting: Setting) -> dict[str, Outcome]:
    """Outcomes by their trials' keys; EvaluationError where they are of something else."""
    if not log.exists():
        return {}
    lines = log.read_text(encoding="utf-8").split("\n")
    try:
        if json.loads(lines[0]) != _head(setting):
            raise EvaluationError(f"{log} was begun with another setting, or other weights: delete it, or give another "
                                  "file")
        found = {}
        for line in lines[1:-1]:  # behind the last line feed there is nothing, or a line that was cut off
            condition, seed, outcome = json.loads(line)
            for name in ("lifted", "subtasks"):
                outcome[name] = tuple(outcome[name])
            outcome["events"] = tuple(map(tuple, outcome["events"]))
            found[Trial(Condition(**condition), seed).key] = Outcome(**outcome)
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, EvaluationError):
            raise
        raise EvaluationError(f"{log} is no log of an evaluation: give another file") from None
    if lines[-1]:
        log.write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    return found
