"""Inverse kinematics for many rows at once, and poses moved by rotation vectors."""

from __future__ import annotations

import numpy as np
import pytest

from pi_policy_node.robot import Kinematics, load_robot
from pi_policy_node.robot.reach import ReachError, apart, approach, moved, reach, top_down

ROBOT = load_robot("pi_mobile")
KINEMATICS = Kinematics(ROBOT)
ARM = ROBOT.group("left_arm")


def near_home(count: int, spread: float) -> np.ndarray:
    rows = np.tile(ROBOT.home, (count, 1))
    rows[:, ARM.columns] += np.random.default_rng(3).uniform(-spread, spread, (count, 6))
    return rows.clip(ROBOT.lower, ROBOT.upper)


@pytest.mark.parametrize("name", ["pi_mobile", "single_arm"])
def test_tool_motion_is_the_slope_of_tool_poses(name):
    robot = load_robot(name)
    kinematics, step = Kinematics(robot), 1e-6
    q = np.random.default_rng(0).uniform(robot.lower, robot.upper, (5, len(robot.lower)))
    for arm in (group for group in robot.groups if group.kind == "arm"):
        poses, motion = kinematics.tool_motion(arm.name, q)
        np.testing.assert_allclose(poses, kinematics.link_pose(q, arm.tool), atol=1e-12)
        for column in range(q.shape[1]):
            nudge = step * np.eye(q.shape[1])[column]
            ends = [kinematics.link_pose(q + sign * nudge, arm.tool) for sign in (-1, 1)]
            np.testing.assert_allclose(motion[..., column], apart(*ends) / (2 * step), atol=1e-6)


def test_rows_come_to_the_poses_of_others():
    starts, wanted = near_home(40, 0.0), near_home(40, 0.4)
    poses = KINEMATICS.link_pose(wanted, ARM.tool)
    rows = approach(ROBOT, KINEMATICS, ARM, poses, starts, rounds=12)
    error = apart(KINEMATICS.link_pose(rows, ARM.tool), poses)
    assert np.abs(error[:, :3]).max() < 1e-3 and np.abs(error[:, 3:]).max() < 5e-3
    others = np.setdiff1d(np.arange(rows.shape[1]), np.r_[ARM.columns])
    np.testing.assert_array_equal(rows[:, others], starts[:, others])


def test_out_of_reach_it_comes_as_near_as_limits_allow_and_reach_says_so():
    far = top_down((2.0, 0.3, 0.9), 0.0)
    row, = approach(ROBOT, KINEMATICS, ARM, far[None], ROBOT.home[None], rounds=50)
    assert np.isfinite(row).all() and (row >= ROBOT.lower - 1e-9).all() and (row <= ROBOT.upper + 1e-9).all()
    assert KINEMATICS.link_pose(row, ARM.tool)[0, 3] > KINEMATICS.link_pose(ROBOT.home, ARM.tool)[0, 3]
    with pytest.raises(ReachError, match="left_arm does not reach"):
        reach(ROBOT, KINEMATICS, ARM, far, ROBOT.home)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 0.3, 2.0, 3.1])
def test_a_pose_that_is_moved_is_as_far_apart_as_it_was_moved(angle):
    axis = np.array([0.6, -0.64, 0.48])
    by = np.concatenate(([0.1, -0.2, 0.3], angle * axis))
    at = KINEMATICS.link_pose(near_home(3, 0.5), ARM.tool)
    there = moved(at, np.tile(by, (3, 1)))
    np.testing.assert_allclose(apart(at, there), np.tile(by, (3, 1)), atol=1e-9)
    np.testing.assert_allclose(there[:, :3, :3] @ there[:, :3, :3].transpose(0, 2, 1), np.tile(np.eye(3), (3, 1, 1)),
                               atol=1e-12)


def test_a_turn_by_half_has_an_axis():
    at, there = top_down((0.5, 0.1, 0.8), 0.0), top_down((0.5, 0.1, 0.8), np.pi)
    assert np.linalg.norm(apart(at, there)[3:]) == pytest.approx(np.pi, abs=1e-3)
