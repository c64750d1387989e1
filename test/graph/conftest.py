"""The robots of these tests: one per module, because a start costs seconds."""

from __future__ import annotations

import pytest
from harness import RobotUnderTest, small_robot
from lifecycle_msgs.msg import Transition
from player import Player


@pytest.fixture(scope="module")
def robot(ros, tmp_path_factory):
    """All nodes, on a domain of their own."""
    one = RobotUnderTest(small_robot(tmp_path_factory.mktemp("robot")))
    try:
        one.start()
        one.ready()
        yield one
    finally:
        one.close()


@pytest.fixture(scope="module")
def player(robot):
    """A policy made by hand, in the place of the robot's own."""
    robot.lifecycle("policy", Transition.TRANSITION_DEACTIVATE)
    one = Player(robot)
    yield one
    one.end()
