"""What the `pi` script runs: help without any set-up, everything else in the environment made for it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(ROOT)  # this file is run by its path

from pi_policy_node import __main__ as dispatch  # noqa: E402
from pi_policy_node.bootstrap import SetupError, install  # noqa: E402
from pi_policy_node.bootstrap.plan import Plan, make_plan  # noqa: E402
from pi_policy_node.bootstrap.steps import Stamps, do, only_one  # noqa: E402
from pi_policy_node.environment import ros_environment  # noqa: E402


def set_up(root: Path) -> Plan:
    """Do whatever set-up is missing; returns at once when none is."""
    plan = make_plan(root)
    stamps = Stamps(plan.venv)
    if not stamps.missing(install.steps(plan)):
        return plan
    with only_one(root):
        missing = stamps.missing(install.steps(plan))  # whoever had the lock may have done it
        if missing:
            install.check_disk(plan, missing)
            print(f"pi: setting up in {plan.venv}: {plan.words()}", flush=True)
            # Logs stay out of the environment, which the step that makes it clears.
            do(install.steps(plan), stamps, root / "log" / "setup", os.environ)
    return plan


def main(argv: list[str]) -> int:
    verb = argv[0] if argv else "help"
    if verb not in dispatch.verbs():
        return dispatch.main(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        plan = set_up(ROOT)
    except (SetupError, OSError) as error:  # OSError: a checkout that can't be written, a disk that fills up
        print(f"pi: {error}", file=sys.stderr)
        if verb != "doctor":
            return 1
        # The doctor's own job is to look at what is broken, with whatever Python there is.
        return max(dispatch.main(argv), 1)
    except KeyboardInterrupt:
        print("pi: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    env = ros_environment(venv=plan.venv, local=False)
    os.execve(plan.venv_python, [str(plan.venv_python), "-m", "pi_policy_node", *argv], env)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
