"""What every test may lean on: a ROS domain of its own, and rclpy on it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pi_policy_node.environment import claim_domain, ros_environment


@pytest.fixture(scope="module")
def domain() -> Iterator[int]:
    """A ROS domain for this module's tests and for the processes they start; os.environ says so meanwhile."""
    before = dict(os.environ)
    with claim_domain() as claimed:
        os.environ.update(ros_environment(domain=claimed.id))
        yield claimed.id
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def ros(domain: int) -> Iterator[object]:
    """rclpy, initialised on the module's domain; the value is its default context."""
    import rclpy

    rclpy.init(args=[], domain_id=domain)
    yield rclpy.get_default_context()
    rclpy.try_shutdown()
