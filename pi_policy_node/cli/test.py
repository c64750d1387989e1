"""`./pi test`: every test, on a ROS domain of its own and on this host only."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys

from pi_policy_node.environment import checkout, claim_domain, ros_environment

HELP = "run the tests; whatever follows goes to pytest, e.g. ./pi test test/robot -k limits"
PASSES_ON = True

ON_THE_CLOCK = ("test/graph/", "test/nodes/", "test/launch/", "test/bench/", "test/policy/test_client.py",
                "test/policy/test_serve.py", "test/policy/test_server.py")
TRIES = 3
MOST_AGAIN = 12  # more failures are no accident


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Without arguments: all of test/, quietly, with the ten slowest at the end. A few minutes."


def command(rest: list[str]) -> list[str]:
    """The pytest command line; ours come first, so that a person's -v or --durations wins."""
    named = any(not argument.startswith("-") and (checkout() / argument.split("::")[0]).exists() for argument in rest)
    paths = [] if named else ["test"]
    return [sys.executable, "-m", "pytest", "-q", "--durations=10", "--durations-min=1", *rest, *paths]


def run(args: argparse.Namespace) -> int:
    # Where a shell started us in the background SIGINT is ignored, and would be by every process that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with claim_domain() as domain:
        environment = ros_environment(domain=domain.id)
        code = _pytest(command(args.rest), environment)
        for attempt in range(2, TRIES + 1):
            again = worth_another_try(_failed()) if code == 1 else []
            if not again:
                break
            print(f"\nTry {attempt} of {TRIES}, alone, for {len(again)} that run on the clock:", *again, sep="\n  ",
                  flush=True)
            code = _pytest([sys.executable, "-m", "pytest", "-q", *again], environment)
            print(f"Try {attempt} of {TRIES} {'failed too' if code else 'passed'}.", flush=True)
    return code


def worth_another_try(failed: list[str]) -> list[str]:
    """The failed tests, if all of them hold real processes to real time, which a busy machine can break; else none."""
    fit = len(failed) <= MOST_AGAIN and all(test.startswith(ON_THE_CLOCK) for test in failed)
    return sorted(failed) if fit else []


def _failed() -> list[str]:
    try:
        return list(json.loads((checkout() / ".pytest_cache" / "v" / "cache" / "lastfailed").read_text()))
    except (OSError, ValueError):
        return []


def _pytest(words: list[str], environment: dict[str, str]) -> int:
    tests = subprocess.Popen(words, cwd=checkout(), env=environment, stdin=subprocess.DEVNULL)
    while True:
        try:
            return tests.wait()
        except KeyboardInterrupt:
            continue  # pytest got it too, and says where it was
