"""The order of ends: the bridge first, then the rest; and what is left when launch or a guard is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launched import Launched, alive, wait_until

from pi_policy_node.launching import guard

FILE = '''
import sys
from launch import LaunchDescription
from launch.actions import ExecuteProcess
from pi_policy_node.launching import AFTER_BRIDGE, BRIDGE, OUTLIVE

NODE = """
import os, signal, sys, time
def end(number, frame):
    print("got", number, flush=True)
    time.sleep(float(sys.argv[1]))
    print("ends at", time.monotonic(), flush=True)
    os._exit(0)
signal.signal(signal.SIGINT, end)
signal.signal(signal.SIGTERM, end)
print("pid", os.getpid(), "at", time.monotonic(), flush=True)
while True:
    time.sleep(60)
"""

def node(name, prefix, takes=0.0):
    return ExecuteProcess(cmd=[sys.executable, "-uc", NODE, str(takes)], name=name, prefix=prefix, output="screen")

def generate_launch_description():
    return LaunchDescription([node("before", AFTER_BRIDGE), node("bridge", BRIDGE, BRIDGE_TAKES),
                              node("after", AFTER_BRIDGE), node("control", OUTLIVE)])
'''


@pytest.fixture
def launch_file(tmp_path: Path):
    def write(bridge_takes: float) -> Path:
        path = tmp_path / "test.launch.py"
        path.write_text(FILE.replace("BRIDGE_TAKES", str(bridge_takes)))
        return path

    return write


NAMES = ("before-1", "bridge-2", "after-3", "control-4")


def pids(launched: Launched) -> dict[str, int]:
    return {name: int(launched.wait_for(f"[{name}] pid").split()[2]) for name in NAMES}


def moment(launched: Launched, name: str) -> float:
    return float(launched.wait_for(f"[{name}] ends at").split()[-1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_bridge_ends_before_anything_else_is_told_to(launch_file, number):
    with Launched(launch_file(0.4)) as launched:
        running = pids(launched)
        launched.signal(number)
        assert launched.end() == 0
    ends = {name: moment(launched, name) for name in NAMES}
    assert min(ends, key=ends.get) == "bridge-2"
    bridge_is_gone = launched.lines.index(launched.wait_for("[bridge-2] ends at"))
    for name in NAMES:
        told = launched.lines.index(f"[{name}] got {signal.SIGTERM.value}")
        assert told < bridge_is_gone if name == "bridge-2" else told > bridge_is_gone
    assert not any(map(alive, running.values()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT, signal.SIGHUP])
def test_what_a_terminal_sends_to_everybody_reaches_the_bridge_first_as_well(number):
    """Ctrl-C, Ctrl-\\, and its being closed. With ROS 2's launch, all guards are in the foreground group."""
    parent = subprocess.Popen(
        [sys.executable, "-uc", "import subprocess, sys, signal\n"
         "children = [subprocess.Popen(words.split('|')) for words in sys.argv[1:]]\n"
         "[signal.signal(n, signal.SIG_IGN) for n in (1, 2, 3)]\nsys.stdout.write('up\\n')\n"
         "sys.exit(max(child.wait() for child in children))",
         *("|".join([sys.executable, "-IS", guard.__file__, mode, "--", sys.executable, "-uc", _talker(name, takes)])
           for name, mode, takes in (("rest", "after", 0.0), ("bridge", "bridge", 0.4)))],
        stdout=subprocess.PIPE, text=True, start_new_session=True)
    lines = [parent.stdout.readline().strip() for _ in range(3)]
    assert sorted(lines) == ["bridge is up", "rest is up", "up"]
    os.killpg(parent.pid, number)
    assert parent.stdout.read().split("\n")[:4] == ["bridge told", "bridge ends", "rest told", "rest ends"]
    assert parent.wait() == 0


def _talker(name: str, takes: float) -> str:
    # one write a line: two processes share the pipe
    return (f"import os, signal, time;say = lambda what: os.write(1, f'{name} {{what}}\\n'.encode());"
            f"signal.signal(15, lambda *_: (say('told'), time.sleep({takes}), say('ends'), os._exit(0)));"
            "say('is up');time.sleep(600)")


def test_a_bridge_that_was_killed_holds_nobody_up(launch_file):
    with Launched(launch_file(0.0)) as launched:
        os.kill(pids(launched)["bridge-2"], signal.SIGKILL)
        launched.wait_for("[bridge-2]: process has died")
        begin = time.monotonic()
        launched.signal(signal.SIGINT)
        launched.end()
    assert time.monotonic() - begin < guard.LIMIT


def test_a_bridge_that_hangs_holds_the_others_up_for_a_limited_time(launch_file):
    with Launched(launch_file(60.0)) as launched:
        pids(launched)
        begin = time.monotonic()
        launched.signal(signal.SIGINT)
        for name in ("before-1", "after-3", "control-4"):
            assert guard.LIMIT <= moment(launched, name) - begin < guard.LIMIT + 2.0
        os.killpg(int(launched.wait_for("[bridge-2] pid").split()[2]), signal.SIGKILL)
        launched.end()


def test_when_launch_is_killed_the_bridge_rests_the_rest_ends_and_ros2_control_goes_on(launch_file):
    with Launched(launch_file(0.2)) as launched:
        running = pids(launched)
        os.kill(launched.process.pid, signal.SIGKILL)
        launched.process.wait()
        ours = [pid for name, pid in running.items() if name != "control-4"]
        assert wait_until(lambda: not any(map(alive, ours)))
        assert alive(running["control-4"])
        os.kill(running["control-4"], signal.SIGKILL)


def test_a_killed_guard_takes_its_command_along_unless_that_is_to_outlive_it(launch_file):
    with Launched(launch_file(0.0)) as launched:
        running = pids(launched)
        guards = {name: int(launched.wait_for(f"[{name}]: process started").split("[")[-1].rstrip("]"))
                  for name in ("after-3", "control-4")}
        for pid in guards.values():
            os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: not alive(running["after-3"]))
        launched.wait_for("[control-4]: process has died")
        assert alive(running["control-4"])
        os.kill(running["control-4"], signal.SIGKILL)
        launched.signal(signal.SIGINT)
        launched.end()


def test_what_outlives_launch_may_go_on_talking(tmp_path):
    beat = tmp_path / "beat"
    script = f"while :; do echo talks; echo x >> {beat}; sleep 0.02; done"
    launch = subprocess.Popen(
        [sys.executable, "-c", "import subprocess, sys; p = subprocess.Popen(sys.argv[1:], stdout=-1); print(p.pid, "
         "p.stdout.readline(), flush=True); p.wait()", sys.executable, "-IS", guard.__file__, "outlive", "--",
         "sh", "-c", f"echo $$; {script}"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    guard_pid, line = launch.stdout.readline().split()
    pid = int("".join(filter(str.isdigit, line)))
    launch.kill()
    launch.wait()
    try:
        beats = beat.stat().st_size if beat.exists() else 0
        assert wait_until(lambda: beat.exists() and beat.stat().st_size > beats + 10)
    finally:
        os.kill(int(guard_pid), signal.SIGTERM)
    assert wait_until(lambda: not alive(pid))


def test_a_node_that_is_told_to_end_while_it_starts_ends_quietly(tmp_path):
    up = tmp_path / "up"
    process = subprocess.Popen([sys.executable, "-IS", guard.__file__, "after", "--", sys.executable, "-c",
                                f"import time; open({str(up)!r}, 'w'); time.sleep(600)"], stderr=subprocess.PIPE)
    assert wait_until(up.exists)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=15) == (None, b"")
    assert process.returncode == 0


@pytest.mark.parametrize("mode", ["bridge", "after", "outlive"])
@pytest.mark.parametrize("status", [0, 7, -signal.SIGTERM])
def test_the_exit_status_is_that_of_the_command(mode, status):
    script = f"import os, sys; os.kill(os.getpid(), {-status}) if {status} < 0 else sys.exit({status})"
    done = subprocess.run([sys.executable, "-IS", guard.__file__, mode, "--", sys.executable, "-c", script], timeout=15)
    assert done.returncode == status


@pytest.mark.parametrize("words", [[], ["after"], ["sideways", "--", "true"], ["after", "true"]])
def test_wrong_usage_is_one_line(words):
    done = subprocess.run([sys.executable, guard.__file__, *words], capture_output=True, text=True, timeout=15)
    assert done.returncode == 2
    assert done.stderr == guard.USAGE + "\n"


def test_a_command_that_does_not_exist_is_one_line():
    for mode in ("bridge", "after", "outlive"):
        done = subprocess.run([sys.executable, guard.__file__, mode, "--", "/no/such"], capture_output=True, text=True)
        assert done.returncode == 127
        assert done.stderr == "guard: cannot start /no/such: No such file or directory\n"
