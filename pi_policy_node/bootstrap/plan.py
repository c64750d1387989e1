"""Which Python, which ROS, which folder: decided from the environment alone, before anything is changed."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pi_policy_node.bootstrap import SetupError

OLDEST, NEWEST = (3, 10), (3, 14)
WHEELS = "kilted"  # the distribution of requirements/ros.txt
INSTALLS = Path("/opt/ros")  # where apt puts a ROS
# These don't know ROS_AUTOMATIC_DISCOVERY_RANGE: a demo there could not be kept on its own host.
TOO_OLD = ("foxy", "galactic", "humble")


@dataclass(frozen=True)
class Plan:
    root: Path  # the checkout
    venv: Path  # everything that is set up
    python: str  # the interpreter that makes the virtual environment
    version: tuple[int, int]
    distro: str
    sourced: Path | None  # the prefix of the ROS that this shell has sourced; None: ROS comes from wheels

    @property
    def venv_python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        return self.venv / "lib" / "python{}.{}".format(*self.version) / "site-packages"

    def words(self) -> str:
        ros = f"sourced from {self.sourced}" if self.sourced else "from wheels"
        return "Python {}.{}, ROS 2 {} {}".format(*self.version, self.distro.capitalize(), ros)


def make_plan(root: Path, env: Mapping[str, str] = os.environ) -> Plan:
    prefix = sourced_prefix(env)
    if prefix is None:
        return _plan_wheels(root, env)
    distro = env.get("ROS_DISTRO") or prefix.name
    if distro in TOO_OLD:
        raise SetupError(
            f"ROS 2 {distro.capitalize()} is too old, Jazzy or newer is needed: source a newer one, or use a shell "
            f"without it and ROS 2 comes as wheels"
        )
    version = _python_of(prefix)
    _check_version(version, f"the sourced ROS 2 {distro.capitalize()} uses")
    return Plan(root, root / f".venv-{distro}", _interpreter(prefix, version), version, distro, prefix)


def sourced_prefix(env: Mapping[str, str]) -> Path | None:
    """The ROS that this shell has sourced; the environments that `./pi` makes are none."""
    for entry in env.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        prefix = Path(entry)
        if entry and (prefix / "share" / "rclpy" / "package.xml").is_file() and not _is_venv(prefix):
            return prefix
    return None


def _is_venv(prefix: Path) -> bool:
    return (prefix / "pyvenv.cfg").is_file()


def _plan_wheels(root: Path, env: Mapping[str, str]) -> Plan:
    distro = env.get("ROS_DISTRO", "")
    setup = INSTALLS / distro / "setup.sh"
    if distro and setup.is_file():
        raise SetupError(
            f"ROS_DISTRO says {distro}, but that ROS is not sourced here: type `. {setup}` first, or `unset "
            f"ROS_DISTRO` to go on without it"
        )
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise SetupError(
            f"this is {platform.system()} on {platform.machine()}, and the ROS 2 wheels are for Linux on x86_64: "
            f"source a ROS 2 install (Jazzy or newer) and run ./pi again"
        )
    venv = root / ".venv"
    version = _venv_version(venv) or (sys.version_info.major, sys.version_info.minor)
    _check_version(version, "this is")
    # Not sys.executable: where some virtual environment is active, it would be made on that one.
    return Plan(root, venv, getattr(sys, "_base_executable", sys.executable), version, WHEELS, None)


def _venv_version(venv: Path) -> tuple[int, int] | None:
    """The Python of an environment that is there already and still has its interpreter."""
    try:
        found = re.search(r"^version(?:_info)? *= *(\d+)\.(\d+)", (venv / "pyvenv.cfg").read_text(), re.MULTILINE)
    except OSError:
        return None
    return (int(found[1]), int(found[2])) if found and (venv / "bin" / "python").exists() else None


def _check_version(version: tuple[int, int], who: str) -> None:
    if not OLDEST <= version <= NEWEST:
        raise SetupError(
            "{} Python {}.{}, and 3.{} to 3.{} will do: install one of those".format(
                who, *version, OLDEST[1], NEWEST[1]
            )
        )


def _python_of(prefix: Path) -> tuple[int, int]:
    for folder in sorted(prefix.glob("lib/python3.*/*-packages/rclpy"), reverse=True):
        return (3, int(folder.parent.parent.name.removeprefix("python3.")))
    raise SetupError(f"{prefix} names rclpy but has no lib/python3.*/site-packages/rclpy: reinstall ros-*-rclpy")


def _interpreter(prefix: Path, version: tuple[int, int]) -> str:
    """The interpreter that ROS was built for: its own, else the system's; whatever PATH says comes last."""
    name = "python{}.{}".format(*version)
    for candidate in (prefix / "bin" / name, Path("/usr/bin") / name, shutil.which(name)):
        if candidate and os.access(candidate, os.X_OK):
            return str(candidate)
    raise SetupError(f"{prefix} needs {name}, which is not installed: apt-get install {name}")
