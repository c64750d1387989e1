"""`./pi say "words"`: hands words to a running robot and shows what becomes of them."""

from __future__ import annotations

import argparse
import math
import sys

from pi_policy_node.cli import CommandError

HELP = 'tell a running robot what to do, e.g. ./pi say "wave"; also --next, --stop and --resume'

EPILOG = """\
exit status: 0 done (or stopped or cancelled, where that was said), 3 failed, 4 timed out, 5 cancelled or replaced,
6 refused, 7 stopped, 2 no robot answered.
What the words may be, and what happens to a task in hand: docs/commands.md.
The robot is the one on this shell's ROS_DOMAIN_ID. Ctrl-C leaves it at its task; ./pi say --stop stops it.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("words", nargs="*", help="what to do, in plain words")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--stop", action="store_true", help="stop now, latched until --resume")
    which.add_argument("--resume", action="store_true", help="end a latched stop or fault; moves nothing by itself")
    which.add_argument("--status", action="store_true", help="show what the robot is doing")
    parser.add_argument("--next", action="store_true", help="the words are the next step of the task in hand; without "
                        "words: the policy chooses the steps again")
    parser.add_argument("--namespace", default="", help="of the robot, where there are several")
    parser.add_argument("--limit", type=float, default=3600.0, help="give up watching after so many seconds")


def run(args: argparse.Namespace) -> int:
    words = " ".join(args.words)
    if args.next:
        words = f"next: {words}"
    verbs = args.stop or args.resume or args.status
    if bool(words) == bool(verbs):
        raise CommandError('say something, e.g. ./pi say "wave", or use one of --stop, --resume, --status')
    from pi_policy_node.nodes.client import NoRobot, RobotClient

    try:
        with RobotClient(namespace=args.namespace) as robot:
            if args.stop:
                print(robot.stop())
            elif args.resume:
                print(robot.resume())
            elif args.status:
                show_status(*robot.status())
            else:
                return say(robot, words, args.limit)
    except NoRobot as error:
        raise CommandError(f"{error}: start one with ./pi launch mobile_manipulator.launch.py") from error
    return 0


def say(robot, words: str, limit: float) -> int:
    """Says it, and shows every change until the task has ended."""
    from pi_msgs.msg import TaskStatus
    from pi_policy_node.task import is_cancel, is_stop

    robot.say(words)
    live = Live(sys.stdout)
    try:
        end = robot.wait(limit=limit, feedback=live.show)
    finally:
        live.end()
    if end.state == TaskStatus.SUCCEEDED:
        print(f"done: {end.text} ({end.elapsed:.1f} s)")
        return 0
    if end.state == TaskStatus.STOPPED and is_stop(words) or end.state == TaskStatus.CANCELLED and is_cancel(words):
        print(f"{STATES[end.state]}: {end.reason}")
        return 0
    print(f"{STATES[end.state]}: {end.reason}", file=sys.stderr)
    return end.state


STATES = ("idle", "running", "succeeded", "failed", "timed out", "cancelled", "refused", "stopped")


class Live:
    """One line that is rewritten on a terminal, and a line for every change elsewhere."""

    def __init__(self, out) -> None:
        self._out = out
        self._width = 0
        self._shown = ""

    def show(self, status) -> None:
        """A task/status."""
        step = status.text if status.subtask in ("", "done") else status.subtask
        bar = "" if math.isnan(status.progress) else f"  {round(20 * status.progress) * '#':.<20} {status.progress:4.0%}"
        retries = f"  (attempt {status.retries + 1})" if status.retries else ""
        if self._out.isatty():
            latency = "" if math.isnan(status.latency) else f"  {1e3 * status.latency:.0f} ms a thought"
            line = f"{STATES[status.state]}: {step}{bar}  {status.elapsed:.1f} s{latency}{retries}"
            self._out.write(f"\r{line:<{self._width}}")
            self._width = len(line)
        elif (line := f"{STATES[status.state]}: {step}{retries}") != self._shown:
            self._out.write(line + "\n")
            self._shown = line
        self._out.flush()

    def end(self) -> None:
        """Leaves the line."""
        if self._width:
            self._out.write("\n")


def show_status(task, bridge, policy) -> None:
    """Three lines."""
    modes = ("hold", "running", "takeover", "fault", "stopped")
    states = ("inactive", "idle", "running", "blind", "failed")
    print(f"task:   {STATES[task.state]}: {task.text or task.reason}")
    print(f"bridge: {modes[bridge.mode]}: {bridge.cause}" + (" (latched: --resume)" if bridge.latched else ""))
    rung = f", rung {policy.rung}" if policy.rung else ""
    print(f"policy: {states[policy.state]} ({policy.backend}{rung}): {policy.cause}")
