"""Stands in for ROS 2's `launch_ros`."""

from launch.core import missing


def __getattr__(name: str):
    raise missing(__name__, name)
