"""Priorities: asked for where nobody has chosen one, and never a reason not to run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pi_policy_node.nodes import _process

ASK = "import os; from pi_policy_node.nodes._process import ask_for_priority; ask_for_priority({}); " \
      "print(os.getpriority(os.PRIO_PROCESS, 0))"


def ask(nice: int, *before: str) -> int:
    done = subprocess.run([*before, sys.executable, "-c", ASK.format(nice)], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_what_matters_less_says_so():
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    assert ask(3) == (ours or 3)


def test_a_niceness_that_somebody_chose_stays():
    assert ask(-5, "nice", "-n", "7") == min(os.getpriority(os.PRIO_PROCESS, 0) + 7, 19)


def test_the_whole_session_gets_the_niceness():
    """Between sessions, Linux looks at theirs and not at their processes'."""
    group = Path("/proc/self/autogroup")
    if not group.exists():
        pytest.skip("this kernel does not group processes by session")
    code = ASK.format(3) + f"; print(open({str(group)!r}).read())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, start_new_session=True)
    assert done.stdout.split()[-1] == ("3" if os.getpriority(os.PRIO_PROCESS, 0) == 0 else "0")


def test_a_user_without_the_right_runs_as_before():
    nobody = ["setpriv", "--reuid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]
    nobody = nobody if os.geteuid() == 0 else []
    run = [*nobody, sys.executable, "-S", "-c"]
    if subprocess.run([*run, "pass"], capture_output=True).returncode:
        pytest.skip("this Python is not for everybody")
    if subprocess.run([*run, "import os; os.setpriority(os.PRIO_PROCESS, 0, -5)"], capture_output=True).returncode == 0:
        pytest.skip("this machine lets everybody raise priorities")
    code = Path(_process.__file__).read_text() + "\nask_for_priority(-5)\nprint(os.getpriority(os.PRIO_PROCESS, 0))\n"
    done = subprocess.run([*run, code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, str(os.getpriority(os.PRIO_PROCESS, 0))), done.stderr


@pytest.mark.parametrize("name", ["bringup", "camera_ingest", "commander", "hardware_bridge", "policy", "sim"])
def test_a_node_that_was_stopped_leaves_nothing_in_shared_memory(domain, name):
    """Fast DDS takes some 50 MB of it for each process; what is left there fills the machine's memory in a day."""
    before = set(os.listdir("/dev/shm"))
    node = subprocess.Popen([sys.executable, "-m", f"pi_policy_node.nodes.{name}"], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)
    try:
        end = time.monotonic() + 30.0
        while not any(f"fastdds_port{port}" in file for file in set(os.listdir("/dev/shm")) - before
                      for port in range(7400 + 250 * domain, 7650 + 250 * domain)):
            assert time.monotonic() < end and node.poll() is None, f"{name} did not start"
            time.sleep(0.05)
        node.send_signal(signal.SIGINT)
        output, _ = node.communicate(timeout=20)
    finally:
        node.kill()
    assert node.returncode == 0, output
    assert set(os.listdir("/dev/shm")) - before == set()
