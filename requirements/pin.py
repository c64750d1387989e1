"""Write base.txt, numpy1.txt, build.txt and ros.txt anew: `python requirements/pin.py FOLDER_OF_PYTHONS`.

What we ask for stands here; the files hold what pip made of it for each Python, and the ROS wheels with their hashes.
FOLDER_OF_PYTHONS holds bin/python3.10 … somewhere below (pyenv's versions/ does). What needs building from source
can't be asked about for a Python that isn't there; such a one gets the answer for the next older.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
PLATFORMS = tuple(
    f"manylinux{name}_x86_64" for name in (*(f"_2_{minor}" for minor in range(28, 4, -1)), "2014", "2010", "1")
)

BASE = (
    "torch==2.13.0",
    "numpy", "opencv-python-headless", "pillow", "pyyaml", "xacro", "mujoco",
    "safetensors", "sentencepiece", "websockets", "msgpack",
    "pytest", "hypothesis",
    "setuptools<80",  # colcon's --symlink-install wants `setup.py develop`, which later ones dropped
)
NUMPY1 = (*BASE, "numpy<2")
BUILD = ("colcon-common-extensions", "cmake<4", "empy>=4", "lark-parser", "catkin-pkg", "setuptools<80")
ROS = (
    "ros-kilted-rclpy[fastrtps]", "ros-kilted-common-interfaces", "ros-kilted-lifecycle-msgs",
    "ros-kilted-rosidl-default-generators", "ros-kilted-rosidl-default-runtime",
    "ros-kilted-rosidl-core-generators", "ros-kilted-rosidl-core-runtime",
    "ros-kilted-ament-cmake", "ros-kilted-ament-package", "ros-kilted-ament-cmake-include-directories",
    "ros-kilted-ament-cmake-gtest", "ros-kilted-ament-cmake-gmock", "ros-kilted-ament-cmake-pytest",
    "ros-kilted-ament-cmake-ros", "ros-kilted-ament-cmake-ros-core", "ros-kilted-ament-cmake-vendor-package",
    "ros-python-cmake-module",
)
# What only the CUDA build of torch needs comes with that build, not from here.
WITH_TORCH = re.compile(r"(nvidia|cuda|triton)($|-)")


Pins = dict[str, tuple[str, str]]  # name -> (version, sha256)


def resolve(python: str, wanted: tuple[str, ...], pythons: Path, *options: str) -> Pins:
    """Everything pip would install for this Python into an empty environment."""
    found = sorted(pythons.glob(f"*/bin/python{python}"))
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = [*options, "--quiet", "--dry-run", "--ignore-installed", "--report", str(report)]
        if not found:
            options += ["--python-version", python, "--only-binary=:all:", "--target", folder]
            options += [word for platform in PLATFORMS for word in ("--platform", platform)]
        interpreter = ["--python", str(found[0])] if found else []
        subprocess.run([sys.executable, "-m", "pip", *interpreter, "install", *options, *wanted], check=True)
        installs = json.loads(report.read_text())["install"]
    answer = {}
    for item in installs:
        name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
        if not WITH_TORCH.match(name):
            version = item["metadata"]["version"].split("+")[0]  # whichever build of torch pip finds
            answer[name] = (version, item["download_info"]["archive_info"]["hashes"]["sha256"])
    return answer


def pins(by_python: dict[str, Pins]) -> list[str]:
    """One line per package and version, marked with the Pythons it is for where they differ."""
    lines = []
    for name in sorted({name for found in by_python.values() for name in found}):
        versions = defaultdict(list)
        for python, found in by_python.items():
            if name in found:
                versions[found[name][0]].append(python)
        for version, members in versions.items():
            mark = "" if len(members) == len(by_python) else " ; " + " or ".join(
                f'python_version == "{member}"' for member in members
            )
            lines.append(f"{name}=={version}{mark}")
    return lines


def hashed(by_python: dict[str, Pins]) -> list[str]:
    """The ROS wheels: the same versions for every Python, each with the hash of each Python's wheel."""
    lines = []
    for name in sorted({name for found in by_python.values() for name in found if name.startswith("ros-")}):
        versions = {found[name][0] for found in by_python.values()}
        if len(versions) != 1:
            raise SystemExit(f"{name} differs between Pythons: {versions}")
        hashes = sorted({found[name][1] for found in by_python.values()})
        lines.append(" \\\n".join([f"{name}=={versions.pop()}", *(f"    --hash=sha256:{value}" for value in hashes)]))
    return lines


def main(pythons: Path) -> None:
    for name, wanted, render, title in (
        ("ros.txt", ROS, hashed, "ROS 2 Kilted as wheels for CPython 3.10-3.14 on x86_64, by a third party; no deps"),
        ("build.txt", BUILD, pins, "what builds pi_msgs on those wheels"),
        ("base.txt", BASE, pins, "what the project runs and tests with"),
        ("numpy1.txt", NUMPY1, pins, "the same beside a ROS whose cv_bridge was built for NumPy 1"),
    ):
        chosen = [p for p in PYTHONS if name != "numpy1.txt" or p in ("3.10", "3.11", "3.12")]
        by_python: dict[str, Pins] = {}
        for python in chosen:
            if list(pythons.glob(f"*/bin/python{python}")) or render is pins and wanted is not BUILD:
                by_python[python] = resolve(python, wanted, pythons)
            else:
                older = by_python[PYTHONS[PYTHONS.index(python) - 1]]
                same = tuple(f"{pin}=={version}" for pin, (version, _) in older.items() if pin.startswith("ros-"))
                by_python[python] = resolve(python, same, pythons, "--no-deps") if same else older
        text = "\n".join([f"# {title}. Written by requirements/pin.py.", *render(by_python), ""])
        (HERE / name).write_text(text)
        print(f"{name}: {len(text.splitlines())} lines")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) == 2 else sys.exit(__doc__))
