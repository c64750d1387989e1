"""`./pi test`: every test, on a ROS domain of its own and on this host only."""

from __future__ import annotations

import argparse
import subprocess
import sys

from pi_policy_node.environment import checkout, claim_domain, ros_environment

HELP = "run the tests; whatever follows goes to pytest, e.g. ./pi test test/robot -k limits"
PASSES_ON = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Without arguments: all of test/, quietly, with the ten slowest at the end. A few minutes."


def command(rest: list[str]) -> list[str]:
    """The pytest command line; ours come first, so that a person's -v or --durations wins."""
    named = any(not argument.startswith("-") and (checkout() / argument.split("::")[0]).exists() for argument in rest)
    paths = [] if named else ["test"]
    return [sys.executable, "-m", "pytest", "-q", "--durations=10", "--durations-min=1", *rest, *paths]


def run(args: argparse.Namespace) -> int:
    with claim_domain() as domain:
        tests = subprocess.Popen(
            command(args.rest), cwd=checkout(), env=ros_environment(domain=domain.id), stdin=subprocess.DEVNULL
        )
        while True:
            try:
                return tests.wait()
            except KeyboardInterrupt:
                continue  # pytest got it too, and says where it was
