"""The controllers' files agree with the robots, and loading a robot says so when they don't."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import yaml

from pi_policy_node.robot import RobotError, load_robot

ROBOTS = ("pi_mobile", "single_arm")


@pytest.mark.parametrize("name", ROBOTS)
def test_every_controller_has_a_group_and_every_group_a_controller(name):
    robot = load_robot(name)
    nodes = yaml.safe_load(robot.controllers_file.read_text())["/**"]
    manager = nodes.pop("controller_manager")["ros__parameters"]
    declared = {key for key, value in manager.items() if isinstance(value, dict)}
    assert declared == {group.controller.name for group in robot.groups} | {"joint_state_broadcaster"}
    for group in robot.groups:
        parameters = nodes.pop(group.controller.name)["ros__parameters"]
        if group.controller.kind != "twist":
            assert tuple(parameters.get("joints", [parameters.get("joint")])) == group.joints
    assert not nodes


def test_the_base_controller_knows_the_wheels_of_the_urdf():
    robot = load_robot()
    root = ElementTree.fromstring(robot.urdf())
    base = yaml.safe_load(robot.controllers_file.read_text())["/**"]["base_controller"]["ros__parameters"]
    wheels = {key[: -len("_command_joint_name")]: value for key, value in base.items() if key.endswith("joint_name")}
    assert len(wheels) == 4
    radius = base["kinematics"]["wheels_radius"]
    reach = base["kinematics"]["sum_of_robot_center_projection_on_X_Y_axis"]
    for corner, joint in wheels.items():
        x, y, z = map(float, root.find(f"joint[@name='{joint}']/origin").get("xyz").split())
        assert (x > 0, y > 0) == ("front" in corner, "left" in corner)
        assert abs(x) + abs(y) == pytest.approx(reach)
        assert z == pytest.approx(radius)
        link = root.find(f"joint[@name='{joint}']/child").get("link")
        assert float(root.find(f"link[@name='{link}']/collision/geometry/cylinder").get("radius")) == radius
        # The wheels can turn as fast as the robot file lets the base move and turn at once.
        fastest = (np.sqrt(2) * robot.base_speed + reach * robot.upper[-1]) / radius
        assert fastest < float(root.find(f"joint[@name='{joint}']/limit").get("velocity"))


def test_the_base_controllers_own_limits_stay_out_of_the_bridges_way():
    robot = load_robot()
    base = yaml.safe_load(robot.controllers_file.read_text())["/**"]["base_controller"]["ros__parameters"]
    axes = (base["linear"]["x"], base["linear"]["y"], base["angular"]["z"])
    for axis, speed, acceleration in zip(axes, robot.upper[-3:], robot.acceleration[-3:]):
        assert axis["max_velocity"] == -axis["min_velocity"] > speed
        assert axis["max_acceleration"] == -axis["max_deceleration"] > acceleration


# (robot, controllers, key that the message names, a part of it, what to change in the controllers' file)
BROKEN = {
    "not declared": (
        "pi_mobile",
        "controller_manager.ros__parameters.lift_controller",
        "did you mean",
        ("      lift_controller:\n", "      lft_controller:\n"),
    ),
    "type": (
        "pi_mobile",
        "left_arm_controller.type",
        "use joint_trajectory_controller/",
        ("left_arm_controller:\n        type: joint_trajectory_controller/", "left_arm_controller:\n        type: "),
    ),
    "no parameters": (
        "pi_mobile",
        "controller_manager.ros__parameters.lift_controller",
        "has no parameters",
        ("  lift_controller:\n    ros__parameters:", "  other:\n    ros__parameters:"),
    ),
    "joints": (
        "pi_mobile",
        "left_arm_controller.ros__parameters.joints",
        "as in the group 'left_arm'",
        ("left_joint5, left_joint6]", "left_joint5]"),
    ),
    "measured": (
        "pi_mobile",
        "left_arm_controller.ros__parameters.interpolate_from_desired_state",
        "must be true",
        ("interpolate_from_desired_state: true", "interpolate_from_desired_state: false"),
    ),
    "never rests": (
        "pi_mobile",
        "left_arm_controller.ros__parameters.allow_nonzero_velocity_at_trajectory_end",
        "must be false",
        ("trajectory_end: false", "trajectory_end: true"),
    ),
    "velocity interface": (
        "pi_mobile",
        "left_arm_controller.ros__parameters.command_interfaces",
        "must be [position]",
        ("command_interfaces: [position]", "command_interfaces: [velocity]"),
    ),
    "gripper gives up": (
        "pi_mobile",
        "left_gripper_controller.ros__parameters.constraints",
        "must be left out",
        ("joints: [left_finger_joint]", "joints: [left_finger_joint]\n      constraints: {goal_time: 0.5}"),
    ),
    "slow timeout": (
        "pi_mobile",
        "base_controller.ros__parameters.reference_timeout",
        "at most 0.15",
        ("reference_timeout: 0.15", "reference_timeout: 0.5"),
    ),
    "no timeout": (
        "pi_mobile",
        "base_controller.ros__parameters.reference_timeout",
        "is missing",
        ("      reference_timeout: 0.15", "      # "),
    ),
    "no manager": ("pi_mobile", "controller_manager", "is missing", ("  controller_manager:", "  manager:")),
    "order": (
        "single_arm",
        "arm_controller.ros__parameters.joints",
        "in that order",
        ("[joint1, joint2,", "[joint2, joint1,"),
    ),
    "interface": (
        "single_arm",
        "arm_controller.ros__parameters.interface_name",
        "use position",
        ("interface_name: position", "interface_name: effort"),
    ),
}
FILES = {"pi_mobile": "controllers.yaml", "single_arm": "single_arm_controllers.yaml"}


@pytest.mark.parametrize("case", BROKEN)
def test_refuses_controllers_that_do_not_fit(edited_controllers, case):
    name, key, words, change = BROKEN[case]
    path = edited_controllers(name, FILES[name], change)
    with pytest.raises(RobotError) as caught:
        load_robot(path)
    error = caught.value
    assert words in str(error) and "\n" not in str(error)
    assert error.key.endswith(key)
    assert error.file == path.with_name("mine.yaml")
    assert error.line is not None or case == "no manager"


@pytest.mark.parametrize("joint", ["finger_joint", "thumb_joint"])
def test_a_gripper_behind_an_action_must_drive_the_finger(action_gripper, edited_controllers, joint):
    ours = "forward_command_controller/ForwardCommandController\n\n"
    theirs = "parallel_gripper_action_controller/GripperActionController\n\n"
    edited_controllers("single_arm", FILES["single_arm"], (ours, theirs), ("joints: [finger_joint]", f"joint: {joint}"))
    action_gripper.write_text(action_gripper.read_text() + "\ncontrollers: mine.yaml\n")
    if joint == "finger_joint":
        assert load_robot(action_gripper).controllers_file.name == "mine.yaml"
    else:
        with pytest.raises(RobotError, match="gripper_controller.*joint: .*must be 'finger_joint'"):
            load_robot(action_gripper)


def test_accepts_other_ways_to_write_the_file(edited_controllers):
    """Namespaced node names, the order of a trajectory's joints, foreign parameters and omni wheels are all fine."""
    path = edited_controllers(
        "pi_mobile",
        "controllers.yaml",
        ("[right_joint1, right_joint2,", "[right_joint2, right_joint1,"),
        ("mecanum_drive_controller/MecanumDriveController", "omni_wheel_drive_controller/OmniWheelDriveController"),
        ("reference_timeout: 0.15", "cmd_vel_timeout: 0.1"),
        ("  lift_controller:\n    ros__parameters:", "  /robot/lift_controller:\n    ros__parameters:\n      mine: 1"),
    )
    assert load_robot(path).name == "pi_mobile"


def test_ros_itself_reads_the_base_controllers_remappings(ros):
    """As the controller_manager does it: a parameter of its own, which becomes the controller's arguments."""
    from geometry_msgs.msg import TwistStamped
    from rclpy.node import Node

    file = load_robot().controllers_file
    manager = Node(
        "controller_manager",
        namespace="robot",
        cli_args=["--ros-args", "--params-file", str(file)],
        automatically_declare_parameters_from_overrides=True,
    )
    arguments = manager.get_parameter("base_controller.node_options_args").value
    assert manager.get_parameter("update_rate").value >= 100
    manager.destroy_node()
    base = Node(
        "base_controller",
        namespace="robot",
        cli_args=[*arguments, "--params-file", str(file)],
        automatically_declare_parameters_from_overrides=True,
    )
    try:
        assert base.get_parameter("reference_timeout").value == 0.15
        assert base.get_parameter("kinematics.wheels_radius").value > 0
        twist = base.create_subscription(TwistStamped, "~/reference", lambda message: None, 1)
        odometry = base.create_publisher(TwistStamped, "~/odometry", 1)
        tf = base.create_publisher(TwistStamped, "~/tf_odometry", 1)
        topics = [twist.topic_name, odometry.topic_name, tf.topic_name]
        assert topics == ["/robot/base_controller/cmd_vel", "/robot/base_controller/odom", "/robot/tf"]
    finally:
        base.destroy_node()
