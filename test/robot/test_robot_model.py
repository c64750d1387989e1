"""A robot's state from joint_states, and joints from its action."""

from __future__ import annotations

import numpy as np
import pytest

from pi_policy_node.robot import Gripper, RobotError, load_robot


@pytest.fixture(scope="module")
def robot():
    return load_robot()


def test_state_goes_by_name(robot):
    action = np.linspace(0.01, 0.17, 18)
    joints = robot.joints(action)
    assert len(joints) == 12 + 4 + 1  # arms, both fingers of both grippers, lift
    for order in (1, -1):
        names = list(joints)[::order]
        state = robot.state(["front_left_wheel_joint", *names], [9.0, *(joints[n] for n in names)], action[15:])
        np.testing.assert_allclose(state, action, atol=1e-12)


def test_state_accepts_what_a_message_holds(robot):
    import array

    joints = robot.joints(robot.home)
    state = robot.state(list(joints), array.array("d", joints.values()))
    np.testing.assert_allclose(state, robot.home, atol=1e-12)


def test_a_missing_joint_is_named(robot):
    joints = robot.joints(robot.home)
    del joints["left_joint3"]
    del joints["left_joint5"]
    with pytest.raises(RobotError, match="joint_states: lacks left_joint3, left_joint5"):
        robot.state(list(joints), list(joints.values()))
    del joints["left_finger_joint_mirror"]  # mimics: nobody needs it
    with pytest.raises(RobotError, match="left_joint3"):
        robot.state(list(joints), list(joints.values()))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_named(robot, bad):
    joints = robot.joints(robot.home)
    values = dict(joints, right_joint2=bad, left_finger_joint=bad)
    with pytest.raises(RobotError, match="not finite: left_gripper, right_joint2"):
        robot.state(list(values), list(values.values()))
    with pytest.raises(RobotError, match="not finite: base_wz"):
        robot.state(list(joints), list(joints.values()), (0.0, 0.0, bad))


def test_names_and_positions_must_match(robot):
    with pytest.raises(RobotError, match="has 2 names and 1 positions"):
        robot.state(["left_joint1", "left_joint2"], [0.0])


@pytest.mark.parametrize("gripper", [Gripper(0.0, 0.04, ()), Gripper(0.8, 0.0, ()), Gripper(-0.01, 1.3, ())])
def test_gripper_maps_both_ways(gripper):
    assert gripper.position(0.0) == pytest.approx(gripper.closed)
    assert gripper.position(1.0) == pytest.approx(gripper.open)
    for action in (-0.1, 0.0, 0.3, 1.0, 1.2):  # a squeezed finger reads below 0: that is not hidden
        assert gripper.action(gripper.position(action)) == pytest.approx(action)


def test_groups_by_name(robot):
    assert robot.group("lift").columns == slice(14, 15)
    with pytest.raises(KeyError, match="no group 'lft': left_arm"):
        robot.group("lft")
