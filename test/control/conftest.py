from __future__ import annotations

import pytest

from pi_policy_node.robot import Robot, load_robot


@pytest.fixture(scope="session")
def pi_mobile() -> Robot:
    return load_robot("pi_mobile")
