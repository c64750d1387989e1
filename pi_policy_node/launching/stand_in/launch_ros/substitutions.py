"""Paths inside packages."""

from __future__ import annotations

from typing import Any

from launch.core import LaunchContext, Substitution, describe, missing, perform

from .packages import find_share

__all__ = ["FindPackageShare"]


class FindPackageShare(Substitution):
    def __init__(self, package: Any) -> None:
        self._package = package

    def perform(self, context: LaunchContext) -> str:
        return str(find_share(perform(context, self._package)))

    def describe(self) -> str:
        return f"FindPackageShare(pkg={describe(self._package)})"


def __getattr__(name: str):
    raise missing(__name__, name)
