"""What our launch files start, as data. `python test/launch/tables.py` with a ROS 2
sourced writes process_tables.json, what its launch makes of them; the tests hold the stand-in against that."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pi_policy_node.environment import PACKAGE, checkout
from pi_policy_node.launching import STAND_IN
from pi_policy_node.launching.table import row

CASES = [
    "mobile_manipulator.launch.py",
    "mobile_manipulator.launch.py namespace:=left/robot1 use_rviz:=true log_level:=debug",
    "mobile_manipulator.launch.py hardware:=mock dry_run:=true",
    "mobile_manipulator.launch.py hardware:=real",
    "mobile_manipulator.launch.py hardware:=real ros2_control_plugin:=my_robot/System use_rviz:=true namespace:=/r",
    "mobile_manipulator.launch.py robot:=single_arm use_sim_time:=false autostart:=false",
    "sim.launch.py",
    "perception.launch.py hardware:=mock",
    "control.launch.py policy:=scripted",
    "ros2_control.launch.py",
    "rviz.launch.py namespace:=x",
]

EXECUTABLES = {
    PACKAGE: ["sim", "camera_ingest", "policy", "commander", "hardware_bridge", "bringup"],
    "robot_state_publisher": ["robot_state_publisher"],
    "controller_manager": ["ros2_control_node", "spawner"],
    "rviz2": ["rviz2"],
}


def make_prefix(prefix: Path) -> Path:
    """An ament prefix in which every package that our files may use is installed, with executables that do nothing."""
    index = prefix / "share/ament_index/resource_index/packages"
    index.mkdir(parents=True)
    for package, executables in EXECUTABLES.items():
        (index / package).touch()
        (prefix / "lib" / package).mkdir(parents=True)
        for executable in executables:
            path = prefix / "lib" / package / executable
            path.write_text("#!/bin/sh\n")
            path.chmod(0o755)
        if package != PACKAGE:
            (prefix / "share" / package).mkdir()
    (prefix / "share" / PACKAGE).symlink_to(checkout())
    return prefix


def include(case: str) -> Any:
    """The action that launches a case."""
    from launch.actions import IncludeLaunchDescription
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    file, *words = case.split()
    return IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(checkout() / "launch" / file)),
        launch_arguments=[tuple(word.split(":=")) for word in words],
    )


def by_stand_in(case: str, prefix: Path) -> list[dict[str, Any]]:
    from launch import LaunchContext

    rows: list[dict[str, Any]] = []
    context = LaunchContext(start=lambda process: rows.append(row(process, os.environ)))
    context.visit(include(case))
    return [_comparable(each, prefix) for each in rows]


def by_installed_launch(case: str, prefix: Path) -> list[dict[str, Any]]:
    from launch.actions import ExecuteLocal

    from launch import LaunchDescription, LaunchService

    rows: list[dict[str, Any]] = []
    environment = dict(os.environ)  # which launch itself changes

    def write_down(action: Any, context: Any) -> None:
        action.prepare(context)
        details = SimpleNamespace(**action.process_details, respawn=action._ExecuteLocal__respawn)
        rows.append(row(details, environment))

    before, ExecuteLocal.execute = ExecuteLocal.execute, write_down
    try:
        service = LaunchService()
        service.include_launch_description(LaunchDescription([include(case)]))
        assert service.run() == 0, case
    finally:
        ExecuteLocal.execute = before
        os.environ.clear()
        os.environ.update(environment)
    # launch numbers all processes of this interpreter
    first = int(rows[0]["name"].rpartition("-")[2]) if rows else 1
    for each in rows:
        name, _, number = each["name"].rpartition("-")
        each["name"] = f"{name}-{int(number) - first + 1}"
    return [_comparable(each, prefix) for each in rows]


def _comparable(value: Any, prefix: Path) -> Any:
    """The same on every machine: without paths, and without the text of a URDF."""
    if isinstance(value, dict):
        return {key: _comparable(each, prefix) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_comparable(each, prefix) for each in value]
    if not isinstance(value, str):
        return value
    if value.startswith("<?xml"):
        return "a URDF with " + ", ".join(word for word in ("mock_components", "my_robot/System") if word in value)
    for path, name in ((sys.executable, "<python>"), (STAND_IN.parent, "<launching>"),
                       (prefix / "share" / PACKAGE, "<share>"), (prefix, "<prefix>"), (checkout(), "<share>")):
        value = value.replace(str(path), name)
    return value


def as_text(tables: dict[str, list[dict[str, Any]]]) -> str:
    """JSON with a line for every process."""
    cases = []
    for case, rows in tables.items():
        lines = ",\n  ".join(json.dumps(each, sort_keys=True) for each in rows)
        cases.append(f" {json.dumps(case)}: [\n  {lines}\n ]")
    return "{\n" + ",\n".join(cases) + "\n}\n"


def set_environment(prefix: Path, environment: Any) -> None:
    """What the tables were written down in."""
    environment["AMENT_PREFIX_PATH"] = f"{prefix}:{environment.get('AMENT_PREFIX_PATH', '')}"
    environment["FASTDDS_BUILTIN_TRANSPORTS"] = "LARGE_DATA"
    for variable in ("ROS_AUTOMATIC_DISCOVERY_RANGE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        environment.pop(variable, None)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        fake = make_prefix(Path(folder) / "prefix")
        set_environment(fake, os.environ)
        written = as_text({case: by_installed_launch(case, fake) for case in CASES})
    Path(__file__).with_name("process_tables.json").write_text(written)
