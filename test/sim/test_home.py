"""At home the hands hide nothing on the table: a policy that begins there sees what it is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from pi_policy_node.robot import load_robot
from pi_policy_node.sim.sight import sees
from pi_policy_node.sim.simulator import Simulator
from pi_policy_node.sim.tasks import KEPT_SEEDS, draw, look
from pi_policy_node.sim.world import KINDS

BEFORE = [0.0, 0.165, 0.362, 0.0, 1.044, 0.0]  # home until 2026-11-30: ahead of the shoulders, 10 cm above the table


@pytest.mark.parametrize("family", ["put", "clear", "stack"])
def test_at_home_the_head_camera_sees_everything_on_the_table(family):
    robot = load_robot("pi_mobile")
    simulator = Simulator(robot, "empty", cameras=())
    before = robot.home.copy()
    for arm in (group for group in robot.groups if group.kind == "arm"):
        before[arm.columns] = BEFORE

    def hidden(row) -> list[bool]:
        """Of each thing of a dozen scenes."""
        found = []
        for seed in range(12):
            simulator.reset(0, draw(family, KEPT_SEEDS + seed).scene)
            simulator.place_robot(row)
            things = look(simulator).things
            points = np.array([thing.position for thing in things.values()])
            reach = np.array([0.5 * KINDS[thing.kind].radius for thing in things.values()])
            bodies = np.array([simulator.physics.body(name) for name in things])
            found += (~sees(simulator.physics, "front_camera", points, reach, bodies)).tolist()
        return found

    assert np.mean(hidden(robot.home)) <= 0.02 and np.mean(hidden(before)) >= 0.1
