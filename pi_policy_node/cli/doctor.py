"""`./pi doctor`: what is here, what is wrong, and what would mend it."""

from __future__ import annotations

import argparse

HELP = "say what is installed and where from, what is wrong, and what would mend it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Ends with status 1 when something that the robot needs is missing or broken."


def run(args: argparse.Namespace) -> int:
    # Imported here: the checks are a package of their own, and `./pi --help` reads only the line above.
    from pi_policy_node.doctor import report

    return report()
