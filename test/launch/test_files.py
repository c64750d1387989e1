"""Our launch files: the stand-in starts what ROS 2's launch starts, and that is what the design says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from launched import environment
from tables import CASES, make_prefix, set_environment

GOLDEN = json.loads(Path(__file__).with_name("process_tables.json").read_text())
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> dict[str, list[dict]]:
    """Every case through the stand-in, which must not be imported here: other tests may need the real launch."""
    return by_stand_in(CASES, tmp_path_factory.mktemp("ament"))


def by_stand_in(cases: list[str], folder: Path) -> dict[str, list[dict]]:
    prefix = make_prefix(folder / "prefix")
    env = environment()
    set_environment(prefix, env)
    env["PYTHONPATH"] = f"{HERE}{os.pathsep}{env['PYTHONPATH']}"
    script = ("import json, sys; from pathlib import Path; import tables\n"
              "print(json.dumps({case: tables.by_stand_in(case, Path(sys.argv[1])) for case in sys.argv[2:]}))")
    done = subprocess.run([sys.executable, "-c", script, prefix, *cases], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_cases_are_those_written_down():
    assert list(GOLDEN) == CASES


@pytest.mark.parametrize("case", CASES)
def test_the_stand_in_starts_what_the_installed_launch_starts(tables, case):
    assert tables[case] == GOLDEN[case]


def names(table: list[dict]) -> list[str]:
    return [row["name"].rpartition("-")[0] for row in table]


def parameters(row: dict) -> dict:
    return next(iter(row["parameters"][-1].values()))["ros__parameters"]


def by_hardware(tables) -> dict[str, list[dict]]:
    return {kind: tables[next(case for case in CASES if case.startswith("mobile") and kind in case)]
            for kind in ("hardware:=mock", "hardware:=real")} | {"sim": tables[CASES[0]]}


def test_only_the_bridge_is_waited_for_and_only_real_ros2_control_outlives_the_launch(tables):
    for case, table in tables.items():
        for row in table:
            mode = row["command"][3]
            if row["name"].startswith("hardware_bridge"):
                assert mode == "bridge"
            elif row["name"].startswith("ros2_control_node") and "hardware:=real" in case:
                assert mode == "outlive"
            else:
                assert mode == "after"


def test_on_a_real_robot_nodes_are_started_again_and_ros2_control_is_left_alone(tables):
    real = by_hardware(tables)["hardware:=real"]
    assert names(real) == ["bringup", "camera_ingest", "hardware_bridge", "policy", "commander"]
    assert all(row["respawn"] for row in real)
    assert not any(row["respawn"] for kind in ("sim", "hardware:=mock") for row in by_hardware(tables)[kind])


def test_simulated_and_mock_robots_stay_on_this_host(tables):
    for kind, table in by_hardware(tables).items():
        for row in table:
            assert row["environment"]["FASTDDS_DEFAULT_PROFILES_FILE"].endswith("config/fastdds.xml")
            assert row["environment"]["FASTDDS_BUILTIN_TRANSPORTS"] is None
            expected = None if kind == "hardware:=real" else "LOCALHOST"
            assert row["environment"].get("ROS_AUTOMATIC_DISCOVERY_RANGE") == expected


def test_use_sim_time_follows_the_hardware(tables):
    for kind, table in by_hardware(tables).items():
        for row in table:
            if row["parameters"]:
                assert parameters(row)["use_sim_time"] is (kind == "sim"), row["name"]


def test_a_namespace_moves_every_node_its_clock_and_its_tf(tables):
    for row in tables[CASES[1]]:
        assert "__ns:=/left/robot1" in row["remappings"]
        assert {"/clock:=clock", "/tf:=tf", "/tf_static:=tf_static"} <= set(row["remappings"])


def test_nothing_but_the_bridge_could_publish_where_controllers_listen(tables):
    """No remapping touches a command topic, and no second bridge is started."""
    for table in tables.values():
        assert names(table).count("hardware_bridge") <= 1
        for row in table:
            assert not any("controller" in rule and "odom" not in rule for rule in row["remappings"])


def test_the_controllers_of_the_robot_file_are_spawned(tables):
    spawner = next(row for row in by_hardware(tables)["hardware:=mock"] if row["name"].startswith("spawner"))
    command = spawner["command"]
    assert {"joint_state_broadcaster", "left_arm_controller", "right_arm_controller", "left_gripper_controller",
            "right_gripper_controller", "lift_controller", "base_controller"} <= set(command)


def test_a_robot_brings_its_own_controllers(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.touch()
    case = "ros2_control.launch.py robot:=single_arm"
    tables = by_stand_in([case, f"{case} controllers_file:={mine}"], tmp_path)
    for table, file in zip(tables.values(), ("/single_arm_controllers.yaml", "/mine.yaml")):
        manager, spawner = (next(row for row in table if row["name"].startswith(n)) for n in ("ros2_control", "spawner"))
        assert manager["parameters"][0].endswith(file)
        assert {"arm_controller", "gripper_controller"} <= set(spawner["command"])


def test_the_installed_launch_still_starts_the_same():
    """Where a ROS 2 is sourced, its own launch is asked again."""
    probe = subprocess.run([sys.executable, "-c", "from launch import LaunchDescription; from launch.actions import "
                            "ExecuteLocal; from launch_ros.actions import Node"], capture_output=True)
    if probe.returncode:
        pytest.skip("ROS 2's launch is not installed here")
    script = ("import json, os, sys, tempfile; from pathlib import Path; import tables\n"
              "prefix = tables.make_prefix(Path(tempfile.mkdtemp()) / 'prefix')\n"
              "tables.set_environment(prefix, os.environ)\n"
              "made = {case: tables.by_installed_launch(case, prefix) for case in tables.CASES}\n"
              "Path(sys.argv[1]).write_text(json.dumps(made))")
    import tempfile

    with tempfile.NamedTemporaryFile() as out:
        env = os.environ | {"PYTHONPATH": f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        subprocess.run([sys.executable, "-c", script, out.name], env=env, check=True)
        assert json.loads(Path(out.name).read_text()) == GOLDEN
