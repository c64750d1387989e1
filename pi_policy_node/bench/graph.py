"""`./pi bench graph`: launches the whole simulated robot on a domain of its own, and measures it from outside."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pi_policy_node.cli import CommandError
from pi_policy_node.environment import claim_domain, ros_environment, share

HELP = "the running robot: images delivered, age added, command stream, real-time factor"

TRANSPORT = 32.0  # s of four cameras: 960 sets
LATENCY = 60.0  # s of the whole robot, unloaded
STREAM, LOADED_STREAM = 60.0, 300.0  # s of the command stream
HEADROOM = 10.0  # s of the simulator alone
READY_LIMIT = 120.0  # s from launch to "robot ready"
PROBE = "pi_policy_node.nodes.bench_probe"
WORDS = {"scripted": ("keep waving",)}  # what a policy is told: arms, lift, grippers and base move, without an end
TASKS = "clear the table", "drive to the counter", "drive to the table"  # any other: one after another, again and again


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    measured: str
    goal: str = ""
    met: bool | None = None  # None: reported, not judged
    values: dict[str, Any] = field(default_factory=dict)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--load", action="store_true",
                        help="measure the command stream for 5 minutes with two busy loops beside it")
    parser.add_argument("--seconds", type=_seconds, metavar="N",
                        help=f"length of the command stream (default {STREAM:g}, with --load {LOADED_STREAM:g}); the "
                             "other parts are shortened to it where it is less than theirs")
    parser.add_argument("--policy", default="scripted", help="what plans the motion (default: %(default)s)")
    parser.add_argument("--robot", default="pi_mobile", help="robot file (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there as well")
    parser.epilog = "Ends with status 1 when a goal is missed. Nothing else should run on the machine meanwhile."


def run(args: argparse.Namespace) -> int:
    stream = args.seconds or (LOADED_STREAM if args.load else STREAM)
    shorten = (lambda seconds: min(seconds, args.seconds)) if args.seconds else (lambda seconds: seconds)
    machine = describe_machine()
    print("  ".join(f"{key}: {value}" for key, value in machine.items()), flush=True)
    rows: list[Row] = []

    def show(*more: Row) -> None:
        for row in more:
            rows.append(row)
            print(as_line(row), flush=True)

    print(f"\n{'':4}{'what':<64}{'measured':<44}goal")
    with claim_domain() as domain:
        env = ros_environment(domain=domain.id)
        show(*transport(env, shorten(TRANSPORT)))
        with launched(env, args.robot, args.policy) as seconds_to_ready:
            words = WORDS.get(args.policy, TASKS)
            show(Row("from launch to robot ready", f"{seconds_to_ready:.1f} s", values={"s": seconds_to_ready}))
            show(*latency(watch(env, shorten(LATENCY), args.robot, "images", *words)))
            with busy_loops(2 if args.load else 0):
                show(*command_stream(watch(env, stream, args.robot, "references", *words), loaded=args.load))
        show(headroom(env, shorten(HEADROOM), args.robot))
    if args.json:
        write_json(args.json, {"bench": "graph", "machine": machine, "load": args.load, "policy": args.policy,
                               "robot": args.robot, "rows": [asdict(row) for row in rows]})
    return int(any(row.met is False for row in rows))


# ------------------------------------------------------------------------------------------------------------ the parts

def transport(env: dict[str, str], seconds: float) -> list[Row]:
    """Two processes, four raw cameras."""
    counter, sender = (_start(env, what, str(seconds)) for what in ("count", "send"))
    got, sent = _result(counter, 3 * seconds + 60), _result(sender, 60)
    share = got["complete"] / sent["sets"] if sent["sets"] else 0.0
    age = got["age_ms"]
    return [Row("image sets delivered, 4 x 640x480 raw at 30 Hz, two processes",
                f"{100 * share:.2f} % ({got['complete']}/{sent['sets']})", "≥ 99.5 %", share >= 0.995,
                {"delivered": got["complete"], "sent": sent["sets"]}),
            Row("  last image of a set: sent to arrived", ms(age), values=age)]


def latency(seen: dict[str, Any]) -> list[Row]:
    """The whole robot, unloaded."""
    ingest, bridge, act, rate = seen["ingest_ms"], seen["bridge_ms"], seen["act_ms"], seen["rate"]
    return [
        Row("age added by camera_ingest: last image in, observation out", ms(ingest), "p99 ≤ 15 ms",
            ingest["p99"] <= 15, ingest),
        Row("age added by the bridge: chunk in, controller message out", ms(bridge), "p99 ≤ 5 ms",
            bridge["p99"] <= 5, bridge),
        Row("from the last image of a set to the command planned from it", ms(act), "p99 ≤ 80 ms", act["p99"] <= 80, act),
        Row("real-time factor, everything running", f"{rate:.4f} over {seen['seconds']:.0f} s", "≥ 0.99",
            rate >= 0.99, {"rate": rate, "observations": seen["observations"], "chunks": seen["chunks"]}),
    ]


def command_stream(seen: dict[str, Any], *, loaded: bool) -> list[Row]:
    beside = ", two busy loops beside it" if loaded else ""
    stops, gap = seen["stops"], seen["gap_ms"]
    per_second = seen["windows"] / seen["seconds"]
    causes = "".join(f"\n{cause}" for cause in dict.fromkeys(stops))
    return [
        Row(f"command stream of {seen['seconds']:.0f} s{beside}: stops",
            f"{len(stops)} in {seen['tasks']} tasks" + causes, "0", not stops and seen["tasks"] > 0,
            {"stops": stops, "tasks": seen["tasks"]}),
        Row("  jumps in the controllers' own reference", f"{seen['jumps']} in {seen['samples']} samples", "0",
            seen["jumps"] == 0 and seen["samples"] > 0,
            {key: seen[key] for key in ("jumps", "jumped_at", "samples", "fastest")}),
        Row("  time between two commands", f"{ms(gap)} ({per_second:.1f}/s)", values=gap),
        Row("  real-time factor", f"{seen['rate']:.4f}", values={"rate": seen["rate"]}),
    ]


def headroom(env: dict[str, str], seconds: float, robot: str) -> Row:
    """The simulator alone with all its cameras, as fast as it goes."""
    with parameters("sim", pace=0.0) as file:
        with _launch(env, "sim.launch.py", f"robot:={robot}", f"params_file:={file}", ready="stands in scene"):
            rate = watch(env, seconds, robot, "idle")["rate"]
    return Row("real-time factor of the simulator alone, unpaced", f"{rate:.2f}", values={"rate": rate})


# -------------------------------------------------------------------------------------------------------- the processes

@contextlib.contextmanager
def launched(env: dict[str, str], robot: str, policy: str) -> Iterator[float]:
    """The whole robot; the value is how long it took to be ready, in s."""
    with parameters("commander", time_limit_s=3600.0) as file:  # one task for as long as is measured
        with _launch(env, "mobile_manipulator.launch.py", f"robot:={robot}", f"policy:={policy}", f"params_file:={file}",
                     ready="robot ready:") as seconds:
            yield seconds


@contextlib.contextmanager
def parameters(node: str, **values: float) -> Iterator[Path]:
    """A file of the shipped parameters, some of a node's changed."""
    content = yaml.safe_load(share("config", "params.yaml").read_text())
    content.setdefault(f"/**/{node}", {}).setdefault("ros__parameters", {}).update(values)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "parameters.yaml"
        file.write_text(yaml.safe_dump(content))
        yield file


@contextlib.contextmanager
def _launch(env: dict[str, str], *arguments: str, ready: str) -> Iterator[float]:
    begin = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "pi_policy_node", "launch", *arguments], env=env, text=True,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               start_new_session=True)
    lines: list[str] = []
    is_ready, ended = threading.Event(), threading.Event()

    def read() -> None:
        for line in process.stdout:
            lines.append(line.rstrip())
            if ready in line:
                is_ready.set()
        ended.set()
        is_ready.set()

    threading.Thread(target=read, daemon=True).start()
    try:
        if not is_ready.wait(READY_LIMIT) or ended.is_set():
            raise CommandError("the robot did not come up:\n  " + "\n  ".join(lines[-15:]))
        yield time.monotonic() - begin
        if ended.is_set():
            raise CommandError("the robot ended meanwhile:\n  " + "\n  ".join(lines[-15:]))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(30.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def busy_loops(count: int) -> Iterator[list[int]]:
    """Processes at the usual priority that never rest, in sessions of their own, as another terminal's are; their ids."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True) for _ in range(count)]
    try:
        yield [loop.pid for loop in loops]
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def watch(env: dict[str, str], seconds: float, robot: str, what: str, *words: str) -> dict[str, Any]:
    """What the probe saw of the robot, running and told these tasks, or of the simulator alone."""
    seen = _result(_start(env, "watch", str(seconds), robot, what, *words), seconds + 90)
    if "error" in seen:
        raise CommandError(seen["error"])
    return seen


def _start(env: dict[str, str], *arguments: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", PROBE, *arguments], env=env, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, text=True)


def _result(process: subprocess.Popen, limit: float) -> dict[str, Any]:
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        raise CommandError(f"the probe did not end within {limit:g} s") from None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode:
        raise CommandError(f"the probe failed with status {process.returncode}; its words are above")
    return json.loads(output)


# --------------------------------------------------------------------------------------------------------------- words

def ms(values: dict[str, float]) -> str:
    if not values["n"]:
        return "no samples"
    return "  ".join(f"{key} {values[key]:.1f}" for key in ("p50", "p99", "max")) + " ms"


def as_line(row: Row) -> str:
    mark = {True: "ok", False: "NO", None: ""}[row.met]
    first, *more = row.measured.split("\n")
    return "\n".join([f"{mark:<4}{row.what:<64}{first:<44}{row.goal}".rstrip(), *(" " * 68 + line for line in more)])


def describe_machine() -> dict[str, Any]:
    model = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.machine())
    return {"cores": len(os.sched_getaffinity(0)), "cpu": model, "load before": round(os.getloadavg()[0], 2),
            "python": platform.python_version(), "rmw": os.environ.get("RMW_IMPLEMENTATION", "default")}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all; numbers that are none become null."""
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False) + "\n"
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.absolute().parent, delete=False, encoding="utf-8") as file:
            file.write(text)
        os.replace(file.name, path)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 2.0 <= value <= 86400.0:
        raise argparse.ArgumentTypeError(f"'{text}' must be a number of seconds, at least 2")
    return value
