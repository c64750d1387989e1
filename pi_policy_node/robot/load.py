"""Reading a robot file, and refusing what cannot be right before anything moves."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from pi_policy_node.environment import share
from pi_policy_node.robot import urdf
from pi_policy_node.robot.controllers import check_controllers
from pi_policy_node.robot.document import Section, any_of, read_document, suggest
from pi_policy_node.robot.error import RobotError
from pi_policy_node.robot.groups import NAME, Part, check_link, read_groups, read_topic
from pi_policy_node.robot.kinematics import Kinematics
from pi_policy_node.robot.model import Camera, Robot


def load_robot(name_or_path: str | Path = "pi_mobile") -> Robot:
    """The robot `config/robots/<name>.yaml`, or the one in a file of one's own; RobotError says what is wrong in it."""
    top = read_document(_find(name_or_path))
    name = top.text("name")
    urdf_file = _find_file(top, "urdf", share("urdf"))
    controllers_file = _find_file(top, "controllers", share("config")) if "controllers" in top else None
    tree = urdf.parse(urdf_file, urdf.expand(urdf_file))
    base_frame = top.text("base_frame", "base_link")
    check_link(top, "base_frame", base_frame, tree)
    parts = read_groups(top, tree, base_frame)
    cameras = _read_cameras(top, tree)
    robot = Robot(
        name=name,
        file=top.file,
        urdf_file=urdf_file,
        controllers_file=controllers_file,
        base_frame=base_frame,
        action_names=tuple(column for part in parts for column in part.names),
        groups=tuple(part.group for part in parts),
        cameras=cameras,
        **_read_control(top.section("control", optional=True)),
        **_read_observation(top.section("observation"), cameras),
        **_read_safety(top.section("safety"), parts),
        **{key: _row(parts, key) for key in ("lower", "upper", "velocity", "acceleration", "jerk")},
        splice_tolerance=_array([value for part in parts for value in part.splice]),
        tracking_tolerance=_array([value for part in parts for value in part.tracking]),
        home=_array([value for part in parts for value in part.home]),
    )
    top.close()
    _check_whole(top, robot)
    if controllers_file:
        check_controllers(controllers_file, robot.groups)
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
        near = suggest(str(name_or_path), known)
        raise RobotError(file, "", f"no such robot{near}; give {any_of(known)}, or the path of a file of yours")
    return file


def _find_file(top: Section, key: str, folder: Path) -> Path:
    """Beside the robot file, in the `folder` of ours, or at package://<package>/<path>."""
    value = top.text(key)
    if value.startswith("package://"):
        package, _, rest = value[len("package://") :].partition("/")
        try:
            places = [urdf.package_folder(package) / rest]
        except LookupError as error:
            raise top.error(key, str(error)) from None
    else:
        places = [top.file.parent / value, folder / value]
    for place in places:
        if place.is_file():
            return place.resolve()
    tried = " nor ".join(str(place.resolve()) for place in places)
    raise top.error(key, f"no such file: {'neither ' if len(places) > 1 else ''}{tried}")


def _read_control(section: Section) -> dict:
    command_hz = section.number("command_hz", 50.0, low=20, high=200, unit="Hz")
    control = {
        "dt": section.number("dt", 0.02, low=0.005, high=0.2, unit="s"),
        "horizon": section.whole("horizon", 50, low=2, high=1000),
        "command_hz": command_hz,
        # A window outlives the next one's lateness; a longer one only delays what a hold can undo.
        "window": section.number("window", 0.1, low=max(0.06, 2 / command_hz), high=0.3, unit="s"),
    }
    section.close()
    return control


def _read_observation(section: Section, cameras: tuple[Camera, ...]) -> dict:
    hz = section.number("hz", low=1, high=100, unit="Hz")
    for camera in cameras:
        if camera.required and camera.hz < hz:
            raise section.error("hz", f"{hz:g} must be at most {camera.hz:g}, the rate of '{camera.name}'")
    size = section.numbers("image_size", 2, [224, 224], low=32, high=1024, each="side: height, width")
    if any(side != int(side) for side in size):
        raise section.error("image_size", f"[{size[0]:g}, {size[1]:g}] must be whole pixels")
    section.close()
    return {"observation_hz": hz, "image_size": (int(size[0]), int(size[1]))}


def _read_safety(section: Section, parts: list[Part]) -> dict:
    has_base = any(part.group.kind == "base" for part in parts)
    box = section.section("workspace")
    corners = _array([box.numbers(key, 3, each="axis: x, y, z", unit="m") for key in ("lower", "upper")])
    for low, high, axis in zip(*corners, "xyz"):
        if low >= high:
            raise box.error("lower", f"{low:g} must be below upper ({high:g}) along {axis}")
    box.close()
    safety = {
        "workspace": corners,
        "tool_speed": section.number("tool_speed", above=0, high=2, unit="m/s"),
        "base_speed": section.number("base_speed", above=0, high=3, unit="m/s") if has_base else math.inf,
        "max_blind": section.number("max_blind", 0.8, above=0, high=2, unit="s"),
        "joint_state_timeout": section.number("joint_state_timeout", 0.2, low=0.02, high=0.5, unit="s"),
        "clock_tolerance": section.number("clock_tolerance", 0.02, low=0.001, high=0.1, unit="s"),
        "heartbeat_timeout": section.number("heartbeat_timeout", None, low=0.02, high=2, unit="s"),
    }
    section.close()
    return safety


def _read_cameras(top: Section, tree: urdf.Urdf) -> tuple[Camera, ...]:
    cameras = tuple(_read_camera(name, section, tree) for name, section in top.sections("cameras").items())
    for what in ("topic", "role"):
        owner: dict[str, str] = {}
        for camera in cameras:
            value = getattr(camera, what)
            if owner.setdefault(value, camera.name) != camera.name:
                raise top.error(f"cameras.{camera.name}.{what}", f"'{value}' is that of '{owner[value]}' already")
    if not any(camera.required for camera in cameras):
        raise top.error("cameras", "at least one must be required: a robot without eyes must not move")
    return cameras


def _read_camera(name: str, section: Section, tree: urdf.Urdf) -> Camera:
    if not NAME.fullmatch(name):
        raise section.error("", f"'{name}' must be a word of letters, digits and underscores")
    transport = section.text("transport", "raw", choices=("raw", "compressed"))
    frame = section.text("frame", f"{name}_optical_frame")
    check_link(section, "frame", frame, tree)
    camera = Camera(
        name=name,
        topic=read_topic(section, f"{name}/image_raw" + ("/compressed" if transport == "compressed" else "")),
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


def _check_whole(top: Section, robot: Robot) -> None:
    """What only shows when everything is read."""
    length = robot.horizon * robot.dt
    if robot.max_blind > length:
        raise top.error("safety.max_blind", f"{robot.max_blind:g} s must be at most {length:g}, a chunk's length")
    for name, tool in Kinematics(robot).tools(robot.home).items():
        if not ((tool >= robot.workspace[0]) & (tool <= robot.workspace[1])).all():
            at = ", ".join(f"{value:.3f}" for value in tool)
            raise top.error(f"groups.{name}.home", f"puts the tool at [{at}], outside safety.workspace")


def _row(parts: list[Part], key: str) -> np.ndarray:
    return _array([value for part in parts for value in getattr(part.limits, key)])


def _array(values: list) -> np.ndarray:
    array = np.array(values, dtype=float)
    array.flags.writeable = False
    return array
