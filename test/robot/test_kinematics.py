"""Kinematics against MuJoCo, which reads the same URDF, and against finite differences."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest

from pi_policy_node.robot import Kinematics, load_robot
from pi_policy_node.robot.kinematics import DAMPED

ROBOTS = ("pi_mobile", "single_arm")


def rows(robot, count: int, seed: int = 0) -> np.ndarray:
    low, high = robot.lower, robot.upper
    return np.random.default_rng(seed).uniform(low, high, (count, len(low)))


@pytest.fixture(scope="module", params=ROBOTS)
def robot(request):
    return load_robot(request.param)


@pytest.fixture(scope="module")
def compiled(robot):
    """(model, data) of MuJoCo, links not fused."""
    mujoco = pytest.importorskip("mujoco")
    text = re.sub(r"<ros2_control.*?</ros2_control>", "", robot.urdf(meshes="file"), flags=re.DOTALL)
    options = '<mujoco><compiler fusestatic="false" strippath="false" discardvisual="true"/></mujoco>'
    text = re.sub(r"(<robot [^>]*>)", rf"\1{options}", text, count=1)
    model = mujoco.MjModel.from_xml_string(text)
    return mujoco, model, mujoco.MjData(model)


def test_every_link_is_where_mujoco_puts_it(robot, compiled):
    mujoco, model, data = compiled
    kinematics = Kinematics(robot)
    for row in rows(robot, 20):
        data.qpos[:] = 0
        for joint, position in robot.joints(row).items():
            data.qpos[model.joint(joint).qposadr[0]] = position
        mujoco.mj_kinematics(model, data)
        for body in range(1, model.nbody):
            name = model.body(body).name
            if name in ("world", robot.base_frame):
                continue
            pose = kinematics.link_pose(row, name)
            np.testing.assert_allclose(pose[:3, 3], data.xpos[body], atol=1e-9, err_msg=name)
            np.testing.assert_allclose(pose[:3, :3], data.xmat[body].reshape(3, 3), atol=1e-9, err_msg=name)


def test_tools_are_their_links(robot):
    kinematics = Kinematics(robot)
    q = rows(robot, 12).reshape(3, 4, -1)
    tools = kinematics.tools(q)
    assert list(tools) == [group.name for group in robot.groups if group.kind == "arm"]
    for name, points in tools.items():
        assert points.shape == (3, 4, 3)
        poses = kinematics.link_pose(q, robot.group(name).tool)
        assert poses.shape == (3, 4, 4, 4)
        np.testing.assert_allclose(points, poses[..., :3, 3], atol=1e-12)


def test_jacobians_are_the_slopes(robot):
    kinematics = Kinematics(robot)
    q = rows(robot, 5)
    step = 1e-6
    for name, jacobian in kinematics.jacobians(q).items():
        assert jacobian.shape == (5, 3, q.shape[1])
        for column in range(q.shape[1]):
            nudge = np.zeros(q.shape[1])
            nudge[column] = step
            slope = (kinematics.tools(q + nudge)[name] - kinematics.tools(q - nudge)[name]) / (2 * step)
            np.testing.assert_allclose(jacobian[..., column], slope, atol=1e-7)
        single = kinematics.jacobians(q[0])[name]
        np.testing.assert_allclose(single, jacobian[0])


def test_ways_move_a_tool_along_one_axis_and_turn_nothing(robot):
    """The joints of the arm alone; where they cannot do it, they stay slow."""
    kinematics, step = Kinematics(robot), 1e-4
    rng = np.random.default_rng(0)
    arms = [group for group in robot.groups if group.kind == "arm"]
    q = np.repeat(robot.home[None], 4, 0)
    for arm in arms:
        q[:, arm.columns] += rng.normal(0, 0.15, q[:, arm.columns].shape)
    for arm in arms:
        ways = kinematics.ways(q)[arm.name]
        np.testing.assert_allclose(kinematics.ways(q[0])[arm.name], ways[0])
        before = kinematics.link_pose(q, arm.tool)
        for axis in range(3):
            moved = q.copy()
            moved[:, arm.columns] += step * ways[..., axis]
            after = kinematics.link_pose(moved, arm.tool)
            np.testing.assert_allclose((after - before)[:, :3, 3] / step, np.eye(3)[[axis] * 4], atol=0.03)
            np.testing.assert_allclose(after[:, :3, :3], before[:, :3, :3], atol=0.05 * step)
        stretched = robot.home.copy()
        stretched[arm.columns] = 0.0
        assert np.abs(kinematics.ways(stretched)[arm.name]).max() < 0.5 / DAMPED + 1


def test_the_lift_carries_the_tools_and_the_base_does_not():
    robot = load_robot()
    kinematics = Kinematics(robot)
    for jacobian in kinematics.jacobians(robot.home).values():
        np.testing.assert_allclose(jacobian[:, 14], [0, 0, 1], atol=1e-12)
        assert not jacobian[:, robot.is_base].any()  # tools are relative to the base


def test_top_down_in_closed_form(robot):
    """The formula that urdf/arm.xacro promises: the tool points down, and lies where r and h say."""
    kinematics = Kinematics(robot)
    arm = next(group for group in robot.groups if group.kind == "arm")
    shoulder = kinematics.link_pose(robot.home, arm.tool.replace("tool", "link2"))[:3, 3]
    upper, fore, tool = 0.30, 0.29, 0.165
    for r, h in ((0.30, 0.15), (0.45, 0.0), (0.25, 0.05)):
        bend = np.arccos((r * r + h * h - upper**2 - fore**2) / (2 * upper * fore))
        q2 = np.arctan2(r, h) - np.arctan2(fore * np.sin(bend), upper + fore * np.cos(bend))
        q3 = bend - np.pi / 2
        q = robot.home.copy()
        q[arm.columns] = [0.0, q2, q3, 0.0, np.pi / 2 - q2 - q3, 0.0]
        assert (q >= robot.lower).all() and (q <= robot.upper).all()
        pose = kinematics.link_pose(q, arm.tool)
        np.testing.assert_allclose(pose[:3, 0], [0, 0, -1], atol=1e-12)
        np.testing.assert_allclose(pose[:3, 3] - shoulder, [r, 0, h - tool], atol=1e-12)


def test_home_looks_straight_down(robot):
    kinematics = Kinematics(robot)
    for group in robot.groups:
        if group.kind == "arm":
            np.testing.assert_allclose(kinematics.link_pose(robot.home, group.tool)[:3, 0], [0, 0, -1], atol=2e-3)


def test_unknown_links_are_refused(robot):
    with pytest.raises(KeyError, match="no link 'elbow'"):
        Kinematics(robot).link_pose(robot.home, "elbow")


def test_linkages_follow_their_driver(edited_urdf):
    """A joint of the arm that mimics another one moves the tool too."""
    plain = load_robot()
    linked = load_robot(_linked(edited_urdf))
    q = np.delete(rows(plain, 1)[0], 5)
    q_plain = np.insert(q, 5, -0.5 * q[3] + 0.1)
    np.testing.assert_allclose(
        Kinematics(linked).link_pose(q, "left_wrist_camera_link"),
        Kinematics(plain).link_pose(q_plain, "left_wrist_camera_link"),
        atol=1e-12,
    )


def _linked(edited_urdf):
    """pi_mobile whose left_joint6 follows left_joint4, and is no column any more."""
    path = edited_urdf(
        (
            '<child link="left_link6"/>',
            '<child link="left_link6"/>\n    <mimic joint="left_joint4" multiplier="-0.5" offset="0.1"/>',
        )
    )
    text = path.read_text()
    for old, new in (
        ("left_joint5, left_joint6]", "left_joint5]"),
        ("home: [0.547, -0.022, 0.337, 0.0, 1.256, 0.0]", "home: [0.547, -0.022, 0.337, 0.0, 1.256]"),
        ("controllers: controllers.yaml", "# controllers: controllers.yaml"),
    ):
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)
    return path


def test_fast_enough_for_every_window():
    """Two tools over 40 rows: measured 0.2 ms; a window leaves 20 ms for everything."""
    robot = load_robot()
    kinematics = Kinematics(robot)
    q = rows(robot, 40)
    kinematics.tools(q)
    best = min(_time(lambda: kinematics.tools(q)) for _ in range(50))
    assert best < 0.002


def _time(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
