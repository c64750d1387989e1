"""Reading a robot file, and refusing what cannot be right before anything moves."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pi_policy_node.environment import share
from pi_policy_node.robot import urdf
from pi_policy_node.robot.controllers import check_controllers
from pi_policy_node.robot.document import Section, any_of, read_document, suggest
from pi_policy_node.robot.error import RobotError
from pi_policy_node.robot.kinematics import Kinematics
from pi_policy_node.robot.model import Camera, Controller, Gripper, Group, Robot

REST_TIME = 0.3  # s within which every column must be able to brake from full speed
GROUP_KINDS = ("arm", "gripper", "lift", "base")
CONTROLLER_KINDS = {
    "arm": ("joint_trajectory", "position"),
    "gripper": ("joint_trajectory", "position", "gripper_action"),
    "lift": ("joint_trajectory", "position"),
    "base": ("twist",),
}
TOPICS = {
    "joint_trajectory": "joint_trajectory",
    "position": "commands",
    "gripper_action": "gripper_cmd",
    "twist": "cmd_vel",
}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_TOPIC = re.compile(r"[A-Za-z][A-Za-z0-9_]*(/[A-Za-z][A-Za-z0-9_]*)*")


@dataclass(eq=False)
class _Columns:
    """What one group adds to the robot's arrays; every list has one number per column."""

    group: Group
    names: list[str]
    lower: list[float]
    upper: list[float]
    velocity: list[float]
    acceleration: list[float]
    jerk: list[float]
    splice: list[float]
    tracking: list[float]
    home: list[float]


def load_robot(name_or_path: str | Path = "pi_mobile") -> Robot:
    """The robot `config/robots/<name>.yaml`, or the one in a file of one's own; RobotError says what is wrong in it."""
    file = _find(name_or_path)
    top = read_document(file)
    name = top.text("name")
    urdf_file = _find_file(top, "urdf", share("urdf"))
    controllers_file = _find_file(top, "controllers", share("config")) if "controllers" in top else None
    text = urdf.expand(urdf_file)
    tree = urdf.parse(urdf_file, text)
    base_frame = top.text("base_frame", "base_link")
    _check_link(top, "base_frame", base_frame, tree)

    parts = _read_groups(top, tree, base_frame)
    control = top.section("control")
    observation = top.section("observation")
    safety = top.section("safety")
    cameras = tuple(_read_camera(n, section, tree) for n, section in top.sections("cameras").items())
    _check_cameras(top, cameras)
    base_speed = safety.number("base_speed", above=0, high=3, unit="m/s") if _has_base(parts) else math.inf
    workspace = safety.section("workspace")
    corners = np.array([workspace.numbers(key, 3, each="axis", unit="m") for key in ("lower", "upper")])
    for axis in np.flatnonzero(corners[0] >= corners[1]):
        raise workspace.error("lower", f"must be below upper along {'xyz'[axis]}: {corners[0][axis]:g} is not")
    workspace.close()

    dt = control.number("dt", 0.02, low=0.005, high=0.2, unit="s")
    command_hz = control.number("command_hz", 50.0, low=20, high=200, unit="Hz")
    robot = Robot(
        name=name,
        file=file,
        urdf_file=urdf_file,
        controllers_file=controllers_file,
        base_frame=base_frame,
        action_names=tuple(action for part in parts for action in part.names),
        groups=tuple(part.group for part in parts),
        cameras=cameras,
        dt=dt,
        horizon=control.whole("horizon", 50, low=2, high=1000),
        observation_hz=_observation_rate(observation, cameras),
        image_size=_image_size(observation),
        lower=_array(parts, "lower"),
        upper=_array(parts, "upper"),
        velocity=_array(parts, "velocity"),
        acceleration=_array(parts, "acceleration"),
        jerk=_array(parts, "jerk"),
        splice_tolerance=_array(parts, "splice"),
        tracking_tolerance=_array(parts, "tracking"),
        tool_speed=safety.number("tool_speed", above=0, high=2, unit="m/s"),
        workspace=corners,
        base_speed=base_speed,
        max_blind=safety.number("max_blind", 0.8, above=0, high=2, unit="s"),
        window=control.number("window", 0.1, low=max(0.06, 2 / command_hz), high=0.3, unit="s"),
        command_hz=command_hz,
        joint_state_timeout=safety.number("joint_state_timeout", 0.1, low=0.02, high=0.5, unit="s"),
        clock_tolerance=safety.number("clock_tolerance", 0.02, low=0.001, high=0.1, unit="s"),
        heartbeat_timeout=safety.number("heartbeat_timeout", None, low=0.02, high=2, unit="s"),
        home=_array(parts, "home"),
    )
    for section in (control, observation, safety, top):
        section.close()
    if controllers_file:
        check_controllers(controllers_file, robot.groups)
    if robot.max_blind > robot.horizon * dt:
        raise safety.error("max_blind", f"{robot.max_blind:g} s is longer than a chunk: at most {robot.horizon * dt:g}")
    _check_home(top, robot)
    return robot


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path).expanduser()
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        if not path.is_file():
            raise RobotError(path, "", "no such robot file")
        return path.resolve()
    folder = share("config", "robots")
    file = folder / f"{name_or_path}.yaml"
    if not file.is_file():
        known = sorted(found.stem for found in folder.glob("*.yaml"))
        raise RobotError(file, "", f"no robot is called '{name_or_path}'{suggest(str(name_or_path), known)}; "
                                   f"give {any_of(known)}, or the path of a file")  # fmt: skip
    return file


def _find_file(top: Section, key: str, folder: Path) -> Path:
    """Beside the robot file, in the `folder` of ours, or at package://<package>/<path>."""
    value = top.text(key)
    if value.startswith("package://"):
        package, _, rest = value.removeprefix("package://").partition("/")
        places = [urdf.package_folder(top.file, package) / rest]
    else:
        places = [top.file.parent / value, folder / value]
    for place in places:
        if place.is_file():
            return place.resolve()
    raise top.error(key, f"no such file: neither {' nor '.join(str(place.resolve()) for place in places)}")


def _read_groups(top: Section, tree: urdf.Urdf, base_frame: str) -> list[_Columns]:
    parts: list[_Columns] = []
    start = 0
    for name, section in top.sections("groups").items():
        if not _NAME.fullmatch(name):
            raise section.error("", f"'{name}' must be a word of letters, digits and underscores")
        parts.append(_read_group(name, section, tree, base_frame, start))
        start += len(parts[-1].names)
        section.close()
    _check_groups(top, parts)
    return parts


def _read_group(name: str, section: Section, tree: urdf.Urdf, base_frame: str, start: int) -> _Columns:
    kind = section.text("kind", choices=GROUP_KINDS)
    controller = _read_controller(section.section("controller"), kind)
    joints = [] if kind == "base" else _read_joints(section, kind, tree)
    count = len(joints) or 3
    each = "joint" if joints else "component: vx, vy, wz"
    gripper = _read_gripper(section, joints[0], tree) if kind == "gripper" else None
    tool = None
    if kind == "arm":
        tool = section.text("tool")
        _check_link(section, "tool", tool, tree)
        _check_chain(section, tool, joints, tree, base_frame)

    limits = _read_limits(section, kind, joints, gripper, each)
    tolerant = kind in ("gripper", "base")
    splice = section.numbers("splice_tolerance", count, [math.inf] * count if tolerant else None, above=0, each=each) \
        if tolerant else section.numbers("splice_tolerance", count, above=0, each=each)  # fmt: skip
    tracking = [math.inf] * count if tolerant else section.numbers("tracking_tolerance", count, above=0, each=each)
    home = [0.0] * count if kind == "base" else section.numbers("home", count, each=each)
    lower, upper, velocity, acceleration, jerk = limits
    for i, value in enumerate(home):
        if not lower[i] <= value <= upper[i]:
            raise section.error(f"home[{i}]", f"{value:g} is outside {lower[i]:g} to {upper[i]:g}")
    names = {"base": [f"{name}_{c}" for c in ("vx", "vy", "wz")], "arm": [joint.name for joint in joints]}
    group = Group(
        name=name,
        kind=kind,
        columns=slice(start, start + count),
        joints=tuple(joint.name for joint in joints),
        controller=controller,
        gripper=gripper,
        tool=tool,
    )
    return _Columns(
        group, names.get(kind, [name]), lower, upper, velocity, acceleration, jerk, splice, tracking, home
    )


def _read_joints(section: Section, kind: str, tree: urdf.Urdf) -> list[urdf.Joint]:
    names = section.words("joints")
    if kind != "arm" and len(names) != 1:
        raise section.error("joints", f"a {kind} has one (driving) joint, not {len(names)}")
    for name in names:
        joint = tree.joints.get(name)
        if joint is None:
            movable = [other.name for other in tree.joints.values() if other.kind != "fixed"]
            raise section.error("joints", f"the URDF has no joint '{name}'{suggest(name, movable)}")
        if joint.kind == "fixed":
            raise section.error("joints", f"'{name}' is a fixed joint in the URDF: it cannot be commanded")
        if joint.mimic:
            raise section.error("joints", f"'{name}' mimics another joint in the URDF: command '{joint.mimic.joint}'")
    return [tree.joints[name] for name in names]


def _read_controller(section: Section, group_kind: str) -> Controller:
    name = section.text("name")
    kind = section.text("kind", choices=CONTROLLER_KINDS[group_kind])
    topic = _topic(section, "topic", f"{name}/{TOPICS[kind]}")
    # A twist is stamped when it is sent, so that the base's own timeout works; the others are not stamped at all.
    stamp = "absolute" if kind == "twist" else "zero"
    if kind == "joint_trajectory":
        stamp = section.text("stamp", "zero", choices=("zero", "absolute"))
    section.close()
    return Controller(name, kind, topic, stamp)


def _read_gripper(section: Section, joint: urdf.Joint, tree: urdf.Urdf) -> Gripper:
    closed, opened = section.number("closed"), section.number("open")
    if closed == opened:
        raise section.error("open", f"equals closed ({closed:g}): the gripper could not move")
    for key, value in (("closed", closed), ("open", opened)):
        _check_inside(section, key, value, joint)
    followers = {other.name: other for other in tree.joints.values() if other.mimic and other.mimic.joint == joint.name}
    implied = {
        name: tuple(other.mimic.multiplier * value + other.mimic.offset for value in (closed, opened))
        for name, other in followers.items()
    }
    given = section.section("mimic", None)
    if given is None:
        mimic = implied
    else:
        mimic = {name: tuple(given.numbers(name, 2, each="end: closed, open")) for name in given.keys()}
        for name in mimic.keys() - tree.joints.keys():
            raise given.error(name, f"the URDF has no joint '{name}'{suggest(name, tree.joints)}")
        for name, ends in implied.items():
            right = f"[{ends[0]:g}, {ends[1]:g}]"
            if name not in mimic:
                raise section.error("mimic", f"lacks '{name}', which mimics '{joint.name}' in the URDF: {name}: {right}")
            if not np.allclose(mimic[name], ends, atol=1e-6):
                raise given.error(name, f"[{mimic[name][0]:g}, {mimic[name][1]:g}] disagrees with the URDF's <mimic>: {right}")
    for name, ends in mimic.items():
        for end in ends:
            _check_inside(section if given is None else given, "open" if given is None else name, end, tree.joints[name])
    return Gripper(closed, opened, tuple((name, low, high) for name, (low, high) in mimic.items()))


def _read_limits(
    section: Section, kind: str, joints: list[urdf.Joint], gripper: Gripper | None, each: str
) -> tuple[list[float], list[float], list[float], list[float], list[float]]:
    """lower, upper, velocity, acceleration, jerk in the action's units, checked against the URDF and the rest time."""
    count = len(joints) or 3
    fastest = [joint.velocity / abs(gripper.open - gripper.closed if gripper else 1.0) for joint in joints]
    speed = section.numbers("velocity", count, None if joints else ..., above=0, each=each) if joints else \
        section.numbers("velocity", count, above=0, each=each)  # fmt: skip
    if speed is None:
        speed = fastest
    for i, joint in enumerate(joints):
        if not math.isfinite(speed[i]):
            raise section.error("velocity", f"is missing, and the URDF has no velocity limit for '{joint.name}'")
        if speed[i] > fastest[i] * (1 + 1e-9):
            raise section.error(
                f"velocity[{i}]",
                f"{speed[i]:g} is more than the URDF's {joint.velocity:g} for '{joint.name}'"
                + (f": at most {fastest[i]:g} (strokes per second)" if gripper else f": at most {fastest[i]:g}"),
            )
    acceleration = section.numbers("acceleration", count, above=0, each=each)
    jerk = section.numbers("jerk", count, above=0, each=each)
    for i in range(count):
        _check_rest(section, i, speed[i], acceleration[i], jerk[i])
    if gripper:
        return [0.0], [1.0], speed, acceleration, jerk
    if not joints:
        return [-value for value in speed], speed, [math.inf] * 3, acceleration, jerk
    lower = section.numbers("lower", count, [joint.lower for joint in joints], each=each)
    upper = section.numbers("upper", count, [joint.upper for joint in joints], each=each)
    for i, joint in enumerate(joints):
        for key, value in (("lower", lower[i]), ("upper", upper[i])):
            if not math.isfinite(value):
                raise section.error(key, f"is missing, and '{joint.name}' has no end in the URDF")
            _check_inside(section, f"{key}[{i}]", value, joint)
        if lower[i] >= upper[i]:
            raise section.error(f"lower[{i}]", f"{lower[i]:g} must be below upper ({upper[i]:g})")
    return lower, upper, speed, acceleration, jerk


def rest_time(velocity: float, acceleration: float, jerk: float) -> float:
    """Seconds to brake from `velocity` along a cubic that starts and ends without acceleration, within both limits."""
    return max(1.5 * velocity / acceleration, math.sqrt(6 * velocity / jerk))


def _check_rest(section: Section, i: int, velocity: float, acceleration: float, jerk: float) -> None:
    time = rest_time(velocity, acceleration, jerk)
    if time > REST_TIME * (1 + 1e-9):
        slow = min(acceleration * REST_TIME / 1.5, jerk * REST_TIME**2 / 6)
        raise section.error(
            f"velocity[{i}]",
            f"{velocity:g} comes to rest in {time:.2f} s, and {REST_TIME} is the limit: velocity at most {slow:.4g}, or "
            f"acceleration at least {1.5 * velocity / REST_TIME:.4g} and jerk at least {6 * velocity / REST_TIME**2:.4g}",
        )


def _check_inside(section: Section, key: str, value: float, joint: urdf.Joint) -> None:
    if not joint.lower - 1e-9 <= value <= joint.upper + 1e-9:
        raise section.error(
            key, f"{value:g} is outside the URDF's {joint.lower:g} to {joint.upper:g} for '{joint.name}'"
        )


def _check_link(section: Section, key: str, link: str, tree: urdf.Urdf) -> None:
    if link not in tree.links:
        raise section.error(key, f"the URDF has no link '{link}'{suggest(link, tree.links)}")


def _check_chain(section: Section, tool: str, joints: list[urdf.Joint], tree: urdf.Urdf, base_frame: str) -> None:
    """The arm's joints are those that carry its tool, from the base outwards."""
    try:
        order = [joint.name for joint in tree.chain(base_frame, tool)]
    except KeyError:
        raise section.error("tool", f"'{tool}' does not hang on '{base_frame}' in the URDF") from None
    for joint in joints:
        if joint.name not in order:
            raise section.error("joints", f"'{joint.name}' does not move the tool '{tool}' in the URDF")
    names = [joint.name for joint in joints]
    if names != sorted(names, key=order.index):
        right = ", ".join(sorted(names, key=order.index))
        raise section.error("joints", f"must go from the base outwards: [{right}]")


def _check_groups(top: Section, parts: list[_Columns]) -> None:
    seen: dict[str, str] = {}
    for part in parts:
        for what in (part.group.controller.topic, *part.group.joints, *part.names):
            owner = seen.setdefault(what, part.group.name)
            if owner != part.group.name:
                raise top.error(f"groups.{part.group.name}", f"'{what}' belongs to '{owner}' already")
    for kind in ("lift", "base"):
        found = [part.group.name for part in parts if part.group.kind == kind]
        if len(found) > 1:
            raise top.error(f"groups.{found[1]}.kind", f"'{found[0]}' is the {kind} already; a robot has one at most")
    if not any(part.group.kind == "arm" for part in parts):
        raise top.error("groups", "name at least one group of kind arm")


def _has_base(parts: list[_Columns]) -> bool:
    return any(part.group.kind == "base" for part in parts)


def _topic(section: Section, key: str, default: str) -> str:
    topic = section.text(key, default)
    if topic.startswith("/"):
        raise section.error(key, f"'{topic}' must be relative, so that a namespace moves the robot: {topic.lstrip('/')}")
    if not _TOPIC.fullmatch(topic):
        raise section.error(key, f"'{topic}' is no topic name: words of letters, digits and underscores between slashes")
    return topic


def _read_camera(name: str, section: Section, tree: urdf.Urdf) -> Camera:
    if not _NAME.fullmatch(name):
        raise section.error("", f"'{name}' must be a word of letters, digits and underscores")
    transport = section.text("transport", "raw", choices=("raw", "compressed"))
    topic = f"{name}/image_raw" + ("/compressed" if transport == "compressed" else "")
    frame = section.text("frame", f"{name}_optical_frame")
    _check_link(section, "frame", frame, tree)
    camera = Camera(
        name=name,
        topic=_topic(section, "topic", topic),
        transport=transport,
        frame=frame,
        width=section.whole("width", low=16, high=8192),
        height=section.whole("height", low=16, high=8192),
        hz=section.number("hz", low=1, high=240, unit="Hz"),
        required=section.flag("required", True),
        role=section.text("role", name),
        fov=section.number("fov", 1.0, low=0.1, high=2.6, unit="rad"),
    )
    section.close()
    return camera


def _check_cameras(top: Section, cameras: tuple[Camera, ...]) -> None:
    for what in ("topic", "role"):
        seen: dict[str, str] = {}
        for camera in cameras:
            value = getattr(camera, what)
            if value in seen:
                raise top.error(f"cameras.{camera.name}.{what}", f"'{value}' is '{seen[value]}''s already")
            seen[value] = camera.name
    if not any(camera.required for camera in cameras):
        raise top.error("cameras", "at least one must be required: a robot without eyes must not move")


def _observation_rate(section: Section, cameras: tuple[Camera, ...]) -> float:
    hz = section.number("hz", low=1, high=100, unit="Hz")
    for camera in cameras:
        if camera.required and camera.hz < hz:
            raise section.error(
                "hz", f"{hz:g} is more than the required camera '{camera.name}' delivers: at most {camera.hz:g}"
            )
    return hz


def _image_size(section: Section) -> tuple[int, int]:
    height, width = section.numbers("image_size", 2, [224, 224], low=32, high=1024, each="side: height, width")
    if height != int(height) or width != int(width):
        raise section.error("image_size", f"[{height:g}, {width:g}] must be whole pixels")
    return int(height), int(width)


def _array(parts: list[_Columns], what: str) -> np.ndarray:
    array = np.array([value for part in parts for value in getattr(part, what)], dtype=float)
    array.flags.writeable = False
    return array


def _check_home(top: Section, robot: Robot) -> None:
    """The home pose's tools are inside the workspace: else the robot could never go there."""
    for name, tool in Kinematics(robot).tools(robot.home).items():
        low, high = robot.workspace
        if not ((tool >= low) & (tool <= high)).all():
            at = ", ".join(f"{value:.3f}" for value in tool)
            raise top.error(f"groups.{name}.home", f"puts the tool at [{at}], outside safety.workspace")
