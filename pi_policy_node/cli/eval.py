"""`./pi eval`: how often a policy does what it is told, in the simulator, and why not where it does not."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path

from pi_policy_node.cli import CommandError

HELP = "how often a policy does what it is told: success by task, delay and mode, with intervals and causes"
LOGS = Path("out/eval")
SPLITS = {None: "train", "pairs": "holdout_pairs", "paraphrases": "holdout_words"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--policy", default="mini", help="a name, or your own as module:class (default mini)")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE",
                        help="of the policy, for example weights=FILE; may be given several times")
    parser.add_argument("--tasks", default="put", help="families with commas between, or all (default put)")
    parser.add_argument("--holdout", choices=("pairs", "paraphrases"), help="only what was kept out of training")
    parser.add_argument("--episodes", type=int, default=50, help="of each row of the table (default 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the first episode; never one of a demonstration's")
    parser.add_argument("--mode", default="rtc", help="rtc, sync, ensemble, with commas between (default rtc)")
    parser.add_argument("--replan-ms", default="200", metavar="LIST", help="from one look to the next (default 200)")
    parser.add_argument("--delay-ms", default="0", metavar="LIST", help="from a look to its answer (default 0)")
    parser.add_argument("--jitter-ms", type=float, default=0.0, help="by which that is longer, at most, at random")
    parser.add_argument("--dropout", type=float, default=0.0, help="part of the pictures that is lost, 0..1")
    parser.add_argument("--disturb", action="store_true", help="things are nudged, and slip out of the hand")
    parser.add_argument("--size", type=int, default=0, help="width of the pictures in pixels as they are drawn, "
                        "less than the cameras' own is quicker; 0: as in the graph (default)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    parser.add_argument("--ros", action="store_true", help="through the launched ROS graph as well, on the same scenes: "
                        "the difference, and its interval")
    parser.add_argument("--batch", type=int, default=1, help="episodes whose questions are answered together, in each "
                        "process: faster, where the policy can (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all outcomes; interrupted, the same command goes on")
    parser.add_argument("--videos", type=Path, metavar="FOLDER", help="a film of each failure")


def run(args: argparse.Namespace) -> int:
    from pi_policy_node.learn.evaluate import EvaluationError, Setting, evaluate, plan
    from pi_policy_node.learn.evaluate_table import paired, summary, table
    from pi_policy_node.policy.base import PolicyError
    from pi_policy_node.robot import RobotError
    from pi_policy_node.sim.tasks import TaskError

    log = args.json and args.json.with_name(f"{args.json.name}.part")
    played, progress = [], _Progress()

    def report(one, left: int) -> None:
        played.append(one)
        progress.say(one, left)

    try:
        setting = Setting(args.policy, _options(args.option), width=args.size, seats=args.batch)
        trials = plan(_conditions(args), args.episodes, args.seed)
        everything = evaluate(setting, trials, workers=args.workers, log=log, videos=args.videos, report=report)
        graph = _through_graph(setting, trials, log, progress) if args.ros else []
    except (EvaluationError, PolicyError, RobotError, TaskError) as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}") from None
    except KeyboardInterrupt:
        if played:
            print(f"\n{table(summary(played))}\ninterrupted" + ("; the same command goes on from here" if log else ""))
        return 130
    rows = summary([*everything, *graph])
    print(f"\n{table(rows)}\n{_pace(played)}")
    if graph:
        difference, low, high = paired(*([one.outcome.success for one in some] for some in (everything, graph)))
        print(f"graph minus lockstep, {len(graph)} pairs: {100 * difference:+.1f} points "
              f"(95 %: {100 * low:+.1f} to {100 * high:+.1f})")
    if args.json:
        _write(args.json, setting, rows, [*everything, *graph])
        log.unlink(missing_ok=True)
        print(f"written to {args.json}")
    return 0


def _conditions(args: argparse.Namespace) -> list:
    from pi_policy_node.learn.evaluate import Condition, trial_task
    from pi_policy_node.learn.evaluate_modes import MODES
    from pi_policy_node.robot import load_robot
    from pi_policy_node.sim.tasks import FAMILIES

    split, dt = SPLITS[args.holdout], load_robot("pi_mobile").dt
    families = [f for f in FAMILIES if FAMILIES[f].pairs or args.holdout != "pairs"] if args.tasks == "all" else (
        args.tasks.split(","))
    for family in families:
        trial_task(family, args.seed, split)  # says what is wrong with the name
    modes = args.mode.split(",")
    if args.ros and (args.mode, args.delay_ms, args.jitter_ms, args.dropout, args.disturb) != ("rtc", "0", 0.0, 0.0, False):
        raise CommandError("--ros: the graph has delays of its own, and nothing that goes wrong on purpose: leave out "
                           "--mode, --delay-ms, --jitter-ms, --dropout and --disturb")
    if not set(modes) <= set(MODES):
        raise CommandError(f"--mode {args.mode}: there are {', '.join(MODES)}")
    delays, replans = _numbers("--delay-ms", args.delay_ms, 0, 2000), _numbers("--replan-ms", args.replan_ms, 20, 2000)
    for option, low, high in (("episodes", 1, 10**6), ("seed", 0, 10**8), ("workers", 1, 512), ("jitter_ms", 0, 2000),
                              ("dropout", 0, 1), ("size", 0, 640), ("batch", 1, 256)):
        value, option = getattr(args, option), option.replace("_", "-")
        if not low <= value <= high:
            raise CommandError(f"--{option} must be between {low} and {high}, not {value}")
    return [Condition(family, split, mode, round(replan / 1000 / dt), delay / 1000, args.jitter_ms / 1000, args.dropout,
                      args.disturb)
            for family, mode, replan, delay in itertools.product(families, modes, replans, delays)]


def _numbers(option: str, text: str, low: float, high: float) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise CommandError(f"{option} {text}: give numbers with commas between") from None
    if not all(low <= number <= high for number in numbers):
        raise CommandError(f"{option} {text}: each must be between {low:g} and {high:g} ms")
    return numbers


def _options(texts: list[str]) -> dict[str, object]:
    import yaml

    chosen = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise CommandError(f"--option {text}: give NAME=VALUE")
        chosen[name] = yaml.safe_load(value)
    return chosen


def _through_graph(setting, trials: list, log: Path | None, progress: _Progress) -> list:
    """The same trials, one after another, in a graph of its own."""
    from pi_policy_node.environment import claim_domain, ros_environment
    from pi_policy_node.learn.evaluate import Played, append_log, read_log

    graph = {trial.key: replace(trial, condition=replace(trial.condition, mode="graph")) for trial in trials}
    done = read_log(log, setting) if log else {}
    left = [trial for trial in trials if graph[trial.key].key not in done]
    if left:
        with claim_domain() as domain:
            os.environ.update(ros_environment(domain=domain.id))
            from pi_policy_node.cli._eval_graph import launched

            print(f"starting the graph (what its nodes say: {LOGS / 'launch.log'})", flush=True)
            with launched(setting, LOGS) as robot:
                for k, one in enumerate(robot.play(left), start=1):
                    done[one.trial.key] = one.outcome
                    if log:
                        append_log(log, setting, [one])
                    progress.say(one, len(left) - k)
    return [Played(trial, done[trial.key]) for trial in graph.values()]


class _Progress:
    """A line now and then."""

    def __init__(self) -> None:
        self._begun = self._told = time.monotonic()
        self._done = self._good = 0

    def say(self, one, left: int) -> None:
        self._done += 1
        self._good += one.outcome.success
        now = time.monotonic()
        if now - self._told < 5 and left:
            return
        self._told = now
        to_go = (now - self._begun) / self._done * left
        last = f"{one.trial.condition.family} {one.trial.seed}: {one.outcome.cause or 'done'}"
        print(f"{self._done} played, {left} to go, {to_go / 60:.0f} min; success {self._good / self._done:.1%}; {last}",
              flush=True)


def _pace(played: list) -> str:
    rows = sum(one.outcome.rows for one in played)
    wall = sum(one.outcome.wall for one in played)
    asked = sum(one.outcome.asked for one in played)
    if not asked or not wall:
        return ""
    thinking = sum(one.outcome.thinking * one.outcome.asked for one in played if one.outcome.asked)
    return (f"{rows / wall:.0f} rows per second and process, {rows / wall / 50:.1f} x real time; an answer took "
            f"{1000 * thinking / asked:.1f} ms, which is {thinking / wall:.0%} of all time")


def _write(file: Path, setting, rows: list[dict], everything: list) -> None:
    whole = {"setting": asdict(setting), "table": rows,
             "episodes": [{**asdict(one.trial.condition), **asdict(one.outcome)} for one in everything]}
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        part.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        os.replace(part, file)
    except OSError as error:
        raise CommandError(f"cannot write {file}: {error.strerror}") from None
