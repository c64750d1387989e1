"""When a node of the whole robot dies: the launch ends on simulated hardware, and not on a real robot.

The robot's executables are small scripts here, so that this is about the launch files alone.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from launched import Launched, alive, environment, wait_until
from tables import EXECUTABLES, make_prefix

NODE = """#!/bin/sh
trap 'exit 0' TERM INT
echo up
while :; do sleep 0.05; done
"""
OURS = ("sim", "camera_ingest", "hardware_bridge", "policy", "commander", "bringup")


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    prefix = make_prefix(tmp_path / "prefix")
    for package, executables in EXECUTABLES.items():
        for executable in executables:
            (prefix / "lib" / package / executable).write_text(NODE)
    env = environment()
    env["AMENT_PREFIX_PATH"] = f"{prefix}{os.pathsep}{env.get('AMENT_PREFIX_PATH', '')}"
    return env


def started(launched: Launched) -> dict[str, int]:
    """{name: pid of its guard}"""
    found = re.findall(r"\[INFO\] \[(\w+)-\d+\]: process started with pid \[(\d+)\]", launched.output)
    return {name: int(pid) for name, pid in found}


@pytest.mark.parametrize("name", OURS)
def test_on_simulated_hardware_the_launch_ends_with_any_of_its_nodes(env, name):
    with Launched("mobile_manipulator", env=env) as launched:
        for each in OURS:
            launched.wait_for(f"[{each}-")
        launched.wait_for("] up", count=len(OURS) + 1)
        pids = started(launched)
        os.kill(pids[name], signal.SIGKILL)
        assert launched.end() == 1
    assert re.search(rf"process\[{name}-\d+\] was required: shutting down launched system", launched.output)
    assert launched.output.count("was required") == 1
    assert not any(map(alive, pids.values()))


def test_on_a_real_robot_a_node_is_started_again_and_ros2_control_is_not_touched(env):
    with Launched("mobile_manipulator", "hardware:=real", "ros2_control_plugin:=my_robot/System", env=env) as launched:
        launched.wait_for("] up", count=len(OURS) - 1 + 3)
        before = started(launched)
        for name in ("policy", "hardware_bridge", "bringup"):
            os.kill(before[name], signal.SIGKILL)
        for name in ("policy", "hardware_bridge", "bringup"):
            launched.wait_for(f"[{name}-", count=4)  # started, up, died, started
        assert wait_until(lambda: all(started(launched)[name] != before[name] for name in ("policy", "bringup")))
        assert started(launched)["ros2_control_node"] == before["ros2_control_node"]
        assert alive(before["ros2_control_node"])
        launched.signal(signal.SIGINT)
        assert launched.end() == 0
    assert "was required" not in launched.output
