"""The requirements files pin everything, for every Python, and the ROS wheels by hash."""

from __future__ import annotations

import re

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

from pi_policy_node.environment import checkout

REQUIREMENTS = checkout() / "requirements"
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


def pinned(name: str, python: str) -> dict[str, str]:
    """package -> version that this file means on this Python."""
    found: dict[str, str] = {}
    for line in (REQUIREMENTS / name).read_text().splitlines():
        if line.startswith("#"):
            continue
        requirement = Requirement(line)
        environment = {**default_environment(), "python_version": python, "python_full_version": python + ".1"}
        if requirement.marker is None or requirement.marker.evaluate(environment):
            (only,) = requirement.specifier
            assert only.operator == "==" and "*" not in only.version, line
            assert requirement.name not in found, f"{requirement.name} twice on Python {python}"
            found[requirement.name] = only.version
    return found


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", ["base.txt", "build.txt"])
def test_every_package_has_one_version(name: str, python: str) -> None:
    assert len(pinned(name, python)) > 20


@pytest.mark.parametrize("python", PYTHONS)
def test_what_the_project_imports_is_pinned(python: str) -> None:
    found = pinned("base.txt", python)
    assert found["torch"] == "2.13.0"
    assert {"numpy", "mujoco", "opencv-python-headless", "pytest", "xacro"} <= found.keys()


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12"])
def test_numpy1_file_has_the_same_packages_with_numpy_1(python: str) -> None:
    old, new = pinned("numpy1.txt", python), pinned("base.txt", python)
    assert old["numpy"].startswith("1.26.")
    assert old.keys() == new.keys()


def test_ros_wheels_have_a_hash_for_every_python() -> None:
    entries = re.split(r"\n(?=\S)", (REQUIREMENTS / "ros.txt").read_text().strip())[1:]
    hashes = {}
    for entry in entries:
        first, *rest = entry.replace("\\", "").split()
        assert re.fullmatch(r"ros-[a-z0-9-]+==[0-9.]+", first), first
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", word) for word in rest), first
        assert len(set(rest)) == len(rest)
        hashes[first.split("==")[0]] = len(rest)
    # Compiled: one wheel per CPython. The rest: one wheel for all.
    assert set(hashes.values()) <= {1, len(PYTHONS)}
    assert all(hashes[name] == len(PYTHONS) for name in ("ros-rclpy", "ros-fastdds", "ros-rcl", "ros-sensor-msgs"))
    assert len(hashes) > 100


def test_no_file_names_a_registry() -> None:
    for path in REQUIREMENTS.glob("*.txt"):
        assert "://" not in path.read_text(), path
