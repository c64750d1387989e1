"""What hands that sweep over the table do to what stands there."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pi_policy_node.robot import load_robot
from pi_policy_node.sim.expert import Expert
from pi_policy_node.sim.scene import sample
from pi_policy_node.sim.simulator import Simulator
from pi_policy_node.sim.tasks.view import TOP

ROBOT = load_robot("pi_mobile")


@pytest.fixture(scope="module")
def sim():
    return Simulator(ROBOT, "empty", cameras=())


@pytest.mark.parametrize("seed", [1, 3, 7, 8])
def test_hands_that_sweep_over_the_table_throw_nothing(sim, seed):
    """With another solver a finger that touched a thing threw it at 20 m/s and more, or the world came apart."""
    sim.steps = 0
    sim.reset(seed, sample("clutter", seed))
    rng, arms, row = np.random.default_rng(seed), Expert(ROBOT).arms.values(), ROBOT.home.copy()
    at = {arm.name: arm.home for arm in arms}
    goal, fastest = dict(at), 0.0
    for n in range(400):
        for arm in arms:
            if n % 40 == 0:
                side = math.copysign(1, arm.home[1])
                goal[arm.name] = np.array([rng.uniform(0.38, 0.62), side * rng.uniform(0.02, 0.35),
                                           TOP + rng.uniform(0.012, 0.05)])
            way = goal[arm.name] - at[arm.name]
            at[arm.name] = at[arm.name] + way * min(1.0, 0.25 * ROBOT.dt / max(float(np.linalg.norm(way)), 1e-9))
            yaw = arm.natural_yaw(at[arm.name]) + 0.5 * math.sin(n / 15)
            row[arm.columns] = arm.joints(arm.nearest(at[arm.name], arm.home_lift), yaw, arm.home_lift)
            row[arm.hand] = 0.5 + 0.45 * math.sin(n / 11)
        sim.step(row)
        fastest = max(fastest, *(float(np.linalg.norm(thing.velocity)) for thing in sim.objects().values()))
    assert fastest < 5.0
