"""`./pi demo`: the whole stack on a simulated robot, told what to do in plain words, judged by what it measurably did."""

from __future__ import annotations

import argparse
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pi_policy_node.cli import CommandError
from pi_policy_node.cli.say import STATES, Live
from pi_policy_node.environment import claim_domain, ros_environment, share

HELP = "a simulated robot does what it is told: launches everything, sends commands, leaves a video"

READY_LIMIT = 90.0  # s; a first start on a slow machine compiles and caches
END_LIMIT = 15.0  # s from Ctrl-C to the launch's end
MOVED = 0.03  # rad, m or strokes, of any group: what counts as having moved at all


@dataclass(frozen=True)
class Step:
    """Words, and by how much the groups must have moved when the robot says that it is done."""

    words: str
    moves: Mapping[str, float] = field(default_factory=dict)  # group -> at least so much (rad, m, strokes)


PROGRAMME = (
    Step("wave", {"left_arm": 0.2, "right_arm": 0.2, "left_gripper": 0.3, "right_gripper": 0.3, "lift": 0.03, "base": 0.05}),
    Step("reach left", {"left_arm": 0.15}),
    Step("drive back", {"base": 0.2}),
    Step("raise the lift", {"lift": 0.05}),
)

EPILOG = """\
exit status: 0 when every command was carried out and the measured joints moved as told, else 1.
Runs on this host and on a ROS domain of its own, so that it cannot meet another robot.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("--prompt", action="append", metavar="WORDS", help="say this instead of the programme; repeatable")
    parser.add_argument("--seed", type=int, default=0, help="of the scene: which things lie where")
    parser.add_argument("--headless", action="store_true", help="do not open the video at the end, where there is a desktop")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for video, picture and log (%(default)s)")


def run(args: argparse.Namespace) -> int:
    if args.seed < 0:
        raise CommandError(f"--seed {args.seed} must be 0 or more")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"--out {args.out}: {error.strerror}") from None
    begin = time.monotonic()
    with claim_domain() as domain:
        os.environ.update(ros_environment(domain=domain.id))
        with launched(args.out, args.seed) as launch:
            print(f"starting the robot (ROS domain {domain.id}; what its nodes say: {launch.log})", flush=True)
            launch.wait_ready(READY_LIMIT)
            print(f"ready after {time.monotonic() - begin:.1f} s", flush=True)
            good, moments, facts = perform(args, launch)
    print(facts)
    leave(args, moments)
    print("the robot did what it was told" if good else "the robot did NOT do what it was told", flush=True)
    return 0 if good else 1


# -------------------------------------------------------------------------------------------------------- the robot


class Launch:
    """The shipped launch file in a process of its own; its output goes to a file, and is looked through here."""

    def __init__(self, log: Path, arguments: list[str]) -> None:
        self.log = log
        command = [sys.executable, "-m", "pi_policy_node", "launch", "mobile_manipulator.launch.py", *arguments]
        # A group of its own: a Ctrl-C at the terminal is passed on below, once, and in order.
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                         errors="replace", stdin=subprocess.DEVNULL, start_new_session=True)
        self._ready = threading.Event()
        self._tail: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with self.log.open("w") as log:
            for line in self._process.stdout:
                log.write(line)
                log.flush()
                self._tail = [*self._tail[-200:], line.rstrip()]
                if "robot ready" in line:
                    self._ready.set()

    def wait_ready(self, limit: float) -> None:
        """Until the robot is; CommandError with what its nodes complained of when it is not."""
        end = time.monotonic() + limit
        while not self._ready.wait(0.1):
            if self._process.poll() is not None or time.monotonic() > end:
                self._reader.join(1.0)
                why = "ended" if self._process.poll() is not None else f"was not ready within {limit:g} s"
                raise CommandError(f"the launch {why}: {self.complaint()}")

    def check(self) -> None:
        """CommandError when it has ended."""
        if self._process.poll() is not None:
            self._reader.join(1.0)
            raise CommandError(f"the launch ended: {self.complaint()}")

    def complaint(self) -> str:
        """The first severe line of the log, or its last one."""
        severe = [line for line in self._tail if "[FATAL]" in line] or [line for line in self._tail if "ERROR" in line]
        return (severe or self._tail[-1:] or ["it said nothing"])[0]

    def end(self) -> None:
        """As Ctrl-C does; harder when that does not help."""
        for number, limit in ((signal.SIGINT, END_LIMIT), (signal.SIGTERM, 5.0)):
            if self._process.poll() is not None:
                break
            self._process.send_signal(number)
            try:
                self._process.wait(limit)
            except subprocess.TimeoutExpired:
                continue
        try:
            os.killpg(self._process.pid, signal.SIGKILL)  # whoever is left of the group
        except ProcessLookupError:
            pass
        self._process.wait()
        self._reader.join(1.0)


@contextmanager
def launched(out: Path, seed: int) -> Iterator[Launch]:
    """The simulated robot, for as long as the block lasts."""
    parameters = out / "params.yaml"
    scene = f"\n/**/sim:\n  ros__parameters:\n    seed: {seed}\n"
    part = parameters.with_suffix(".part")
    part.write_text(share("config", "params.yaml").read_text() + scene)
    os.replace(part, parameters)
    launch = Launch(out / "launch.log", ["hardware:=sim", f"params_file:={parameters.resolve()}"])
    try:
        yield launch
    finally:
        launch.end()


# ------------------------------------------------------------------------------------------------------ the programme


def perform(args: argparse.Namespace, launch: Launch) -> tuple[bool, list, str]:
    """Says everything; whether all of it was done, the moments for the film, and a line of figures."""
    from pi_policy_node.nodes.client import NoRobot
    from pi_policy_node.nodes.witness import Witness
    from pi_policy_node.robot import load_robot

    steps = [Step(words) for words in args.prompt] if args.prompt else PROGRAMME
    with Witness(load_robot()) as witness:
        witness.status()
        good = True
        for step in steps:
            try:
                done = carry_out(witness, step)
                if not done and witness.bridge.latched:
                    print(f"  resumed after: {witness.bridge.cause}; once more", flush=True)
                    resume(witness)
                    done = carry_out(witness, step)
                good &= done
            except NoRobot as error:
                launch.check()
                print(f"  {error}", file=sys.stderr)
                good = False
        if not args.prompt:
            good &= stop_and_resume(witness)
        factor = witness.value("sim: physics", "real_time_factor_total")
        policy = witness.policy
        facts = (f"real-time factor {factor:.2f}; {policy.chunks} chunks by '{policy.backend}', a thought takes "
                 f"{1e3 * policy.inference_p50:.1f} ms (p99 {1e3 * policy.inference_p99:.1f})")
        return good, witness.moments, facts


def carry_out(witness, step: Step) -> bool:
    """One command, from the words to a verdict on the measured motion."""
    from pi_msgs.msg import TaskStatus

    print(f'\n"{step.words}"', flush=True)
    since = len(witness.moments)
    witness.say(step.words)
    live = Live(sys.stdout)
    try:
        end = witness.wait(limit=180, feedback=live.show)
    finally:
        live.end()
    witness.wait_until(lambda: witness.bridge.at_rest, 3.0)
    travel = witness.travel(since)
    moved = ", ".join(f"{name.replace('_', ' ')} {way:.2f} {unit(witness.robot, name)}"
                      for name, way in travel.items() if way >= MOVED)
    print(f"  {STATES[end.state]} after {end.elapsed:.1f} s; moved: {moved or 'nothing'}", flush=True)
    if end.state != TaskStatus.SUCCEEDED:
        print(f"  {end.reason}", flush=True)
        return False
    short = [f"{name} went {travel[name]:.2f}, not {way:g}" for name, way in step.moves.items() if travel[name] < way]
    if short or not moved:
        print(f"  but {'; '.join(short) or 'nothing moved'}", flush=True)
        return False
    return True


def resume(witness) -> None:
    """Ends a latched hold, as soon as its cause is gone; NoRobot where it stays for 5 s."""
    from pi_policy_node.nodes.client import NoRobot

    for trial in range(10):
        try:
            witness.resume()
            break
        except NoRobot:
            if trial == 9:
                raise
            witness.wait_until(lambda: False, 0.5)
    witness.wait_until(lambda: not witness.bridge.latched, 2.0)


def stop_and_resume(witness) -> bool:
    """Says stop in full motion, measures the way to rest, and resumes: nothing may move by itself."""
    from pi_msgs.msg import BridgeStatus

    print('\n"wave", then "stop"', flush=True)
    witness.say("wave")
    if not witness.wait_until(lambda: witness.bridge.mode == BridgeStatus.RUNNING and not witness.bridge.at_rest, 10):
        print("  it did not begin", flush=True)
        return False
    witness.wait_until(lambda: witness.task.progress > 0.15, 10)
    said = time.monotonic()
    witness.say("stop")
    stopped = witness.wait_until(lambda: witness.bridge.mode == BridgeStatus.STOPPED and witness.bridge.at_rest, 3)
    took = time.monotonic() - said
    print(f"  at rest {1e3 * took:.0f} ms after the word" if stopped else "  it did not stop", flush=True)
    witness.wait_until(lambda: False, 0.5)
    resume(witness)
    since = len(witness.moments)
    witness.wait_until(lambda: False, 1.0)
    still = max(witness.travel(since).values()) < MOVED
    print("  resumed: nothing moved by itself" if still else "  resumed: it MOVED by itself", flush=True)
    return stopped and still


def unit(robot, group: str) -> str:
    """Of a group's travel."""
    return {"arm": "rad", "gripper": "strokes", "lift": "m", "base": "m or rad"}[robot.group(group).kind]


# ----------------------------------------------------------------------------------------------------------- the film


def leave(args: argparse.Namespace, moments: list) -> None:
    """A video and a picture of what happened; opened where there is a desktop."""
    from pi_policy_node.nodes.witness import FPS
    from pi_policy_node.robot import load_robot
    from pi_policy_node.sim.film import Film, save, sheet

    if not moments:
        return
    video, picture = args.out / "demo.mp4", args.out / "demo.png"
    print(f"\nwriting {video} and {picture}", flush=True)
    film = Film(load_robot(), seed=args.seed)
    try:
        film.write(moments, video, fps=FPS)
        places = [math.floor(k * (len(moments) - 1) / 5) for k in range(6)]
        save(sheet([film.frame(moments[k]) for k in places], columns=3), picture)
    finally:
        film.close()
    opener = shutil.which("xdg-open")
    if opener and not args.headless and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        subprocess.Popen([opener, str(video)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
