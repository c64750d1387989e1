"""What every test may lean on: a ROS domain of its own, and rclpy on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pi_policy_node.environment import claim_domain, ros_environment, share


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


@pytest.fixture
def action_gripper(tmp_path: Path) -> Path:
    """single_arm, with its gripper behind an action as most real grippers are."""
    text = share("config", "robots", "single_arm.yaml").read_text()
    told = text.replace("{name: gripper_controller, kind: position}", "{name: gripper_controller, kind: gripper_action}")
    told = told.replace("controllers: single_arm_controllers.yaml\n", "")
    assert told.count("gripper_action") == 1 and "controllers:" not in told
    file = tmp_path / "action_gripper.yaml"
    file.write_text(told)
    return file
