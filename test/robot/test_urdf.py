"""The URDFs: they expand, they agree with their robot files, and they are physically possible."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from pi_policy_node.environment import share
from pi_policy_node.robot import Kinematics, RobotError, load_robot
from pi_policy_node.robot.urdf import expand, parse, transform

ROBOTS = ("pi_mobile", "single_arm")


@pytest.fixture(scope="module", params=ROBOTS)
def robot(request):
    return load_robot(request.param)


@pytest.fixture(scope="module")
def root(robot):
    return ElementTree.fromstring(robot.urdf())


def test_the_hardware_plugin_is_an_argument(robot):
    assert "mock_components/GenericSystem" in robot.urdf()
    assert "calculate_dynamics" in robot.urdf()
    real = robot.urdf(ros2_control_plugin="my_driver/System")
    assert "<plugin>my_driver/System</plugin>" in real
    assert "mock_components" not in real and "calculate_dynamics" not in real
    with pytest.raises(RobotError, match="did you mean 'ros2_control_plugin'"):
        robot.urdf(ros2_control_plugins="x")


def test_meshes_exist_and_are_small(robot):
    used = set(re.findall(r'filename="package://pi_policy_node/([^"]+)"', robot.urdf()))
    assert len(used) > 10
    for path in used:
        data = share(path).read_bytes()
        (count,) = struct.unpack("<I", data[80:84])
        assert len(data) == 84 + 50 * count  # a whole binary STL
        assert 0 < count < 3000
    paths = re.findall(r'mesh filename="([^"]+)"', robot.urdf(meshes="file"))
    assert paths and all(path.startswith("/") for path in paths)
    assert sum(file.stat().st_size for file in share("urdf", "meshes").iterdir()) < 2_000_000


def test_no_mesh_is_left_over():
    used = set()
    for name in ROBOTS:
        used |= set(re.findall(r"meshes/(\w+)\.stl", load_robot(name).urdf()))
    assert used == {file.stem for file in share("urdf", "meshes").glob("*.stl")}


def test_meshes_are_what_the_script_draws(tmp_path):
    script = tmp_path / "make_meshes.py"
    script.write_text(share("urdf", "make_meshes.py").read_text())
    subprocess.run([sys.executable, script], check=True, capture_output=True, timeout=60)
    for drawn in (tmp_path / "meshes").iterdir():
        shipped = share("urdf", "meshes", drawn.name).read_bytes()
        assert len(shipped) == drawn.stat().st_size
        np.testing.assert_allclose(_corners(shipped), _corners(drawn.read_bytes()), atol=1e-6)


def _corners(stl: bytes) -> np.ndarray:
    """[n, 3, 3] of a binary STL."""
    record = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("spare", "<u2")])
    return np.frombuffer(stl, record, offset=84)["corners"].astype(float)


def test_meshes_are_closed():
    """Every edge of a drawn solid is shared by two triangles that run along it in opposite directions."""
    for file in share("urdf", "meshes").glob("*.stl"):
        corners = np.round(_corners(file.read_bytes()), 6) + 0.0
        _, index = np.unique(corners.reshape(-1, 3), axis=0, return_inverse=True)
        triangles = index.reshape(-1, 3)
        triangles = triangles[(triangles != np.roll(triangles, 1, axis=1)).all(axis=1)]
        edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
        forward, backward = (sorted(map(tuple, e)) for e in (edges, edges[:, ::-1]))
        assert forward == backward, file.name
        volume = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6
        assert volume > 0, f"{file.name} is inside out"


def test_every_moving_link_has_a_possible_inertia(root):
    children = {joint.find("child").get("link") for joint in root.findall("joint") if joint.get("type") != "fixed"}
    assert children
    for link in root.findall("link"):
        inertial = link.find("inertial")
        if inertial is None:
            assert link.get("name") not in children, f"{link.get('name')} moves and weighs nothing"
            continue
        mass = float(inertial.find("mass").get("value"))
        values = {key: float(value) for key, value in inertial.find("inertia").attrib.items()}
        matrix = np.array(
            [
                [values["ixx"], values["ixy"], values["ixz"]],
                [values["ixy"], values["iyy"], values["iyz"]],
                [values["ixz"], values["iyz"], values["izz"]],
            ]
        )
        smallest, middle, largest = np.linalg.eigvalsh(matrix)
        assert mass > 0.01 and smallest > 0, link.get("name")
        assert smallest + middle >= largest * (1 - 1e-9), link.get("name")


def test_the_arms_weigh_what_such_arms_weigh(root):
    masses = {link.get("name"): link.find("inertial/mass") for link in root.findall("link")}
    for prefix in ("left_", "right_", ""):
        names = [f"{prefix}{part}" for part in ("base", *(f"link{i}" for i in range(1, 7)), "finger", "finger_mirror")]
        if names[1] in masses:
            assert 4.0 <= sum(float(masses[name].get("value")) for name in names) <= 5.0


def test_joint2_holds_the_arm_stretched_out_with_its_payload(robot, root):
    """Statics with 0.75 kg at the tool, arm horizontal: at most 60 % of the effort limit, the rest is for moving."""
    kinematics = Kinematics(robot)
    arm = next(group for group in robot.groups if group.kind == "arm")
    q = robot.home.copy()
    q[arm.columns] = [0, np.pi / 2, -np.pi / 2, 0, 0, 0]
    axis = kinematics.link_pose(q, arm.tool.replace("tool", "link2"))[:3, 3]
    prefix = arm.tool[: -len("tool")]
    torque = 0.75 * 9.81 * (kinematics.tools(q)[arm.name][0] - axis[0])
    for link in root.findall("link"):
        if re.fullmatch(rf"{prefix}(link[2-6]|finger|finger_mirror|wrist_camera_link)", link.get("name")):
            inertial = link.find("inertial")
            centre = [float(word) for word in inertial.find("origin").get("xyz", "0 0 0").split()]
            at = kinematics.link_pose(q, link.get("name")) @ [*centre, 1]
            torque += float(inertial.find("mass").get("value")) * 9.81 * (at[0] - axis[0])
    effort = float(root.find(f"joint[@name='{arm.joints[1]}']/limit").get("effort"))
    assert 10 < torque < 0.6 * effort


def test_optical_frames_are_rep_103(robot):
    """z of the optical frame = x of the camera's body, x = -y, y = -z; and the wrist cameras see their fingertips."""
    kinematics = Kinematics(robot)
    for camera in robot.cameras:
        body = kinematics.link_pose(robot.home, f"{camera.name}_link")
        optical = kinematics.link_pose(robot.home, camera.frame)
        np.testing.assert_allclose(optical[:3, 3], body[:3, 3], atol=1e-12)
        axes = np.stack([-body[:3, 1], -body[:3, 2], body[:3, 0]], axis=1)
        np.testing.assert_allclose(optical[:3, :3], axes, atol=1e-9)
    for group in robot.groups:
        if group.kind == "arm":
            camera = next(c for c in robot.cameras if c.name == group.tool.replace("tool", "wrist_camera"))
            assert _sees(kinematics, robot, camera, kinematics.tools(robot.home)[group.name])


def test_the_front_camera_sees_both_tools_and_the_workspace():
    robot = load_robot()
    kinematics = Kinematics(robot)
    front = robot.cameras[0]
    for tool in kinematics.tools(robot.home).values():
        assert _sees(kinematics, robot, front, tool)
    for x, y in ((0.45, -0.25), (0.45, 0.25), (0.75, -0.3), (0.75, 0.3)):
        assert _sees(kinematics, robot, front, np.array([x, y, 0.72]))


def _sees(kinematics, robot, camera, point) -> bool:
    x, y, z, _ = np.linalg.inv(kinematics.link_pose(robot.home, camera.frame)) @ [*point, 1]
    reach = np.tan(camera.fov / 2)
    return z > 0 and abs(y) < reach * z and abs(x) < reach * z * camera.width / camera.height


def test_a_mock_robot_wakes_up_at_home(robot, root):
    expected = robot.joints(robot.home)
    found = {}
    for joint in root.findall("ros2_control/joint"):
        for interface in joint.findall("state_interface[@name='position']/param[@name='initial_value']"):
            found[joint.get("name")] = float(interface.text)
    assert found == pytest.approx(expected)


def test_ros2_control_offers_what_the_controllers_command(robot, root):
    offered = {
        joint.get("name"): [interface.get("name") for interface in joint.findall("command_interface")]
        for joint in root.findall("ros2_control/joint")
    }
    for group in robot.groups:
        for joint in group.joints:
            assert offered[joint] == ["position"]
        for mimic, _, _ in group.gripper.mimic if group.gripper else ():
            assert offered[mimic] == []
    wheels = [name for name in offered if name.endswith("wheel_joint")]
    assert len(wheels) == (4 if robot.name == "pi_mobile" else 0)
    assert all(offered[wheel] == ["velocity"] for wheel in wheels)


def test_root_link_weighs_nothing(robot, root):
    """KDL, and with it robot_state_publisher, warns about a root with an inertia."""
    children = {joint.find("child").get("link") for joint in root.findall("joint")}
    (top,) = [link for link in root.findall("link") if link.get("name") not in children]
    assert top.get("name") == robot.base_frame and top.find("inertial") is None


# (a part of the message, what to change in the URDF)
BROKEN_URDF = {
    "no axis": ("lift_joint.axis: must not be all zero", ('<axis xyz="0 0 1"/>', '<axis xyz="0 0 0"/>')),
    "not numbers": ("must be 3 numbers", ('<axis xyz="0 0 1"/>', '<axis xyz="0 0 one"/>')),
    "unknown type": ("joint type 'ball' is not supported", ('type="prismatic"', 'type="ball"')),
    "unknown link": (
        "no <link> is called 'chasis'; did you mean 'chassis'",
        ("<child link=\"chassis\"/>", "<child link=\"chasis\"/>"),
    ),
    "two numbers": ("must be 3 numbers", ('<axis xyz="0 0 1"/>', '<axis xyz="0 1"/>')),
    "nan": ('velocity="nan" must be a number', ('velocity="0.32"', 'velocity="nan"')),
    "empty": ('upper="" must be a number', ('upper="0.45"', 'upper=""')),
    "no speed": ("more than the URDF's 0 for", ('velocity="3.14"', 'velocity="0"')),
    "two of a name": ("two joints have this name", ('<joint name="right_joint1"', '<joint name="left_joint1"')),
    "two parents": ("is that of 'chassis_joint' already", ('<child link="column"/>', '<child link="chassis"/>')),
    "a loop": (
        "form a loop",
        (
            "<parent link=\"chassis\"/>\n    <child link=\"column\"/>",
            "<parent link=\"left_tool\"/>\n    <child link=\"column\"/>",
        ),
    ),
    "mimics nobody": (
        "mimics 'left_thumb', which is no joint",
        ("<mimic joint=\"left_finger_joint\"", "<mimic joint=\"left_thumb\""),
    ),
    "no child": ("lacks its <child>", ('<child link="chassis"/>', "")),
    "no name": ("lacks its name", ('<joint name="left_joint1"', "<joint")),
    "not xml": ("not XML|xacro refuses", ("</robot>", "</robo>")),
    "another root": ("a URDF's is <robot>", ("<robot name", "<sdf name")),
    "two roots": (
        "one root link, not 2: base_link, floor",
        ("<link name=\"base_link\"/>", "<link name=\"base_link\"/><link name=\"floor\"/>"),
    ),
    "slower": ("more than the URDF's 2 for", ('velocity="3.14"', 'velocity="2"')),
    "mimics the wrong way": ("must be [0, -0.04]", ('multiplier="1"', 'multiplier="-1"')),
    "narrower": ("0.25 is outside the limits, 0 to 0.2", ('upper="0.45"', 'upper="0.2"')),
}


@pytest.mark.parametrize("case", BROKEN_URDF)
def test_refuses_a_urdf_that_cannot_be_right(edited_urdf, case):
    words, (old, new) = BROKEN_URDF[case]
    changes = [(old, new)] if case != "another root" else [(old, new), ("</robot>", "</sdf>")]
    with pytest.raises(RobotError) as caught:
        load_robot(edited_urdf(*changes))
    assert any(word in str(caught.value) for word in words.split("|")), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<xacro:nothing/>", "unknown macro"),
        ('<a b="${1 +}"/>', "1 +"),
        ('<xacro:include filename="no.xacro"/>', "no.xacro"),
        ("<link>", "mismatched tag"),
    ],
)
def test_refuses_broken_xacro(tmp_path, text, words):
    file = tmp_path / "x.urdf.xacro"
    file.write_text(f'<robot name="x" xmlns:xacro="http://www.ros.org/wiki/xacro">{text}</robot>')
    with pytest.raises(RobotError, match="xacro refuses it: ") as caught:
        expand(file)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_meshes_of_a_package_that_is_not_there(tmp_path):
    file = tmp_path / "x.urdf"
    file.write_text('<robot name="x"><link name="package://no_such_pkg/a.stl"/></robot>')
    assert "package://no_such_pkg/" in expand(file)
    with pytest.raises(RobotError, match="package://no_such_pkg is in no sourced workspace"):
        expand(file, meshes="file")


def test_an_edited_urdf_is_read_again(tmp_path):
    file = tmp_path / "x.urdf"
    file.write_text('<robot name="x"><link name="a"/></robot>')
    assert parse(file, expand(file)).links == {"a"}
    file.write_text('<robot name="x"><link name="abc"/></robot>')
    assert parse(file, expand(file)).links == {"abc"}


def test_roll_pitch_yaw_are_about_fixed_axes():
    pose = transform([1, 2, 3], [0, 0, np.pi / 2]) @ transform([0, 0, 0], [0.3, -0.2, 0.0])
    np.testing.assert_allclose(pose, transform([1, 2, 3], [0.3, -0.2, np.pi / 2]), atol=1e-12)


def test_whatever_is_broken_is_a_robot_error(tmp_path):
    """Any line of a URDF lost or spoilt: it is read, or refused in one line; nothing else comes out, nothing hangs."""
    lines = load_robot().urdf().splitlines(keepends=True)
    random = np.random.default_rng(0)
    refused = 0
    for i in random.permutation(len(lines))[:250]:
        value = random.choice(["", "x", "-1", "nan", "0 0", "1e999"])
        for spoilt in ("", re.sub(r'="[^"]*"', f'="{value}"', lines[i])):
            try:
                parse(tmp_path / "x.urdf", "".join([*lines[:i], spoilt, *lines[i + 1 :]]))
            except RobotError as error:
                assert "\n" not in str(error)
                refused += 1
    assert refused > 50
