"""Where packages and their executables are: the ament prefixes, and our own package wherever it is imported from."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from launch.core import SubstitutionFailure

from pi_policy_node import environment
from pi_policy_node.launching import package_prefix


def find_share(package: str) -> Path:
    if package == environment.PACKAGE:
        return environment.checkout()  # an edit in the checkout needs no rebuild
    prefix = package_prefix(package)
    if prefix is None:
        raise SubstitutionFailure(_not_found(package))
    return prefix / "share" / package


def find_executable(package: str, executable: str) -> list[str]:
    """The command that runs an executable of a package: one path, or Python and a module of ours that is not built."""
    prefix = package_prefix(package)
    path = None if prefix is None else prefix / "lib" / package / executable
    if path is not None and os.access(path, os.X_OK):
        return [str(path)]
    if package == environment.PACKAGE:
        folder = Path(environment.__file__).parent / "nodes"
        if (folder / f"{executable}.py").is_file():
            return [sys.executable, "-m", f"{package}.nodes.{executable}"]
        raise SubstitutionFailure(f"package '{package}' has no executable '{executable}'")
    if path is None:
        raise SubstitutionFailure(_not_found(package))
    raise SubstitutionFailure(f"package '{package}' has no executable '{executable}' in {path.parent}")


def _not_found(package: str) -> str:
    return f"package '{package}' is not installed (it is in no prefix of AMENT_PREFIX_PATH); it comes with ROS 2"
