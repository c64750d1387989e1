"""`./pi launch` and what a person may type at it: one clear line and a status that is not zero."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from launched import environment

FILES = ["mobile_manipulator.launch.py", "control.launch.py", "perception.launch.py", "ros2_control.launch.py",
         "rviz.launch.py", "sim.launch.py"]


def pi_launch(*words: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "pi_policy_node", "launch", *words], env=environment() | env,
                          capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("words, message", [
    (["mobile_manipulater.launch.py"], "no launch file 'mobile_manipulater.launch.py'; did you mean "
                                       "'mobile_manipulator.launch.py'?"),
    (["xyz"], "no launch file 'xyz': there is mobile_manipulator.launch.py, control.launch.py, "),
    (["pi_policy_node", "sim.launch.py"], "leave out the package's name: ./pi launch sim.launch.py"),
    (["mobile_manipulator", "hardwear:=sim"], "has no argument 'hardwear'; did you mean 'hardware'?"),
    (["mobile_manipulator", "xyz:=1"], "has no argument 'xyz': it has "),
    (["mobile_manipulator", "hardware:=simm"], "argument hardware:=simm is not valid; did you mean 'sim'?"),
    (["mobile_manipulator", "use_rviz:=maybe"], "argument use_rviz:=maybe is not valid: choose from true, false"),
    (["mobile_manipulator", "hardware=sim"], "malformed launch argument 'hardware=sim': write NAME:=VALUE"),
    (["mobile_manipulator", "hardware:=", "sim"], "malformed launch argument 'sim'"),
    (["sim", "--everything"], "no option '--everything'"),
    (["sim", "hardware:=real"], "sim.launch.py has no argument 'hardware': it has "),
    (["ros2_control", "hardware:=sim"], "argument hardware:=sim is not valid: choose from mock, real"),
])
def test_a_wrong_argument_is_one_line_and_starts_nothing(words, message):
    done = pi_launch(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr and done.stderr.count("\n") == 1 and done.stderr.startswith("pi launch: ")


@pytest.mark.parametrize("words, message", [
    (["mobile_manipulator", "robot:=pi_mobil"], "pi_mobile"),
    (["mobile_manipulator", "params_file:=/no/such.yaml"], "params_file /no/such.yaml does not exist"),
    (["mobile_manipulator", "namespace:=7up"], "namespace '7up' is not one"),
    (["mobile_manipulator", "hardware:=mock"], "package 'controller_manager' is not installed"),
    (["rviz"], "package 'rviz2' is not installed"),
])
def test_what_is_found_only_while_launching_is_one_line_too(words, message):
    done = pi_launch(*words, AMENT_PREFIX_PATH="/nowhere")
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("[ERROR] [launch]")]) == 1


@pytest.mark.parametrize("file", FILES)
def test_every_file_shows_its_arguments_each_with_a_description(file):
    done = pi_launch(file, "--show-args")
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == "Arguments (pass arguments as '<name>:=<value>'):"
    names = [index for index, line in enumerate(lines) if line.startswith("    '")]
    assert names and all(len(lines[index + 1].strip()) > 20 for index in names)
    assert "no description" not in done.stdout


def test_the_whole_robot_has_the_arguments_that_integrators_expect():
    text = pi_launch("mobile_manipulator", "--show-args").stdout
    for name in ("robot", "hardware", "policy", "use_rviz", "use_sim_time", "namespace", "params_file", "log_level",
                 "dry_run"):
        assert f"    '{name}':\n" in text


def test_a_path_is_taken_as_well_as_a_name(tmp_path):
    file = tmp_path / "mine.launch.py"
    file.write_text("from launch import LaunchDescription\nfrom launch.actions import DeclareLaunchArgument\n"
                    "def generate_launch_description():\n"
                    "    return LaunchDescription([DeclareLaunchArgument('needed', description='for a reason')])\n")
    done = pi_launch(str(file))
    assert done.returncode == 2
    assert done.stderr == "pi launch: mine.launch.py needs the argument needed:=… (for a reason)\n"
    assert pi_launch(str(file), "needed:=1").returncode == 0


@pytest.mark.parametrize("text, message", [
    ("1 +", "SyntaxError"), ("x = 1", "has no function generate_launch_description()"),
    ("import no_such_module", "No module named 'no_such_module'"),
])
def test_a_broken_launch_file_is_one_line(tmp_path, text, message):
    file = tmp_path / "broken.launch.py"
    file.write_text(text)
    done = pi_launch(str(file))
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_the_processes_can_be_looked_at_without_starting_them():
    rows = json.loads(pi_launch("mobile_manipulator", "--show-processes", "autostart:=false",
                                AMENT_PREFIX_PATH="/nowhere").stdout)
    assert [row["name"] for row in rows] == ["sim-1", "camera_ingest-2", "hardware_bridge-3", "policy-4", "commander-5"]
    assert all(os.path.isfile(row["environment"].get("FASTDDS_DEFAULT_PROFILES_FILE",
                                                    os.environ.get("FASTDDS_DEFAULT_PROFILES_FILE", "")))
               for row in rows)
