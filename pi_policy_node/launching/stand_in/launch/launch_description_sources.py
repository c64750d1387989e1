"""Where launch descriptions come from: Python files with a function `generate_launch_description`."""

from __future__ import annotations

import os
import runpy
from typing import Any

from .core import LaunchContext, LaunchDescription, SubstitutionFailure, missing, perform

__all__ = ["PythonLaunchDescriptionSource"]


class PythonLaunchDescriptionSource:
    def __init__(self, launch_file_path: Any) -> None:
        self._path = launch_file_path

    def get_launch_description(self, context: LaunchContext) -> LaunchDescription:
        path = os.path.abspath(perform(context, self._path))
        if not os.path.isfile(path):
            raise SubstitutionFailure(f"launch file {path} does not exist")
        generate = runpy.run_path(path).get("generate_launch_description")
        if generate is None:
            raise SubstitutionFailure(f"launch file {path} has no function generate_launch_description()")
        return generate()

    def try_get_launch_description_without_context(self) -> LaunchDescription | None:
        """None where the path depends on arguments."""
        try:
            return self.get_launch_description(LaunchContext())
        except SubstitutionFailure:
            return None


def __getattr__(name: str):
    raise missing(__name__, name)
