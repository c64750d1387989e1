"""What load_robot accepts, and what it refuses: file, line, key and remedy in one line each."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pi_policy_node.robot import RobotError, load_robot
from pi_policy_node.robot.groups import REST_TIME, rest_time

ROBOTS = ("pi_mobile", "single_arm")


def refusal(path) -> RobotError:
    with pytest.raises(RobotError) as caught:
        load_robot(path)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)
    return caught.value


def test_pi_mobile_is_the_robot_of_the_design():
    robot = load_robot()
    arms = [[f"{side}_joint{i}" for i in range(1, 7)] + [f"{side}_gripper"] for side in ("left", "right")]
    assert robot.action_names == (*arms[0], *arms[1], "lift", "base_vx", "base_vy", "base_wz")
    assert (robot.dt, robot.horizon, robot.image_size) == (0.02, 50, (240, 320))
    assert [camera.name for camera in robot.cameras if not camera.required] == ["rear_camera"]
    assert {group.controller.topic for group in robot.groups} == {
        "left_arm_controller/joint_trajectory",
        "left_gripper_controller/joint_trajectory",
        "right_arm_controller/joint_trajectory",
        "right_gripper_controller/joint_trajectory",
        "lift_controller/joint_trajectory",
        "base_controller/cmd_vel",
    }
    assert robot.group("left_gripper").gripper.mimic == (("left_finger_joint_mirror", 0.0, 0.04),)
    assert robot.is_base.nonzero()[0].tolist() == [15, 16, 17]
    assert robot.is_gripper.nonzero()[0].tolist() == [6, 13]
    assert (robot.is_position == ~robot.is_base).all()
    assert np.isinf(robot.velocity[robot.is_base]).all()
    assert (robot.upper[robot.is_base] == [0.3, 0.3, 0.8]).all()
    assert np.isinf(robot.tracking_tolerance[robot.is_gripper | robot.is_base]).all()
    assert np.isfinite(robot.tracking_tolerance[~(robot.is_gripper | robot.is_base)]).all()


def test_another_robot_is_another_file():
    robot = load_robot("single_arm")
    assert robot.action_names == (*(f"joint{i}" for i in range(1, 7)), "gripper")
    assert [group.controller.kind for group in robot.groups] == ["position", "position"]
    topics = [group.controller.topic for group in robot.groups]
    assert topics == ["arm_controller/commands", "gripper_controller/commands"]
    assert [camera.transport for camera in robot.cameras] == ["compressed", "raw"]
    assert robot.cameras[0].topic == "front_camera/image_raw/compressed"
    assert robot.group("gripper").gripper.mimic == (("finger_joint_mirror", 0.0, 0.04),)  # from the URDF
    assert robot.base_speed == math.inf


def test_a_gripper_behind_an_action(action_gripper):
    controller = load_robot(action_gripper).group("gripper").controller
    assert (controller.kind, controller.topic) == ("gripper_action", "gripper_controller/gripper_cmd")


@pytest.mark.parametrize("name", ROBOTS)
def test_limits_hold_together(name):
    robot = load_robot(name)
    assert (robot.lower < robot.upper).all()
    assert ((robot.lower <= robot.home) & (robot.home <= robot.upper)).all()
    speed = np.where(robot.is_base, robot.upper, robot.velocity)
    for v, a, j in zip(speed, robot.acceleration, robot.jerk):
        assert rest_time(v, a, j) <= REST_TIME
    for array in (robot.lower, robot.velocity, robot.home, robot.workspace, robot.is_base):
        with pytest.raises(ValueError):
            array[0] = 0  # shared by everybody: nobody may write


@pytest.mark.parametrize(("v", "a", "j"), [(3.1, 18.0, 400.0), (0.3, 2.0, 25.0), (1.0, 5.0, 1e9), (1.0, 1e9, 100.0)])
def test_rest_time_is_the_shortest_cubic_brake(v, a, j):
    """Sampled: v(t) = v (1 - 3 s^2 + 2 s^3) within a and j at that time, and beyond one of them when 1 % faster."""

    def worst(time):
        s = np.linspace(0, 1, 20001)
        return np.abs(v * (-6 * s + 6 * s * s) / time).max() / a, np.abs(v * (-6 + 12 * s) / time**2).max() / j

    time = rest_time(v, a, j)
    assert max(worst(time)) <= 1 + 1e-6
    assert max(worst(0.99 * time)) > 1


# (the key that the message names, a part of what it says, what to change in pi_mobile.yaml)
BROKEN = {
    "unknown key": (
        "safety.tool_sped",
        "did you mean 'tool_speed'",
        ("tool_speed: 0.25", "tool_speed: 0.25\n  tool_sped: 1"),
    ),
    "unknown top key": (
        "saftey",
        "did you mean 'safety'",
        ("base_frame: base_link", "saftey: {}\nbase_frame: base_link"),
    ),
    "misspelt key": ("safety.tool_speed", "is it 'tool_sped'", ("tool_speed: 0.25", "tool_sped: 0.25")),
    "missing key": ("groups.lift.jerk", "is missing", ("    jerk: 25.0\n", "")),
    "missing section": ("observation", "is missing", ("observation:\n  hz: 20", "x:\n  hz: 20")),
    "given twice": ("", "'command_hz' is given twice, first on line", ("dt: 0.02 ", "command_hz: 50\n  dt: 0.02 ")),
    "given twice on a line": ("", "'kind' is given twice", ("kind: twist}", "kind: twist, kind: twist}")),
    "word for a number": ("control.dt", "must be a number in s, not the word 'fast'", ("dt: 0.02", "dt: fast")),
    "not a number": ("control.dt", "must be a number", ("dt: 0.02", "dt: .nan")),
    "yes is no boolean": (
        "cameras.rear_camera.required",
        "true or false, not the word 'no'",
        ("required: false", "required: no"),
    ),
    "fraction": ("control.horizon", "must be a whole number", ("horizon: 50", "horizon: 50.5")),
    "too small": ("control.window", "must be at least 0.06", ("window: 0.1", "window: 0.01")),
    "too large": (
        "safety.joint_state_timeout",
        "must be at most 0.5",
        ("joint_state_timeout: 0.2", "joint_state_timeout: 5"),
    ),
    "zero speed": ("safety.base_speed", "must be more than 0", ("base_speed: 0.3", "base_speed: 0")),
    "blind beyond the chunk": ("safety.max_blind", "at most 0.4", ("horizon: 50", "horizon: 20")),
    "tab": ("", "cannot start any token", ("name: pi_mobile", "\tname: pi_mobile")),
    "a list": ("groups", "must hold keys of its own", ("groups:\n  left_arm:", "groups: [a]\nx:\n  left_arm:")),
    "wrong count": ("groups.left_arm.velocity", "has 2 numbers; it needs 6", ("velocity: 3.1", "velocity: [3.1, 3.1]")),
    "no urdf": ("urdf", "no such file", ("urdf: pi_mobile.urdf.xacro", "urdf: nowhere.xacro")),
    "foreign package": (
        "urdf",
        "in no sourced workspace",
        ("urdf: pi_mobile.urdf.xacro", "urdf: package://no_such_pkg/a.urdf"),
    ),
    "no controllers": ("controllers", "no such file", ("controllers: controllers.yaml", "controllers: nowhere.yaml")),
    "base frame": ("base_frame", "no link 'base'", ("base_frame: base_link", "base_frame: base")),
    "loose tool": (
        "groups.left_arm.tool",
        "does not hang on 'right_link1'",
        ("base_frame: base_link", "base_frame: right_link1"),
    ),
    "group kind": ("groups.left_arm.kind", "did you mean 'arm'", ("kind: arm", "kind: arms")),
    "controller kind": (
        "groups.left_arm.controller.kind",
        "use joint_trajectory or position",
        ("kind: joint_trajectory,", "kind: twist,"),
    ),
    "stamp": ("groups.left_arm.controller.stamp", "use zero or absolute", ("stamp: zero", "stamp: now")),
    "stamp of a twist": ("groups.base.controller.stamp", "unknown key", ("kind: twist}", "kind: twist, stamp: zero}")),
    "absolute topic": (
        "groups.base.controller.topic",
        "must be relative",
        ("kind: twist}", "kind: twist, topic: /cmd_vel}"),
    ),
    "no topic name": (
        "cameras.front_camera.topic",
        "between slashes",
        ("front_camera: {", "front_camera: {topic: a b, "),
    ),
    "unknown joint": ("groups.left_arm.joints", "did you mean 'left_joint1'", ("[left_joint1,", "[left_jont1,")),
    "fixed joint": ("groups.left_arm.joints", "is fixed in the URDF", ("[left_joint1,", "[left_tool_joint,")),
    "mimic joint": (
        "groups.left_gripper.joints",
        "name that one",
        ("[left_finger_joint]", "[left_finger_joint_mirror]"),
    ),
    "joint twice": (
        "groups.left_arm.joints",
        "named twice",
        ("[left_joint1, left_joint2", "[left_joint1, left_joint1"),
    ),
    "joint of another": ("groups.left_arm.joints", "does not move the tool", ("[left_joint1,", "[right_joint1,")),
    "joint order": (
        "groups.left_arm.joints",
        "[left_joint1, left_joint2,",
        ("[left_joint1, left_joint2", "[left_joint2, left_joint1"),
    ),
    "two for a gripper": (
        "groups.left_gripper.joints",
        "one driving joint",
        ("[left_finger_joint]", "[left_finger_joint, left_joint1]"),
    ),
    "unknown tool": ("groups.left_arm.tool", "did you mean 'left_tool'", ("tool: left_tool ", "tool: left_tol ")),
    "velocity": ("groups.left_arm.velocity[0]", "more than the URDF's 3.14", ("velocity: 3.1", "velocity: 3.2")),
    "gripper velocity": ("groups.left_gripper.velocity[0]", "at most 3 strokes", ("velocity: 2.5", "velocity: 4")),
    "cannot rest": (
        "groups.left_arm.velocity[0]",
        "acceleration at least 15.5",
        ("acceleration: 18.0", "acceleration: 10.0"),
    ),
    "cannot rest by jerk": ("groups.left_arm.velocity[0]", "jerk at least 206.7", ("jerk: 400.0", "jerk: 100.0")),
    "base cannot rest": ("groups.base.velocity[2]", "comes to rest in 0.40 s", ("[1.6, 1.6, 5.0]", "[1.6, 1.6, 3.0]")),
    "beyond the urdf": (
        "groups.lift.upper[0]",
        "0.6 is outside the URDF's 0 to 0.45",
        ("home: [0.25]", "home: [0.25]\n    upper: 0.6"),
    ),
    "upside down": (
        "groups.lift.lower[0]",
        "must be below upper",
        ("home: [0.25]", "home: [0.25]\n    upper: 0.2\n    lower: 0.3"),
    ),
    "gripper range": ("groups.left_gripper.open", "outside the URDF's 0 to 0.04", ("open: 0.04", "open: 0.05")),
    "gripper stuck": ("groups.left_gripper.open", "could not move", ("open: 0.04", "open: 0.0")),
    "mimic value": (
        "groups.left_gripper.mimic.left_finger_joint_mirror",
        "must be [0, 0.04]",
        ("mirror: [0.0, 0.04]", "mirror: [0.04, 0.0]"),
    ),
    "mimic missing": (
        "groups.left_gripper.mimic.left_finger_joint_mirror",
        "is missing",
        ("{left_finger_joint_mirror: [0.0, 0.04]}", "{left_joint1: [0.0, 0.04]}"),
    ),
    "mimic unknown": (
        "groups.left_gripper.mimic.nobody",
        "no joint 'nobody'",
        ("{left_finger_joint_mirror:", "{nobody: [0, 1], left_finger_joint_mirror:"),
    ),
    "home outside limits": ("groups.lift.home[0]", "outside the limits, 0 to 0.45", ("home: [0.25]", "home: [0.5]")),
    "home outside workspace": ("groups.left_arm.home", "outside safety.workspace", ("lower: [0.20,", "lower: [0.50,")),
    "workspace": ("safety.workspace.lower", "must be below upper (0.95) along x", ("lower: [0.20,", "lower: [2.0,")),
    "tolerance": ("groups.left_arm.splice_tolerance", "is missing", ("    splice_tolerance: 0.2\n", "")),
    "shared controller": (
        "groups.right_arm",
        "belongs to the group 'left_arm'",
        ("name: right_arm_controller", "name: left_arm_controller"),
    ),
    "camera frame": (
        "cameras.front_camera.frame",
        "did you mean 'front_camera_optical_frame'",
        ("front_camera: {", "front_camera: {frame: front_camera_optical, "),
    ),
    "camera without frame": (
        "cameras.side_camera.frame",
        "no link 'side_camera_optical_frame'",
        ("  front_camera: {", "  side_camera: {width: 320, height: 240, hz: 20}\n  front_camera: {"),
    ),
    "same role": (
        "cameras.rear_camera.role",
        "'base_0_rgb' is that of 'front_camera'",
        ("role: rear_0_rgb", "role: base_0_rgb"),
    ),
    "slow camera": ("observation.hz", "at most 20", ("hz: 20  ", "hz: 30  ")),
    "transport": (
        "cameras.front_camera.transport",
        "use raw or compressed",
        ("front_camera: {", "front_camera: {transport: jpeg, "),
    ),
    "image size": ("observation.image_size", "has 1 numbers", ("[240, 320]", "[224]")),
}


NO_LINE = ("missing section",)


@pytest.mark.parametrize("case", BROKEN)
def test_refuses_what_cannot_be_right(edited, case):
    key, words, change = BROKEN[case]
    path = edited("pi_mobile", change)
    error = refusal(path)
    assert words in str(error)
    assert error.key == key
    assert str(path) in str(error)
    if case not in NO_LINE:
        assert str(error).startswith(f"{path}:{error.line}: ")
        # That line holds the key, or a section that should hold it.
        line = path.read_text().splitlines()[error.line - 1]
        assert not error.key or any(part.split("[")[0] in line for part in error.key.split("."))


def test_names_the_line_of_the_key(edited):
    path = edited("pi_mobile", ("velocity: [0.3, 0.3, 0.8]", "velocity: [0.3, 0.3, 8.0]"))
    error = refusal(path)
    assert "velocity: [0.3, 0.3, 8.0]" in path.read_text().splitlines()[error.line - 1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must hold a mapping"),
        ("- a\n- b", "must hold a mapping of keys to values, not a list"),
        ("a: [1, 2", "expected"),
        ("1: x", "must be a word"),
        ("a: &x [*x]", "recursive"),
        ("a: !!python/object:os.system {}", "could not determine a constructor"),
    ],
)
def test_refuses_what_is_no_robot_file(tmp_path, text, words):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    assert words in str(refusal(path))


def test_refuses_files_that_cannot_be_read(tmp_path):
    assert "no such robot file" in str(refusal(tmp_path / "nowhere.yaml"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    assert "not UTF-8" in str(refusal(tmp_path / "binary.yaml"))
    near = refusal("pi_mobil")
    assert "did you mean 'pi_mobile'" in str(near) and "single_arm" in str(near)


def test_numbers_as_people_write_them(edited):
    """YAML 1.1 reads 1e-3 as a word."""
    changes = ("clock_tolerance: 0.02", "clock_tolerance: 2e-2"), ("dt: 0.02", "dt: +.02")
    robot = load_robot(edited("pi_mobile", *changes))
    assert (robot.clock_tolerance, robot.dt) == (0.02, 0.02)


def test_left_out_limits_are_the_urdfs(edited):
    robot = load_robot(edited("pi_mobile", ("    velocity: 3.1\n", ""), ("    mimic: {left", "    # mimic: {left")))
    assert (robot.velocity[:6] == 3.14).all()
    assert robot.lower[:6].tolist() == [-2.2, -1.9, -1.8, -3.1, -1.6, -3.1]
    assert robot.group("left_gripper").gripper.mimic == (("left_finger_joint_mirror", 0.0, 0.04),)


def test_a_heartbeat_is_asked_for_by_a_time(edited):
    assert load_robot().heartbeat_timeout is None
    path = edited("pi_mobile", ("heartbeat_timeout:             ", "heartbeat_timeout: 0.3         "))
    assert load_robot(path).heartbeat_timeout == 0.3


def test_yaml_anchors_and_merges_work(edited):
    path = edited(
        "pi_mobile",
        ("  left_wrist_camera: {width: 320,", "  left_wrist_camera: &wrist {width: 320,"),
        (
            "  right_wrist_camera: {width: 320, height: 240, hz: 20, fov: 1.1, role: right_wrist_0_rgb}",
            "  right_wrist_camera: {<<: *wrist, role: right_wrist_0_rgb}",
        ),
    )
    assert load_robot(path).cameras[3].fov == 1.1


@pytest.mark.parametrize("name", ROBOTS)
def test_whatever_is_broken_is_a_robot_error(edited, name):
    """Any single line lost, doubled or spoilt: the file loads, or is refused in one line; nothing else comes out."""
    lines = edited(name).read_text().splitlines(keepends=True)
    path = edited(name)
    random = np.random.default_rng(0)
    refused = 0
    meaningful = [i for i, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#")]
    for i in meaningful:
        key, _, value = lines[i].partition(":")
        spoilt = [
            [],
            [lines[i], lines[i]],
            [f"{key}: {random.choice(['', '-1', '[]', '{}', 'x', '.inf', '[1, x]', '1e99', '~', '{a: 1}'])}\n"],
        ]
        for replacement in spoilt:
            path.write_text("".join([*lines[:i], *replacement, *lines[i + 1 :]]))
            try:
                load_robot(path)
            except RobotError as error:
                assert "\n" not in str(error)
                refused += 1
    assert refused > 1.5 * len(meaningful)
