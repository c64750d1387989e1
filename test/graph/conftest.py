"""The robots of these tests: one per module, because a start costs seconds."""

from __future__ import annotations

import pytest
from harness import RobotUnderTest, small_robot


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
