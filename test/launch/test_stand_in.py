"""The stand-in for launch: processes start, talk, end and are never left behind. Small scripts play the nodes."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import pytest
from launched import Launched, alive, wait_until

FILE = """
import sys
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, RegisterEventHandler, Shutdown
from launch.event_handlers import OnProcessExit, OnShutdown
from launch.substitutions import LaunchConfiguration

def script(name, text, **options):
    return ExecuteProcess(cmd=[sys.executable, "-uc", text], name=name, output="screen", **options)

NODE = '''
import os, signal, time
signal.signal(signal.SIGINT, lambda *_: (print("told to end", flush=True), os._exit(0)))
print("pid", os.getpid(), flush=True)
while True:
    time.sleep(60)
'''

def generate_launch_description():
    return LaunchDescription({entities})
"""


@pytest.fixture
def launch_file(tmp_path: Path):
    """Writes a launch file with these entities."""

    def write(entities: str) -> Path:
        path = tmp_path / "test.launch.py"
        path.write_text(FILE.replace("{entities}", entities))
        return path

    return write


def pid_of(launched: Launched, name: str) -> int:
    return int(launched.wait_for(f"[{name}] pid").split()[-1])


def test_output_and_messages_are_those_of_launch(launch_file):
    file = launch_file("""[
        script("talk", "import sys; print('to stdout'); print('to stderr', file=sys.stderr); print('no end', end='')"),
        ExecuteProcess(cmd=[sys.executable, "-c", "print('kept'); import sys; print('shown', file=sys.stderr)"],
                       name="log", output="log")]""")
    with Launched(file) as launched:
        assert launched.end() == 0
    assert re.search(r"^\[INFO\] \[talk-1\]: process started with pid \[\d+\]$", launched.output, re.M)
    for line in ("[talk-1] to stdout", "[talk-1] to stderr", "[talk-1] no end", "[log-2] shown"):
        assert line in launched.lines
    assert "kept" not in launched.output
    assert re.search(r"^\[INFO\] \[talk-1\]: process has finished cleanly \[pid \d+\]$", launched.output, re.M)


def test_a_lot_of_output_without_a_newline_does_not_stop_a_process(launch_file):
    with Launched(launch_file("""[script("loud", "print('x' * 3_000_000)")]""")) as launched:
        assert launched.end() == 0
    assert f"[loud-1] {'x' * 3_000_000}" in launched.lines


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_every_process(launch_file, number):
    with Launched(launch_file("""[script("a", NODE), script("b", NODE)]""")) as launched:
        pids = [pid_of(launched, "a-1"), pid_of(launched, "b-2")]
        launched.signal(number)
        assert launched.end() == 0
    assert {"[a-1] told to end", "[b-2] told to end"} <= set(launched.lines)
    assert not any(map(alive, pids))


def test_a_process_that_hangs_gets_sigterm_and_then_sigkill(launch_file):
    hang = "import signal, time; [signal.signal(n, lambda n, _: print('got', n)) for n in (2, 15)]; print('pid', " \
           "__import__('os').getpid())\\nwhile True: time.sleep(60)"
    file = launch_file(f"""[
        script("hang", "{hang}", sigterm_timeout="0.3", sigkill_timeout="0.3"), script("b", NODE)]""")
    with Launched(file) as launched:
        pid = pid_of(launched, "hang-1")
        pid_of(launched, "b-2")
        launched.signal(signal.SIGINT)
        assert launched.end() == 0
    order = [launched.output.index(f"[hang-1] got {number}") for number in (2, 15)]
    assert order == sorted(order)
    assert "escalating to 'SIGTERM'" in launched.output and "escalating to 'SIGKILL'" in launched.output
    assert "exit code -9" in launched.output
    assert not alive(pid)


def test_the_death_of_a_required_node_ends_the_launch(launch_file):
    file = launch_file("""[
        script("goes", "raise SystemExit(3)", on_exit=[Shutdown(reason="because")]), script("stays", NODE)]""")
    with Launched(file) as launched:
        assert launched.end() == 1
    assert "process has died" in launched.output and "exit code 3" in launched.output
    assert "process[goes-1] was required: shutting down launched system" in launched.output
    pids = re.findall(r"process started with pid \[(\d+)\]", launched.output)
    assert len(pids) == 2 and not any(alive(int(pid)) for pid in pids)


def test_the_death_of_another_node_does_not_but_is_in_the_exit_status(launch_file):
    file = launch_file("""[script("goes", "raise SystemExit(3)"), script("stays", NODE)]""")
    with Launched(file) as launched:
        pid = pid_of(launched, "stays-2")
        launched.wait_for("process has died")
        assert alive(pid)
        launched.signal(signal.SIGINT)
        assert launched.end() == 1


def test_a_killed_launch_leaves_nothing_behind(launch_file):
    with Launched(launch_file("""[script("a", NODE), script("b", NODE)]""")) as launched:
        pids = [pid_of(launched, "a-1"), pid_of(launched, "b-2")]
        launched.signal(signal.SIGKILL)
        launched.process.wait()
        assert wait_until(lambda: not any(map(alive, pids)))


def test_children_of_a_process_go_with_it(launch_file):
    parent = "import subprocess, sys; print('pid', subprocess.Popen(" \
             "[sys.executable, '-c', 'import time; time.sleep(600)']).pid)"
    with Launched(launch_file(f"""[script("parent", "{parent}")]""")) as launched:
        pid = pid_of(launched, "parent-1")
        assert launched.end() == 0
    assert wait_until(lambda: not alive(pid))


def test_respawn_starts_a_process_again_until_the_end(launch_file):
    file = launch_file("""[script("again", "print('once more')", respawn=True, respawn_delay=0.05)]""")
    with Launched(file) as launched:
        launched.wait_for("[again-1] once more", count=3)
        launched.signal(signal.SIGINT)
        assert launched.end() == 0


def test_handlers_run_on_shutdown_and_exit(launch_file):
    file = launch_file("""[
        first := script("first", "print('one')"),
        RegisterEventHandler(OnProcessExit(target_action=first, on_exit=[script(
            "second", "print('two')", on_exit=lambda event, context: [Shutdown(reason=str(event.returncode))])])),
        RegisterEventHandler(OnShutdown(on_shutdown=lambda event, context: print("ends:", event.reason, flush=True))),
        script("stays", NODE)]""")
    with Launched(file) as launched:
        assert launched.end() == 0
    assert "[second-3] two" in launched.lines and "ends: 0" in launched.lines


def test_a_program_that_does_not_exist_is_one_line(launch_file):
    with Launched(launch_file("""[ExecuteProcess(cmd=["/no/such/program"])]""")) as launched:
        assert launched.end() == 1
    assert launched.lines == ["[ERROR] [program-1]: cannot start /no/such/program: No such file or directory"]


def test_an_error_in_the_launch_file_ends_what_runs_already(launch_file):
    with Launched(launch_file("""[script("a", NODE), LaunchConfiguration("x") and script(
            "b", LaunchConfiguration("not_declared"))]""")) as launched:
        assert launched.end() == 1
    assert "launch configuration 'not_declared' does not exist" in launched.output
    assert "Traceback" not in launched.output


def test_what_the_stand_in_lacks_says_so(tmp_path):
    file = tmp_path / "more.launch.py"
    file.write_text("from launch.actions import TimerAction\n")
    with Launched(file) as launched:
        assert launched.end() == 2
    assert "launch.actions.TimerAction is not in the stand-in" in launched.output
    assert "Traceback" not in launched.output


