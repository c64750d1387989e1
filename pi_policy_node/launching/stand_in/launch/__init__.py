"""Stands in for ROS 2's `launch`."""

from .core import LaunchContext, LaunchDescription, Substitution, missing
from .service import LaunchService

__all__ = ["LaunchContext", "LaunchDescription", "LaunchService", "Substitution"]


def __getattr__(name: str):
    raise missing(__name__, name)
