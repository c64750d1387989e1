"""Checking a controller_manager's parameter file against a robot: the two must agree before anything moves."""

from __future__ import annotations

from pathlib import Path

from pi_policy_node.robot.document import Section, read_document, suggest
from pi_policy_node.robot.model import Group

BASE_TIMEOUT = 0.15  # s: base and arms come to rest together when commands stop
TYPES = {
    "joint_trajectory": ("joint_trajectory_controller/JointTrajectoryController",),
    "position": (
        "forward_command_controller/ForwardCommandController",
        "position_controllers/JointGroupPositionController",
    ),
    "gripper_action": (
        "parallel_gripper_action_controller/GripperActionController",
        "position_controllers/GripperActionController",
    ),
    "twist": (
        "mecanum_drive_controller/MecanumDriveController",
        "omni_wheel_drive_controller/OmniWheelDriveController",
    ),
}


def check_controllers(file: Path, groups: tuple[Group, ...]) -> None:
    """RobotError where a group's controller is missing, of another type, or set so that streaming to it goes wrong.

    Parameters that are no business of ours are left alone: the file belongs to ros2_control.
    """
    document = read_document(file)
    nodes = _nodes(document)
    manager = nodes.get("controller_manager")
    if manager is None:
        raise document.error("controller_manager", "is missing: which controllers are there?")
    for group in groups:
        name = group.controller.name
        if name not in manager:
            near = suggest(name, manager.keys())
            raise manager.error(name, f"is missing, and the group '{group.name}' is commanded through it{near}")
        manager.section(name).text("type", choices=TYPES[group.controller.kind])
        if name not in nodes:
            raise manager.error(name, f"has no parameters in this file: add {name}: ros__parameters: ...")
        _CHECKS[group.controller.kind](nodes[name], group)


def _nodes(section: Section) -> dict[str, Section]:
    """node name -> its ros__parameters, whatever namespaces (/**, /robot/controller_manager) stand above them."""
    found: dict[str, Section] = {}
    for key, inner in section.parts():
        if "ros__parameters" in inner:
            found[key.rsplit("/", 1)[-1]] = inner.section("ros__parameters")
        else:
            found |= _nodes(inner)
    return found


def _check_joint_trajectory(node: Section, group: Group) -> None:
    _check_joints(node, group, ordered=False)
    interfaces = node.words("command_interfaces")
    if interfaces != ["position"]:
        raise node.error("command_interfaces", f"{interfaces} must be [position]")
    for key, right, why in (
        ("interpolate_from_desired_state", True, "a stream goes on from what is commanded, not from what is measured"),
        ("allow_nonzero_velocity_at_trajectory_end", False, "every window ends at rest"),
    ):
        if node.flag(key, False) is not right:
            raise node.error(key, f"must be {str(right).lower()}: {why}")
    if group.kind == "gripper" and "constraints" in node:
        raise node.error("constraints", "must be left out: a gripper that holds something never reaches its command")


def _check_position(node: Section, group: Group) -> None:
    _check_joints(node, group, ordered=True)
    node.text("interface_name", "position", choices=("position",))


def _check_gripper_action(node: Section, group: Group) -> None:
    if node.text("joint") != group.joints[0]:
        raise node.error("joint", f"'{node.text('joint')}' must be '{group.joints[0]}', as in the group '{group.name}'")


def _check_twist(node: Section, group: Group) -> None:
    key = "reference_timeout" if "cmd_vel_timeout" not in node else "cmd_vel_timeout"  # mecanum's name, and omni's
    timeout = node.number(key, low=0.01, unit="s")
    if timeout > BASE_TIMEOUT:
        raise node.error(key, f"{timeout:g} s must be at most {BASE_TIMEOUT}: the base would run on after the arms")


def _check_joints(node: Section, group: Group, *, ordered: bool) -> None:
    joints = node.words("joints")
    same = joints == list(group.joints) if ordered else sorted(joints) == sorted(group.joints)
    if not same:
        where = f"as in the group '{group.name}'" + (", in that order" if ordered else "")
        raise node.error("joints", f"must be [{', '.join(group.joints)}], {where}")


_CHECKS = {
    "joint_trajectory": _check_joint_trajectory,
    "position": _check_position,
    "gripper_action": _check_gripper_action,
    "twist": _check_twist,
}
