"""Evaluates a policy in the simulator: episodes under conditions, in as many processes as wanted, and what came of them.

The scene of an episode follows from family, split and seed alone (`trial`), so that policies, modes and delays are
compared on the same ones, and the ROS graph on those of lockstep. Seeds are never those of demonstrations.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pi_policy_node.learn.evaluate_play import Condition, Outcome, Player
from pi_policy_node.policy.registry import make_policy
from pi_policy_node.robot import load_robot
from pi_policy_node.sim.tasks import KEPT_SEEDS, Task, draw

VERSION = 1  # of the files


class EvaluationError(ValueError):
    """An evaluation cannot begin or go on; the message says what would be right."""


@dataclass(frozen=True)
class Setting:
    """What is evaluated, and in what: everything that outcomes follow from, but the conditions, the seeds and the code."""

    policy: str
    options: dict[str, object] = field(default_factory=dict)
    robot: str = "pi_mobile"
    width: int = 192  # pixels of the pictures as they are drawn; 0: as in the graph


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
    done = _read(log, setting) if log else {}
    left = [trial for trial in trials if trial.key not in done]
    for k, played in enumerate(_play(setting, left, workers, videos), start=1):
        done[played.trial.key] = played.outcome
        if log:
            _append(log, setting, played)
        report(played, len(left) - k)
    return [Played(trial, done[trial.key]) for trial in trials]


class Evaluator:
    """Plays trials in this process."""

    def __init__(self, setting: Setting, videos: Path | None = None):
        robot = load_robot(setting.robot)
        policy = make_policy(setting.policy, robot, **setting.options)
        policy.warm_up()
        self._player, self._videos = Player(robot, policy, width=setting.width), videos

    def play(self, trial: Trial) -> Played:
        task = trial_task(trial.condition.family, trial.seed, trial.condition.split)
        outcome = self._player.play(task, trial.condition, film=self._videos is not None)
        if self._videos is not None and not outcome.success:
            from pi_policy_node.learn.evaluate_film import film

            film(self._player, trial, outcome, self._videos)
        return Played(trial, outcome)


# --------------------------------------------------------------------------------------------------- in processes

def _play(setting: Setting, trials: list[Trial], workers: int, videos: Path | None) -> Iterator[Played]:
    if min(workers, len(trials)) <= 1:
        evaluator = Evaluator(setting, videos) if trials else None
        for trial in trials:
            yield evaluator.play(trial)
        return
    for variable in ("LP_NUM_THREADS", "OMP_NUM_THREADS"):  # more threads would only be in the other workers' way
        os.environ.setdefault(variable, "1")
    with ProcessPoolExecutor(min(workers, len(trials)), mp_context=multiprocessing.get_context("spawn"),
                             initializer=_begin, initargs=(setting, videos)) as pool:
        waiting = {pool.submit(_one, trial) for trial in trials}
        try:
            while waiting:
                ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in ready:
                    yield future.result()
        except BrokenProcessPool:
            raise EvaluationError("a worker died, perhaps for want of memory: try fewer --workers") from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_state: tuple[Setting, Path | None] | None = None
_evaluator: Evaluator | None = None  # of a worker process


def _begin(setting: Setting, videos: Path | None) -> None:
    global _state
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches all processes: this one ends at once, without a word
    _state = setting, videos


def _one(trial: Trial) -> Played:
    global _evaluator
    if _evaluator is None:  # here and not in _begin: its errors reach the caller
        _evaluator = Evaluator(*_state)
    return _evaluator.play(trial)


# -------------------------------------------------------------------------------------------------------- on disk

def _head(setting: Setting) -> dict:
    """What must be the same for a log to go on."""
    options = {name: value for name, value in setting.options.items()}
    files = [Path(value) for value in options.values() if isinstance(value, str) and Path(value).is_file()]
    return json.loads(json.dumps({"version": VERSION, "setting": asdict(setting),
                                  "changed": [file.stat().st_mtime for file in files]}))


def _append(log: Path, setting: Setting, played: Played) -> None:
    with open(log, "a", encoding="utf-8") as file:
        if file.tell() == 0:
            file.write(json.dumps(_head(setting)) + "\n")
        file.write(json.dumps([asdict(played.trial.condition), played.trial.seed, asdict(played.outcome)]) + "\n")


def _read(log: Path, setting: Setting) -> dict[str, Outcome]:
    if not log.exists():
        return {}
    lines = log.read_text(encoding="utf-8").split("\n")
    try:
        if json.loads(lines[0]) != _head(setting):
            raise EvaluationError(f"{log} was begun with another setting, or other weights: delete it, or give another file")
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
