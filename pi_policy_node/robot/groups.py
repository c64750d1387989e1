"""The groups of a robot file: which joints, through which controller, within which limits."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from pi_policy_node.robot.document import Section, suggest
from pi_policy_node.robot.model import Controller, Gripper, Group
from pi_policy_node.robot.urdf import Joint, Urdf

REST_TIME = 0.3  # s within which every column must be able to brake from full speed
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
CONTROLLER_KINDS = {  # by the group's kind
    "arm": ("joint_trajectory", "position"),
    "gripper": ("joint_trajectory", "position", "gripper_action"),
    "lift": ("joint_trajectory", "position"),
    "base": ("twist",),
}
TOPICS = {  # below the controller's name
    "joint_trajectory": "joint_trajectory",
    "position": "commands",
    "gripper_action": "gripper_cmd",
    "twist": "cmd_vel",
}
_TOPIC = re.compile(r"[A-Za-z][A-Za-z0-9_]*(/[A-Za-z][A-Za-z0-9_]*)*")


@dataclass(frozen=True)
class Limits:
    """One number per column, in the units of the action."""

    lower: list[float]
    upper: list[float]
    velocity: list[float]
    acceleration: list[float]
    jerk: list[float]


@dataclass(frozen=True)
class Part:
    """A group, and what it adds to the robot's arrays: one number per column."""

    group: Group
    names: list[str]
    limits: Limits
    splice: list[float]
    tracking: list[float]
    home: list[float]


def read_groups(top: Section, tree: Urdf, base_frame: str) -> list[Part]:
    parts: list[Part] = []
    start = 0
    for name, section in top.sections("groups").items():
        if not NAME.fullmatch(name):
            raise section.error("", f"'{name}' must be a word of letters, digits and underscores")
        parts.append(_read_group(name, section, tree, base_frame, start))
        start += len(parts[-1].names)
        section.close()
    _check_together(top, parts)
    return parts


def rest_time(velocity: float, acceleration: float, jerk: float) -> float:
    """Seconds to brake from `velocity` along a cubic that starts and ends without acceleration, within both limits."""
    return max(1.5 * velocity / acceleration, math.sqrt(6 * velocity / jerk))


def read_topic(section: Section, default: str) -> str:
    topic = section.text("topic", default)
    if topic.startswith("/"):
        raise section.error("topic", f"'{topic}' must be relative, for a namespace to move it: {topic.lstrip('/')}")
    if not _TOPIC.fullmatch(topic):
        raise section.error("topic", f"'{topic}' must be words of letters, digits and underscores between slashes")
    return topic


def check_link(section: Section, key: str, link: str, tree: Urdf) -> None:
    if link not in tree.links:
        raise section.error(key, f"the URDF has no link '{link}'{suggest(link, tree.links)}")


def _read_group(name: str, section: Section, tree: Urdf, base_frame: str, start: int) -> Part:
    kind = section.text("kind", choices=tuple(CONTROLLER_KINDS))
    controller = _read_controller(section.section("controller"), kind)
    joints = [] if kind == "base" else _read_joints(section, kind, tree)
    gripper = _read_gripper(section, joints[0], tree) if kind == "gripper" else None
    tool = _read_tool(section, joints, tree, base_frame) if kind == "arm" else None
    limits = _read_base_limits(section) if kind == "base" else _read_joint_limits(section, joints, gripper)
    count, each = len(limits.velocity), _each(joints)
    anything = [math.inf] * count
    # What a gripper holds keeps it from its command, and a base slips: neither has a tracking error.
    free = kind in ("gripper", "base")
    splice = section.numbers("splice_tolerance", count, *([anything] if free else []), above=0, each=each)
    tracking = anything if free else section.numbers("tracking_tolerance", count, above=0, each=each)
    home = [0.0] * count if kind == "base" else section.numbers("home", count, each=each)
    for i, (low, value, high) in enumerate(zip(limits.lower, home, limits.upper)):
        if not low <= value <= high:
            raise section.error(f"home[{i}]", f"{value:g} is outside the limits, {low:g} to {high:g}")
    group = Group(
        name=name,
        kind=kind,
        columns=slice(start, start + count),
        joints=tuple(joint.name for joint in joints),
        controller=controller,
        gripper=gripper,
        tool=tool,
    )
    return Part(group, _column_names(group), limits, splice, tracking, home)


def _column_names(group: Group) -> list[str]:
    if group.kind == "base":
        return [f"{group.name}_{component}" for component in ("vx", "vy", "wz")]
    return list(group.joints) if group.kind == "arm" else [group.name]


def _each(joints: list[Joint]) -> str:
    return "joint" if joints else "component (vx, vy, wz)"


def _read_joints(section: Section, kind: str, tree: Urdf) -> list[Joint]:
    names = section.words("joints")
    if kind != "arm" and len(names) != 1:
        raise section.error("joints", f"must name the one {'driving ' if kind == 'gripper' else ''}joint of a {kind}")
    for name in names:
        joint = tree.joints.get(name)
        if joint is None:
            movable = [other.name for other in tree.joints.values() if other.kind != "fixed"]
            raise section.error("joints", f"the URDF has no joint '{name}'{suggest(name, movable)}")
        if joint.kind == "fixed":
            raise section.error("joints", f"'{name}' is fixed in the URDF, and cannot be commanded")
        if joint.mimic:
            raise section.error("joints", f"'{name}' mimics '{joint.mimic.joint}' in the URDF: name that one")
    return [tree.joints[name] for name in names]


def _read_controller(section: Section, group_kind: str) -> Controller:
    name = section.text("name")
    kind = section.text("kind", choices=CONTROLLER_KINDS[group_kind])
    topic = read_topic(section, f"{name}/{TOPICS[kind]}")
    # A twist is stamped when it is sent, for the base's own timeout; positions and gripper goals carry no stamp.
    stamp = "absolute" if kind == "twist" else "zero"
    if kind == "joint_trajectory":
        stamp = section.text("stamp", stamp, choices=("zero", "absolute"))
    section.close()
    return Controller(name, kind, topic, stamp)


def _read_tool(section: Section, joints: list[Joint], tree: Urdf, base_frame: str) -> str:
    """The joints must be those that carry the tool, from the base outwards."""
    tool = section.text("tool")
    check_link(section, "tool", tool, tree)
    try:
        order = [joint.name for joint in tree.chain(base_frame, tool)]
    except KeyError:
        raise section.error("tool", f"'{tool}' does not hang on '{base_frame}' in the URDF") from None
    names = [joint.name for joint in joints]
    for name in names:
        if name not in order:
            raise section.error("joints", f"'{name}' does not move the tool '{tool}' in the URDF")
    right = sorted(names, key=order.index)
    if names != right:
        raise section.error("joints", f"must go from the base outwards: [{', '.join(right)}]")
    return tool


def _read_gripper(section: Section, joint: Joint, tree: Urdf) -> Gripper:
    ends = (section.number("closed"), section.number("open"))
    if ends[0] == ends[1]:
        raise section.error("open", f"equals closed ({ends[0]:g}): the gripper could not move")
    for key, value in zip(("closed", "open"), ends):
        _check_inside(section, key, value, joint)
    implied = {
        other.name: tuple(other.mimic.multiplier * value + other.mimic.offset for value in ends)
        for other in tree.joints.values()
        if other.mimic and other.mimic.joint == joint.name
    }
    mimic = _read_mimic(section.section("mimic"), implied, tree) if "mimic" in section else implied
    for name, (closed, opened) in mimic.items():
        for value in (closed, opened):
            _check_inside(section, "mimic", value, tree.joints[name])
    return Gripper(*ends, tuple((name, closed, opened) for name, (closed, opened) in mimic.items()))


def _read_mimic(section: Section, implied: dict[str, tuple], tree: Urdf) -> dict[str, tuple]:
    given = {name: tuple(section.numbers(name, 2, each="end: closed, open")) for name in section.keys()}
    for name in given:
        if name not in tree.joints:
            raise section.error(name, f"the URDF has no joint '{name}'{suggest(name, tree.joints)}")
    for name, ends in implied.items():
        right = f"[{ends[0]:g}, {ends[1]:g}]"
        if name not in given:
            raise section.error(name, f"is missing, and mimics the driving joint in the URDF: {right}")
        if not np.allclose(given[name], ends, atol=1e-6):
            wrong = f"[{given[name][0]:g}, {given[name][1]:g}]"
            raise section.error(name, f"{wrong} must be {right}, as the URDF's <mimic> has it")
    return given


def _read_base_limits(section: Section) -> Limits:
    velocity, acceleration, jerk = (
        section.numbers(key, 3, above=0, each=_each([])) for key in ("velocity", "acceleration", "jerk")
    )
    _check_rest(section, velocity, acceleration, jerk)
    # The columns are velocities themselves: their range is the speed, and they are free to take any velocity.
    return Limits([-value for value in velocity], velocity, [math.inf] * 3, acceleration, jerk)


def _read_joint_limits(section: Section, joints: list[Joint], gripper: Gripper | None) -> Limits:
    count = len(joints)
    stroke = abs(gripper.open - gripper.closed) if gripper else 1.0
    velocity = section.numbers("velocity", count, [joint.velocity / stroke for joint in joints], above=0, each="joint")
    for i, joint in enumerate(joints):
        fastest = joint.velocity / stroke
        if "velocity" not in section and not 0 < fastest < math.inf:
            raise section.error("velocity", f"is missing, and '{joint.name}' has no velocity limit in the URDF")
        if velocity[i] > fastest * (1 + 1e-9):
            per = " strokes per second" if gripper else ""
            limit = f"the URDF's {joint.velocity:g} for '{joint.name}'"
            raise section.error(f"velocity[{i}]", f"{velocity[i]:g} is more than {limit}: at most {fastest:.6g}{per}")
    acceleration = section.numbers("acceleration", count, above=0, each="joint")
    jerk = section.numbers("jerk", count, above=0, each="joint")
    _check_rest(section, velocity, acceleration, jerk)
    if gripper:
        return Limits([0.0], [1.0], velocity, acceleration, jerk)
    lower = section.numbers("lower", count, [joint.lower for joint in joints], each="joint")
    upper = section.numbers("upper", count, [joint.upper for joint in joints], each="joint")
    for i, joint in enumerate(joints):
        for key, value in (("lower", lower[i]), ("upper", upper[i])):
            if not math.isfinite(value):
                raise section.error(key, f"is missing, and '{joint.name}' has no end in the URDF")
            _check_inside(section, f"{key}[{i}]", value, joint)
        if lower[i] >= upper[i]:
            raise section.error(f"lower[{i}]", f"{lower[i]:g} must be below upper ({upper[i]:g})")
    return Limits(lower, upper, velocity, acceleration, jerk)


def _check_rest(section: Section, velocity: list[float], acceleration: list[float], jerk: list[float]) -> None:
    for i, (v, a, j) in enumerate(zip(velocity, acceleration, jerk)):
        time = rest_time(v, a, j)
        if time > REST_TIME * (1 + 1e-9):
            raise section.error(
                f"velocity[{i}]",
                f"{v:g} comes to rest in {time:.2f} s; {REST_TIME} is the limit: velocity at most "
                f"{min(a * REST_TIME / 1.5, j * REST_TIME**2 / 6):.4g}, or acceleration at least "
                f"{1.5 * v / REST_TIME:.4g} and jerk at least {6 * v / REST_TIME**2:.4g}",
            )


def _check_inside(section: Section, key: str, value: float, joint: Joint) -> None:
    if not joint.lower - 1e-9 <= value <= joint.upper + 1e-9:
        ends = f"{joint.lower:g} to {joint.upper:g}"
        raise section.error(key, f"{value:g} is outside the URDF's {ends} for '{joint.name}'")


def _check_together(top: Section, parts: list[Part]) -> None:
    owner: dict[str, str] = {}
    kinds: dict[str, str] = {}
    for part in parts:
        group = part.group
        for what in (group.controller.name, group.controller.topic, *group.joints, *part.names):
            if owner.setdefault(what, group.name) != group.name:
                raise top.error(f"groups.{group.name}", f"'{what}' belongs to the group '{owner[what]}' already")
        if group.kind in ("lift", "base") and kinds.setdefault(group.kind, group.name) != group.name:
            first = kinds[group.kind]
            raise top.error(f"groups.{group.name}.kind", f"'{first}' is the {group.kind} already; one at most")
    if not any(part.group.kind == "arm" for part in parts):
        raise top.error("groups", "must have at least one of kind arm")
