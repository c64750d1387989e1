"""The steps of set-up, from a folder without anything to one where every verb runs."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

from pi_policy_node.bootstrap import SetupError, system
from pi_policy_node.bootstrap.plan import Plan
from pi_policy_node.bootstrap.steps import Runner, Step, StepFailed, digest
from pi_policy_node.environment import PACKAGE, ros_environment

TORCH = "2.13.0"
CUDA_TORCH_GB = 6.5  # the CUDA build of torch with its libraries, downloaded and unpacked

COLCON = "import sys; from colcon_core.command import main; sys.exit(main())"
# What the wheels' exported cmake files say about the machine that built them.
STALE_INCLUDE = re.compile(r"/opt/python/cp3\d+-cp3\d+t?/include/python3\.\d+t?")
STALE_PACKAGES = re.compile(r"/opt/python/cp3\d+-cp3\d+t?/lib/python3\.\d+t?/site-packages")


def steps(plan: Plan) -> list[Step]:
    requirements = plan.root / "requirements"
    # The virtual environment holds absolute paths, and modules for one version of Python.
    place = digest(plan.venv, plan.version, plan.sourced)
    ros = digest(place, files=(requirements / "ros.txt", requirements / "build.txt"))
    packages = digest(place, files=[requirements / f"{name}.txt" for name in ("base", "numpy1", "test")])
    messages = [path for path in _files(plan.root / "pi_msgs") if path.suffix != ".rst"]
    pi_msgs = digest(ros, *messages, files=messages)
    metadata = [plan.root / name for name in ("package.xml", "setup.py", "setup.cfg")]
    shared = [path for folder in ("launch", "config", "urdf", "rviz") for path in _files(plan.root / folder)]
    package = digest(place, *shared, files=metadata)  # they are linked, so that their contents don't matter
    found = [
        Step("system", "compiler and OpenGL", digest(place, files=[Path(system.__file__)]),
             lambda runner: system.install(plan, runner), disk=0.4),
        Step("venv", f"virtual environment in {plan.venv.name}", place, lambda runner: _venv(plan, runner)),
        Step("torch", f"torch {TORCH}", digest(place, TORCH), lambda runner: _torch(plan, runner), disk=1.5),
        Step("packages", "MuJoCo, OpenCV and other Python packages", packages, lambda runner: _packages(plan, runner),
             disk=1.0),
        Step("ros", "ROS 2 Kilted and colcon, as wheels", ros, lambda runner: _ros(plan, runner), disk=0.4),
        Step("pi_msgs", "building pi_msgs", pi_msgs, lambda runner: _build(plan, runner, "pi_msgs"), disk=0.1),
        Step(PACKAGE, f"building {PACKAGE}", package,
             lambda runner: _build(plan, runner, PACKAGE, "--symlink-install")),
    ]
    return [step for step in found if step.name != "ros" or plan.sourced is None]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def check_disk(plan: Plan, missing: list[Step]) -> None:
    require_disk(plan, 0.2 + sum(step.disk for step in missing))


def require_disk(plan: Plan, needed: float) -> None:
    free = shutil.disk_usage(plan.root).free / 1e9
    if free < needed:
        raise SetupError(f"not enough disk: set-up needs {needed:.1f} GB in {plan.root}, and {free:.1f} GB are free")


def _venv(plan: Plan, runner: Runner) -> None:
    if not _adoptable(plan):
        options = ["--system-site-packages"] if plan.sourced else []
        runner.run(plan.python, "-m", "venv", "--clear", *options, plan.venv)
    (plan.venv / "COLCON_IGNORE").touch()
    (plan.venv / "colcon").mkdir(exist_ok=True)


def _adoptable(plan: Plan) -> bool:
    """Whether an environment lies there that was made for this place, whoever made it, with a pip that works."""
    activate = plan.venv / "bin" / "activate"
    if not activate.is_file() or str(plan.venv) not in activate.read_text(errors="replace"):
        return False
    answer = subprocess.run([plan.venv_python, "-m", "pip", "--version"], capture_output=True)
    return answer.returncode == 0


def _pip(plan: Plan, runner: Runner, *arguments: object) -> None:
    # A wheel that was being unpacked when a run was interrupted looks installed, but pip signs it only at the end.
    for folder in plan.site_packages.glob("*.dist-info"):
        if not (folder / "INSTALLER").exists():
            shutil.rmtree(folder)
    env = {name: value for name, value in runner.env.items() if name not in ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET")}
    env.update(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1", PIP_REQUIRE_VIRTUALENV="1",
               _ROS_WHEELS_BOOTSTRAP_COMPLETE="1")
    runner.run(plan.venv_python, "-m", "pip", "install", "--no-warn-conflicts", *arguments, env=env)


def _torch(plan: Plan, runner: Runner) -> None:
    """The CPU build where pip can have it and there is no GPU; the default build otherwise."""
    if platform.machine() == "x86_64" and not system.has_nvidia_gpu():
        try:
            return _pip(plan, runner, f"torch=={TORCH}+cpu", "--no-deps")  # the next step brings them
        except StepFailed as error:
            if "No matching distribution found for torch" not in error.reason:
                raise
        require_disk(plan, CUDA_TORCH_GB)
        runner.note(
            "no GPU here, but pip finds only the CUDA build of torch: 4 GB more on disk and minutes more to download; "
            "with PyTorch's CPU wheels in PIP_FIND_LINKS this run would take those"
        )
    _pip(plan, runner, f"torch=={TORCH}", "-c", _pins(plan))


def _packages(plan: Plan, runner: Runner) -> None:
    _pip(plan, runner, "-r", _pins(plan))
    _pip(plan, runner, "--no-deps", "--require-hashes", "-r", plan.root / "requirements" / "test.txt")


def _pins(plan: Plan) -> Path:
    """The pinned versions; beside a ROS whose Python packages were built for NumPy 1, those that go with it."""
    numpy = ""
    if plan.sourced:
        probe = [plan.python, "-c", "import numpy; print(numpy.__version__)"]
        numpy = subprocess.run(probe, capture_output=True, text=True).stdout
    return plan.root / "requirements" / ("numpy1.txt" if numpy.startswith("1.") else "base.txt")


def _ros(plan: Plan, runner: Runner) -> None:
    requirements = plan.root / "requirements"
    _pip(plan, runner, "--no-deps", "--require-hashes", "-r", requirements / "ros.txt")
    _pip(plan, runner, "-r", requirements / "build.txt", "-c", requirements / "base.txt")
    include = subprocess.run(
        [plan.venv_python, "-S", "-c", "import sysconfig; print(sysconfig.get_paths()['include'])"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()
    repair_cmake(plan.venv / "share", include=include, packages=str(plan.site_packages))


def repair_cmake(share: Path, *, include: str, packages: str) -> int:
    """Put this Python's folders where the wheels' cmake files name their build machine's; how many files changed."""
    changed = 0
    for path in share.rglob("*.cmake"):
        before = path.read_text(encoding="utf-8")
        after = STALE_PACKAGES.sub(packages, STALE_INCLUDE.sub(include, before))
        if after != before:
            path.write_text(after, encoding="utf-8")
            changed += 1
    return changed


def _build(plan: Plan, runner: Runner, package: str, *options: str) -> None:
    base = plan.venv / "colcon"
    runner.run(
        plan.venv_python, "-c", COLCON, "--log-base", base / "log", "build",
        "--base-paths", plan.root, plan.root / "pi_msgs", "--packages-select", package,
        "--build-base", base / "build", "--install-base", base / "install", "--merge-install", *options,
        "--event-handlers", "console_direct+", "--cmake-args", f"-DPython3_EXECUTABLE={plan.venv_python}",
        f"-DPYTHON_EXECUTABLE={plan.venv_python}", "-DBUILD_TESTING=OFF",
        env=ros_environment(venv=plan.venv, base=runner.env, local=False), cwd=plan.root,
    )
