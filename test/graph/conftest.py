"""The robots of these tests: one per module, because a start costs seconds."""

from __future__ import annotations

import pytest
from harness import RobotUnderTest, small_robot, tried_again
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


def pytest_pyfunc_call(pyfuncitem):
    """Tests of a robot are tried again where the machine was too short of computing time for it; a fixture that is made
    for one test would not be made again for its next one."""
    made_of = pyfuncitem._fixtureinfo
    used = {name: pyfuncitem.funcargs[name] for name in made_of.argnames}
    found = [part for value in used.values() for part in (value if isinstance(value, tuple) else (value,))]
    robots = [part for part in found if isinstance(part, RobotUnderTest)]
    if not robots or any(defs[-1].scope == "function" for defs in made_of.name2fixturedefs.values()):
        return None  # as usual
    tried_again(lambda: pyfuncitem.obj(**used), robots)
    return True
