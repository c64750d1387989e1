"""The simulated robot as a ROS node, in a process of its own, over real DDS."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque

import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Duration
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TwistStamped
from nav_msgs.msg import Odometry
from rclpy.executors import SingleThreadedExecutor
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from pi_msgs.srv import GetScene, ResetScene, SetFault
from pi_policy_node.cli.sim import _node_row
from pi_policy_node.nodes.common import SENSOR, to_seconds
from pi_policy_node.robot import load_robot
from pi_policy_node.sim.faults import FAULTS

ROBOT = load_robot("pi_mobile")
ARM = ROBOT.group("left_arm")
LIMIT = 20.0  # s that anything may take on a busy machine


def start(*arguments: str, namespace: str = "", quiet: bool = True) -> subprocess.Popen:
    command = [sys.executable, "-m", "pi_policy_node.nodes.sim", "--ros-args"]
    for argument in arguments:
        command += ["-p", argument]
    command += ["-r", f"__ns:={namespace}"] if namespace else []
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL if quiet else None, text=True)


def stop(process: subprocess.Popen) -> int:
    process.send_signal(signal.SIGINT)
    try:
        return process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


class Client:
    """Listens to everything that a simulated robot says, in a thread, and talks to it."""

    def __init__(self, context, namespace: str = ""):
        self.node = rclpy.create_node("client", namespace=namespace, context=context)
        self.heard: dict[str, deque] = {}
        self.count: Counter[str] = Counter()
        for kind, topic, qos in ((JointState, "joint_states", 10), (Odometry, "odom", 10), (Clock, "/clock", SENSOR),
                                 (DiagnosticArray, "diagnostics", 10),
                                 (JointState, "left_arm_controller/reference", 10),
                                 (Image, "front_camera/image_raw", SENSOR),
                                 (Image, "left_wrist_camera/image_raw", SENSOR),
                                 (CameraInfo, "front_camera/camera_info", SENSOR)):
            self.heard[topic] = deque(maxlen=2000)
            self.node.create_subscription(kind, topic, lambda m, t=topic: self._hear(t, m), qos)
        self.arm = self.node.create_publisher(JointTrajectory, ARM.controller.topic, 10)
        self.base = self.node.create_publisher(TwistStamped, "base_controller/cmd_vel", 10)
        self.services = {name: self.node.create_client(kind, name) for kind, name in (
            (ResetScene, "reset_scene"), (GetScene, "get_scene"), (SetFault, "set_fault"))}
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self._thread = threading.Thread(target=self.executor.spin, daemon=True)
        self._thread.start()

    def _hear(self, topic: str, message) -> None:
        self.heard[topic].append((time.monotonic(), message))
        self.count[topic] += 1

    def last(self, topic: str):
        return self.heard[topic][-1][1]

    def wait(self, condition, limit: float = LIMIT):
        """Until the condition gives something true, which is returned."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            value = condition()
            if value:
                return value
            time.sleep(0.005)
        raise AssertionError(f"not within {limit} s")

    def news(self, topic: str, number: int = 1) -> list:
        """That many messages that came after now."""
        before = self.count[topic]
        self.wait(lambda: self.count[topic] >= before + number)
        return [message for _, message in list(self.heard[topic])[-number:]]

    def call(self, name: str, **fields):
        client = self.services[name]
        assert client.wait_for_service(LIMIT)
        future = client.call_async(client.srv_type.Request(**fields))
        self.wait(future.done)
        return future.result()

    def fault(self, target: str, kind: str, value: float = 0.0) -> None:
        answer = self.call("set_fault", target=target, kind=kind, value=float(value))
        assert answer.success, answer.message

    def joints(self) -> dict[str, float]:
        message = self.news("joint_states")[0]
        return dict(zip(message.name, message.position))

    def move(self, target, seconds: float, names=ARM.joints, **fields) -> None:
        point = JointTrajectoryPoint(positions=[float(t) for t in target], time_from_start=Duration(
            sec=int(seconds), nanosec=int(seconds % 1 * 1e9)), **fields)
        self.arm.publish(JointTrajectory(joint_names=list(names), points=[point]))

    def physics(self) -> dict[str, str]:
        """The values of the newest report on the physics."""
        for _, message in reversed(self.heard["diagnostics"]):
            for status in message.status:
                if status.name == "sim: physics":
                    return {"message": status.message, **{pair.key: pair.value for pair in status.values}}
        return {}

    def close(self) -> None:
        self.executor.shutdown()
        self._thread.join(5)
        self.node.destroy_node()


@pytest.fixture(scope="module")
def sim(ros):
    process = start("use_sim_time:=true", "scene:=block")
    client = Client(ros)
    try:
        client.wait(lambda: client.count["joint_states"] and client.count["front_camera/image_raw"], 40)
        client.wait(lambda: client.arm.get_subscription_count() and client.base.get_subscription_count())
        yield client
    finally:
        code = stop(process)
        client.close()
    assert code == 0
    assert "Traceback" not in process.stderr.read()


@pytest.fixture(autouse=True)
def tidy(request):
    """No fault outlives its test."""
    yield
    if "sim" in request.fixturenames:
        request.getfixturevalue("sim").fault("all", "none")


def test_it_says_what_a_robot_says(sim):
    first, *_, last = sim.news("joint_states", 40)
    assert set(ARM.joints) <= set(first.name) and "front_left_wheel_joint" in first.name
    assert len(first.name) == len(first.position) == len(first.velocity)
    rate = 39 / (to_seconds(last.header.stamp) - to_seconds(first.header.stamp))
    assert 55 < rate < 70
    odom = sim.news("odom")[0]
    assert (odom.header.frame_id, odom.child_frame_id) == ("odom", "base_link")
    assert odom.pose.pose.orientation.w == pytest.approx(1.0, abs=1e-3)


def test_the_clock_runs_with_what_it_stamps(sim):
    clocks = [to_seconds(m.clock) for m in sim.news("/clock", 60)]
    assert (np.diff(clocks) > 0).all()
    stamp = to_seconds(sim.news("joint_states")[0].header.stamp)
    assert abs(stamp - to_seconds(sim.last("/clock").clock)) < 0.5
    sim.wait(lambda: "real_time_factor" in sim.physics())
    assert sim.physics()["publishes_clock"] == "True"


def test_cameras_are_what_the_robot_file_says(sim):
    camera = next(c for c in ROBOT.cameras if c.name == "front_camera")
    images = sim.news("front_camera/image_raw", 20)
    for image in images:
        assert (image.width, image.height, image.encoding, image.step) == (camera.width, camera.height, "rgb8", 960)
        assert len(image.data) == image.step * image.height and image.header.frame_id == camera.frame
    assert np.frombuffer(images[0].data, np.uint8).std() > 10
    gaps = np.diff([to_seconds(image.header.stamp) for image in images])
    assert gaps.min() > 0.5 / camera.hz and gaps.mean() > 0.9 / camera.hz  # never faster; slower on a busy machine
    wrist = {to_seconds(m.header.stamp) for m in sim.news("left_wrist_camera/image_raw", 20)}
    front = {to_seconds(m.header.stamp) for _, m in sim.heard["front_camera/image_raw"]}
    assert len(wrist & front) >= 15  # pictures of the same moments
    info = sim.news("front_camera/camera_info")[0]
    assert 2 * np.arctan(camera.height / 2 / info.k[4]) == pytest.approx(camera.fov)


def test_a_trajectory_is_obeyed_by_name_and_its_reference_can_be_watched(sim):
    target = np.array([0.3, 0.1, 0.4, 0.2, 0.9, -0.2])
    order = [3, 0, 1, 2, 5, 4]
    sim.wait(lambda: sim.count["left_arm_controller/reference"])
    mark = sim.count["left_arm_controller/reference"]
    sim.move(target[order], 0.5, [ARM.joints[i] for i in order], velocities=[0.0] * 6, accelerations=[0.0] * 6)
    sim.wait(lambda: np.allclose([sim.joints()[j] for j in ARM.joints], target, atol=5e-3))
    seen = [m for _, m in list(sim.heard["left_arm_controller/reference"])][-(sim.count[
        "left_arm_controller/reference"] - mark):]
    positions = np.array([m.position for m in seen])
    assert tuple(seen[-1].name) == ARM.joints and positions[-1] == pytest.approx(target)
    assert np.abs(np.diff(positions, axis=0)).max() < 0.05  # no jump
    assert max(np.abs(m.velocity).max() for m in seen) == pytest.approx(1.875 * 0.3 / 0.5, rel=0.5)


def test_bad_trajectories_are_refused_and_counted_and_nothing_moves(sim):
    before = sim.joints()
    counted = int(sim.physics().get("left_arm_controller.refused", 0))
    sim.move([1.0] * 5, 0.2, ARM.joints[:5])
    sim.move([1.0] * 6, 0.2, [*ARM.joints[:5], "elbow"])
    sim.move([1.0] * 6, 0.2, velocities=[0.1] * 6)
    sim.arm.publish(JointTrajectory(joint_names=list(ARM.joints)))
    sim.wait(lambda: int(sim.physics().get("left_arm_controller.refused", 0)) == counted + 4)
    after = sim.joints()
    assert all(after[j] == pytest.approx(before[j], abs=1e-3) for j in ARM.joints)


def test_the_base_stops_by_itself_when_twists_end(sim):
    twist = TwistStamped()
    twist.twist.linear.x = -0.2
    end = time.monotonic() + LIMIT
    while sim.last("odom").twist.twist.linear.x > -0.18 and time.monotonic() < end:
        sim.base.publish(twist)  # stamp 0: now
        time.sleep(0.02)
    sent = time.monotonic()
    assert sim.last("odom").twist.twist.linear.x < -0.18
    sim.wait(lambda: sim.last("odom").twist.twist.linear.x > -0.01)
    assert time.monotonic() - sent < 2.0  # 0.15 s and what this machine takes
    twist.header.stamp.sec = 1  # long ago
    sim.base.publish(twist)
    sim.wait(lambda: int(sim.physics().get("base_controller.refused", 0)) > 0)


def test_scenes_are_reset_and_described(sim):
    answer = sim.call("reset_scene", scene="table", seed=4)
    assert answer.success and "seed 4" in answer.message
    scene = sim.call("get_scene")
    assert (scene.scene, scene.seed) == ("table", 4) and len(scene.names) == len(scene.poses) >= 5
    assert all(len(words.split()) == 2 for words in scene.descriptions)
    assert all(0.65 < pose.position.z < 0.8 for pose in scene.poses)
    assert sim.joints()[ARM.joints[2]] == pytest.approx(ROBOT.home[2], abs=0.01)
    refused = sim.call("reset_scene", scene="kitchen", seed=0)
    assert not refused.success and "block, clutter, empty, table" in refused.message
    assert sim.call("get_scene").scene == "table"


def test_a_fault_that_does_not_exist_is_refused_with_those_that_do(sim):
    answer = sim.call("set_fault", target="front_camera", kind="explode", value=0.0)
    assert not answer.success and all(kind in answer.message for kind in FAULTS["camera"])


def test_a_frozen_camera_repeats_its_picture_with_fresh_stamps(sim):
    sim.fault("front_camera", "freeze")
    sim.move([0.5, 0.1, 0.4, 0.2, 0.9, -0.2], 0.3)
    sim.news("front_camera/image_raw", 1)
    a, *_, b = sim.news("front_camera/image_raw", 4)
    assert a.data == b.data and to_seconds(b.header.stamp) > to_seconds(a.header.stamp)


@pytest.mark.parametrize("kind, broken", [
    ("encoding", lambda m: m.encoding == "16UC1"),
    ("size", lambda m: m.height * m.step > len(m.data)),
    ("step", lambda m: m.step < 3 * m.width),
])
def test_a_corrupt_camera_sends_malformed_images_and_only_that_camera(sim, kind, broken):
    sim.fault("front_camera", kind)
    sim.wait(lambda: broken(sim.last("front_camera/image_raw")))
    assert not broken(sim.news("left_wrist_camera/image_raw")[0])
    sim.fault("front_camera", "none")
    sim.wait(lambda: not broken(sim.last("front_camera/image_raw")))


def test_skew_delay_and_drop(sim):
    def lag(topic: str) -> float:
        return to_seconds(sim.news("/clock")[0].clock) - to_seconds(sim.last(topic).header.stamp)

    sim.fault("front_camera", "skew", 5.0)
    sim.wait(lambda: lag("front_camera/image_raw") < -4.0)
    sim.fault("front_camera", "drop")
    sim.wait(lambda: time.monotonic() - sim.heard["front_camera/image_raw"][-1][0] > 1.0)
    assert time.monotonic() - sim.heard["left_wrist_camera/image_raw"][-1][0] < 0.9
    sim.fault("front_camera", "delay", 3.0)
    sim.wait(lambda: lag("front_camera/image_raw") > 0.8)  # of simulated time, which a busy machine makes short


def test_joint_states_can_be_wrong_in_every_way(sim):
    good = sim.news("joint_states")[0]
    sim.fault("joint_states", "nan", 2)
    sim.wait(lambda: np.isnan(sim.last("joint_states").position[2]))
    sim.fault("joint_states", "missing", 2)
    sim.wait(lambda: good.name[2] not in sim.last("joint_states").name)
    sim.fault("joint_states", "reorder")
    message = sim.wait(lambda: (m := sim.last("joint_states")) and len(m.name) == len(good.name)
                       and list(m.name) != list(good.name) and m)
    assert dict(zip(message.name, message.position))["lift_joint"] == pytest.approx(0.25, abs=0.01)
    sim.fault("joint_states", "drop", 1.0)
    sim.wait(lambda: time.monotonic() - sim.heard["joint_states"][-1][0] > 0.5)
    assert time.monotonic() - sim.heard["odom"][-1][0] < 0.4


def test_stalled_physics_and_what_follows(sim):
    before = sim.count["/clock"]
    sim.fault("physics", "stall", 0.6)
    sim.wait(lambda: time.monotonic() - sim.heard["/clock"][-1][0] > 0.4)
    sim.wait(lambda: sim.count["/clock"] > before + 50)  # goes on by itself


def test_the_clock_pauses_while_the_world_goes_on_and_jumps(sim):
    sim.fault("clock", "pause")
    sim.wait(lambda: time.monotonic() - sim.heard["/clock"][-1][0] > 0.4)
    assert time.monotonic() - sim.heard["joint_states"][-1][0] < 0.3
    sim.fault("clock", "none")
    sim.news("/clock")
    for leap in (30.0, -20.0):
        before = to_seconds(sim.news("/clock")[0].clock)
        sim.fault("clock", "jump", leap)
        sim.wait(lambda: abs(to_seconds(sim.last("/clock").clock) - before - leap) < 5.0)
        at = to_seconds(sim.news("joint_states", 3)[-1].header.stamp)
        assert abs(at - before - leap) < 6.0
        sim.news("front_camera/image_raw", 2)
    target = [0.0, 0.2, 0.4, 0.0, 1.0, 0.0]
    sim.move(target, 0.3)  # the controllers live on
    sim.wait(lambda: np.allclose([sim.joints()[j] for j in ARM.joints], target, atol=5e-3))


def test_two_robots_do_not_fight_over_the_clock_nor_hear_each_other(sim, ros):
    second = start("use_sim_time:=true", "render:=false", namespace="/second")
    client = Client(ros, "/second")
    try:
        client.wait(lambda: client.count["joint_states"] > 50, 40)
        sim.wait(lambda: sim.node.count_publishers("/clock") == 1)  # whoever came second hears of the first, and yields
        clock = to_seconds(sim.news("/clock")[0].clock)
        assert abs(to_seconds(client.last("joint_states").header.stamp) - clock) < 1.0  # it lives by the other's clock
        before = sim.joints()
        client.wait(lambda: client.arm.get_subscription_count())
        client.move([0.4] * 6, 0.3)
        client.wait(lambda: abs(client.joints()["left_joint1"] - 0.4) < 0.01)
        assert sim.joints()["left_joint1"] == pytest.approx(before["left_joint1"], abs=1e-3)
    finally:
        code = stop(second)
        client.close()
    assert code == 0


def test_on_the_systems_clock_stamps_are_the_systems_time(ros):
    process = start("render:=false", "robot:=single_arm", namespace="/wall")
    client = Client(ros, "/wall")
    try:
        client.wait(lambda: client.count["joint_states"] > 200, 40)
        arrived = [abs(to_seconds(m.header.stamp) - time.time()) for m in client.news("joint_states", 3)]
        assert max(arrived) < 0.3
    finally:
        code = stop(process)
        client.close()
    assert code == 0


@pytest.mark.parametrize("argument, words", [
    ("robot:=no_such_robot", "no_such_robot"),
    ("scene:=kitchen", "no scene is called 'kitchen'; there are"),
    ("pace:=-1.0", "parameter 'pace' is -1, but must be at least 0 and at most 20"),
    ("pace:=2.0", "set use_sim_time to true"),
    ("seed:=many", "parameter 'seed' is 'many', but must be a int"),
])
def test_what_is_wrong_with_an_argument_is_said_in_one_line(domain, argument, words):
    process = start(argument)
    _, errors = process.communicate(timeout=60)
    lines = [line for line in errors.splitlines() if line.strip()]
    assert process.returncode == 2 and len(lines) == 1 and words in lines[0], errors


def test_unpaced_it_loses_no_picture():
    row = _node_row(argparse.Namespace(robot="pi_mobile", scene="block", seed=0, seconds=2.0), 0.0)
    assert row["images_per_s"] == pytest.approx(row["factor"] * sum(camera.hz for camera in ROBOT.cameras), rel=0.1)
