"""Both packages as ROS's own tools see them: manifests, entry points, and what a plain `colcon build` installs."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from catkin_pkg.package import parse_package

from pi_policy_node.bootstrap.install import COLCON
from pi_policy_node.environment import checkout

NODES = ("sim", "camera_ingest", "policy", "commander", "hardware_bridge", "bringup")
# Import name -> name in package.xml, where they differ; a rosdep key is not always what Python calls it.
KEYS = {
    "numpy": "python3-numpy", "cv2": "python3-opencv", "yaml": "python3-yaml", "PIL": "python3-pil",
    "msgpack": "python3-msgpack", "websockets": "python3-websockets",
}
ROS = ("rclpy", "launch", "launch_ros", "ament_index_python", "cv_bridge", "tf2_ros", "xacro")


def imported() -> set[str]:
    """The top-level names that our modules and launch files import."""
    names = set()
    for folder in ("pi_policy_node", "launch"):
        for path in (checkout() / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    names |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("folder", [".", "pi_msgs"])
def test_the_manifest_is_valid(folder: str) -> None:
    warnings: list[str] = []
    package = parse_package(str(checkout() / folder), warnings=warnings)
    assert not warnings
    assert package.licenses == ["Apache-2.0"]
    assert {export.tagname for export in package.exports} == {"build_type"}


def test_every_ros_package_that_is_imported_is_declared() -> None:
    package = parse_package(str(checkout()))
    declared = {depend.name for depend in package.exec_depends}
    names = imported()
    wanted = {KEYS[name] for name in names & KEYS.keys()}
    wanted |= {name for name in names if name in ROS or name.endswith(("_msgs", "_srvs", "_interfaces"))}
    assert len(wanted) > 10
    assert wanted <= declared, f"missing in package.xml: {sorted(wanted - declared)}"


def test_messages_declare_what_they_use() -> None:
    package = parse_package(str(checkout() / "pi_msgs"))
    cmake = (checkout() / "pi_msgs" / "CMakeLists.txt").read_text()
    for kind in ("msg", "srv", "action"):
        for path in (checkout() / "pi_msgs" / kind).iterdir():
            assert f"{kind}/{path.name}" in cmake
    declared = {depend.name for depend in package.build_depends}
    (line,) = [line for line in cmake.splitlines() if line.strip().startswith("DEPENDENCIES")]
    assert set(line.split()[1:]) <= declared


@pytest.mark.parametrize("node", NODES)
def test_every_executable_is_a_module_with_a_main(node: str) -> None:
    spec = importlib.util.find_spec(f"pi_policy_node.nodes.{node}")
    assert spec is not None and spec.origin is not None
    body = ast.parse(Path(spec.origin).read_text()).body
    defined = {item.name for item in body if isinstance(item, ast.FunctionDef)}
    defined |= {target.id for item in body if isinstance(item, ast.Assign) for target in item.targets
                if isinstance(target, ast.Name)}
    assert "main" in defined


def test_a_plain_colcon_build_installs_everything(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", COLCON, "--log-base", tmp_path / "log", "build",
         "--base-paths", checkout(), "--packages-select", "pi_policy_node",
         "--build-base", tmp_path / "build", "--install-base", tmp_path / "install"],
        check=True, capture_output=True, timeout=120,
    )
    prefix = tmp_path / "install" / "pi_policy_node"
    executables = {path.name for path in (prefix / "lib" / "pi_policy_node").iterdir()}
    assert executables == set(NODES)
    marker = prefix / "share" / "ament_index" / "resource_index" / "packages" / "pi_policy_node"
    assert marker.is_file()
    shared = prefix / "share" / "pi_policy_node"
    for folder in ("launch", "config", "urdf", "rviz"):
        for path in (checkout() / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert (shared / path.relative_to(checkout())).is_file(), path
    # The installed copy, with nothing of the checkout on its path, finds its own files.
    (packages,) = prefix.glob("lib/python3.*/site-packages")
    env = {**os.environ, "PYTHONPATH": str(packages), "AMENT_PREFIX_PATH": str(prefix)}
    done = subprocess.run(
        [sys.executable, "-c", "from pi_policy_node.robot import load_robot; print(load_robot().file)"],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60,
    )
    assert Path(done.stdout.strip()).is_relative_to(prefix), done.stderr
