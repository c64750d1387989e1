"""What must come from the system, not from pip: a compiler, Python's headers, OpenGL for off-screen rendering."""

from __future__ import annotations

import ctypes
import glob
import os
import shutil
import subprocess
from pathlib import Path

from pi_policy_node.bootstrap import SetupError
from pi_policy_node.bootstrap.plan import Plan
from pi_policy_node.bootstrap.steps import Runner, StepFailed

# Printed by the interpreter that will be used: is its venv module whole, and where would Python.h be?
PROBE = """
import importlib.util, os, sysconfig
print(importlib.util.find_spec("ensurepip") is not None)
print(os.path.isfile(os.path.join(sysconfig.get_paths()["include"], "Python.h")))
print(importlib.util.find_spec("colcon_core") is not None)
"""


def missing_packages(plan: Plan) -> list[str]:
    """The Debian packages that would supply what is missing here; the same names hold on Ubuntu."""
    interpreter = plan.venv_python if plan.venv_python.exists() else plan.python
    probe = subprocess.run([interpreter, "-S", "-c", PROBE], capture_output=True, text=True)
    has_pip, has_headers, has_colcon = [line == "True" for line in probe.stdout.split()] or [False] * 3
    python = "python{}.{}".format(*plan.version)
    wanted = [
        (bool(shutil.which("g++")), "g++"),
        (bool(shutil.which("make")), "make"),
        (has_headers, f"lib{python}-dev"),
        (has_pip or plan.venv_python.exists(), f"{python}-venv"),
        (_loads("libEGL.so.1"), "libegl1"),
        (_loads("libOpenGL.so.0") or _loads("libGL.so.1"), "libopengl0"),
        (_has_gl_driver(), "libgl1-mesa-dri"),
    ]
    if plan.sourced:
        wanted += [(bool(shutil.which("cmake")), "cmake"), (has_colcon, "python3-colcon-common-extensions")]
    return [package for present, package in wanted if not present]


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _has_gl_driver() -> bool:
    """Mesa's software renderer (one library in newer releases, a driver per card in older ones) or NVIDIA's own."""
    folders = ("/usr/lib/*-linux-gnu", "/usr/lib64", "/usr/lib")
    names = ("dri/*_dri.so", "libgallium-*.so", "libEGL_nvidia.so.0")
    return any(glob.glob(f"{folder}/{name}") for folder in folders for name in names)


def install(plan: Plan, runner: Runner) -> None:
    packages = missing_packages(plan)
    if not packages:
        return
    line = "apt-get install -y --no-install-recommends " + " ".join(packages)
    if not shutil.which("apt-get"):
        raise SetupError(f"missing here, under the names that Debian gives them: {' '.join(packages)}; install them")
    prefix = _become_root()
    if prefix is None:
        raise SetupError(f"some system packages are missing; type `sudo {line}` and run ./pi again")
    prefix += ["env", "DEBIAN_FRONTEND=noninteractive"]  # behind sudo, which drops variables
    try:
        runner.run(*prefix, "apt-get", "update", "-q")
    except StepFailed:
        pass  # one broken source among many need not matter; the next command tells
    runner.run(*prefix, *line.split())
    still = missing_packages(plan)
    if still:
        raise SetupError(f"apt-get installed {' '.join(packages)}, yet {' '.join(still)} is not found (log: {runner.log})")


def _become_root() -> list[str] | None:
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        return ["sudo", "-n"]
    return None


def has_nvidia_gpu() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists() or (
        Path("/dev/dxg").exists() and shutil.which("nvidia-smi") is not None
    )
