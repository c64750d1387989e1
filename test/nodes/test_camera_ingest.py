"""camera_ingest as a process on real DDS, fed by publishers of this test."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from array import array

import cv2
import numpy as np
import pytest

from pi_policy_node.robot import load_robot
from pi_policy_node.vision import decode_compressed, encode_jpeg, letterbox

LIMIT = 30.0  # s; for what takes milliseconds on an idle machine
ROBOT = load_robot("pi_mobile")
NAMES = [camera.name for camera in ROBOT.cameras]
JOINTS = [joint for group in ROBOT.groups for joint in group.joints]
NOISE = np.random.default_rng(0).integers(0, 256, (64, 240, 320, 3), dtype=np.uint8)


def wait(condition, limit=LIMIT, what=""):
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, what or "nothing came"
        time.sleep(0.005)


class Ingest:
    """The node, lifecycle and all, and a reader of what it publishes."""

    def __init__(self, node, *arguments, namespace=""):
        from diagnostic_msgs.msg import DiagnosticArray
        from lifecycle_msgs.srv import ChangeState

        from pi_msgs.msg import Observation
        from pi_policy_node.nodes.common import SENSOR

        self.sets, self.diagnostics = [], {}
        self._subscriptions = [
            node.create_subscription(
                Observation, f"{namespace}/observation", lambda m: self.sets.append((time.time(), m)), SENSOR),
            node.create_subscription(DiagnosticArray, f"{namespace}/diagnostics", self._said, 50)]
        self._node = node
        self._client = node.create_client(ChangeState, f"{namespace}/camera_ingest/change_state")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pi_policy_node.nodes.camera_ingest", "--ros-args",
             "-r", f"__ns:={namespace or '/'}", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            assert self._client.wait_for_service(LIMIT)
            assert self.change("configure") and self.change("activate")
        except BaseException:
            self.process.kill()
            raise

    def _said(self, message):
        for status in message.status:
            name, _, subsystem = status.name.partition(": ")
            if name == "camera_ingest":
                self.diagnostics[subsystem] = status

    def change(self, verb):
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        number = getattr(Transition, f"TRANSITION_{verb.upper()}")
        future = self._client.call_async(ChangeState.Request(transition=Transition(id=number)))
        wait(future.done, what=verb)
        return future.result().success

    def latest(self):
        return self.sets[-1][1] if self.sets else None

    def states(self, message=None):
        message = message or self.latest()
        return dict(zip(message.cameras, zip(message.valid, message.reasons))) if message else {}

    def until(self, camera, pattern, limit=LIMIT):
        """Waits for a set in which that camera's reason matches ("" = valid)."""
        def seen():
            valid, reason = self.states().get(camera, (None, ""))
            return valid is not None and valid == (not pattern) and re.search(pattern, reason)

        wait(seen, limit, f"{camera}: wanted '{pattern}', have {self.states().get(camera)}")

    def close(self):
        self.process.send_signal(signal.SIGINT)
        try:
            output = self.process.communicate(timeout=LIMIT)[0]
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._node.destroy_client(self._client)
        return self.process.returncode, output


class Cameras:
    """Publishes all cameras, joint_states and odom at 20 Hz, with faults per camera."""

    def __init__(self, node, *, reliable=()):
        from nav_msgs.msg import Odometry
        from rclpy.qos import QoSProfile, ReliabilityPolicy
        from sensor_msgs.msg import Image, JointState

        def qos(name):
            best = ReliabilityPolicy.RELIABLE if name in reliable else ReliabilityPolicy.BEST_EFFORT
            return QoSProfile(depth=1, reliability=best)

        self.node = node
        self.publishers = {camera.name: node.create_publisher(Image, camera.topic, qos(camera.name))
                           for camera in ROBOT.cameras}
        self.joints = node.create_publisher(JointState, "joint_states", 10)
        self.odom = node.create_publisher(Odometry, "odom", 10)
        self.faults = {}  # camera or "joint_states" -> function(message) -> message, or None to send nothing
        self.count = 0
        self.sending = threading.Lock()  # the node spins in a thread of its own
        self.timer = node.create_timer(0.05, self.tick)

    def tick(self):
        with self.sending:
            if self.publishers:
                self.send_all()

    def send_all(self):
        from nav_msgs.msg import Odometry
        from sensor_msgs.msg import JointState

        self.count += 1
        stamp = self.node.get_clock().now().to_msg()
        joints = JointState(name=JOINTS, position=[0.25] * len(JOINTS))
        for publisher, message, name in ((self.joints, joints, "joint_states"), (self.odom, Odometry(), "odom")):
            message.header.stamp = stamp
            self.send(publisher, message, name)
        for index, name in enumerate(NAMES):
            self.send(self.publishers[name], image(NOISE[(self.count + 7 * index) % 64], stamp), name)

    def send(self, publisher, message, name):
        message = self.faults.get(name, lambda m: m)(message)
        if message is not None:
            publisher.publish(message)

    def close(self):
        with self.sending:
            self.node.destroy_timer(self.timer)
            for publisher in (*self.publishers.values(), self.joints, self.odom):
                self.node.destroy_publisher(publisher)
            self.publishers = {}


def image(pixels, stamp, encoding="rgb8"):
    from sensor_msgs.msg import Image

    message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding, step=pixels[0].nbytes)
    message.header.stamp = stamp
    message.data = array("B", pixels.tobytes())
    return message


@pytest.fixture(scope="module")
def node(ros):
    """A node of the test's, spun in a thread."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    node = rclpy.create_node("test_camera_ingest")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    ended = threading.Event()

    def spin():
        while not ended.is_set():
            executor.spin_once(timeout_sec=0.05)

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    yield node
    ended.set()
    thread.join(5)
    node.destroy_node()


@pytest.fixture(scope="module")
def ingest(node):
    ingest = Ingest(node)
    yield ingest
    code, output = ingest.close()
    assert code == 0, output


@pytest.fixture
def cameras(node):
    cameras = Cameras(node, reliable=("rear_camera",))
    yield cameras
    cameras.close()


def everything_valid(ingest):
    states = ingest.states()
    return bool(states) and all(valid for valid, _ in states.values()) and ingest.latest().joints_valid


def test_whole_sets_come_at_the_robots_rate(ingest, cameras):
    wait(lambda: everything_valid(ingest))
    ingest.sets.clear()
    wait(lambda: len(ingest.sets) >= 40)
    wait(lambda: everything_valid(ingest))
    message = next(m for _, m in reversed(ingest.sets) if all(m.valid) and m.joints_valid)
    assert message.cameras == NAMES and message.valid == [True] * 4 and message.reasons == [""] * 4
    assert message.odom_valid and message.joints.name == JOINTS
    assert message.header.frame_id == ROBOT.base_frame
    stamps = [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for _, m in ingest.sets]
    assert stamps == sorted(set(stamps))
    assert np.median(np.diff(stamps)) * 1e-9 == pytest.approx(1 / ROBOT.observation_hz, rel=0.25)
    sequences = [m.sequence for _, m in ingest.sets]
    assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))
    boxed = [letterbox(picture, ROBOT.image_size) for picture in NOISE]
    for camera, picture in zip(ROBOT.cameras, message.images):
        assert (picture.encoding, picture.step, picture.header.frame_id) == ("rgb8", picture.width * 3, camera.frame)
        pixels = np.frombuffer(picture.data, np.uint8).reshape(*ROBOT.image_size, 3)
        assert any(np.array_equal(pixels, candidate) for candidate in boxed)
    wait(lambda: "added age p99 [ms]" in {v.key for v in ingest.diagnostics["observation"].values})


def rewrite(**fields):
    def fault(message):
        for key, value in fields.items():
            setattr(message, key, value)
        return message

    return fault


def stamped(seconds):
    def fault(message):
        stamp = message.header.stamp
        message.header.stamp = type(stamp)(sec=stamp.sec + seconds, nanosec=stamp.nanosec)
        return message

    return fault


def frozen():
    first = []

    def fault(message):
        first.append(message.data)
        message.data = first[0]
        return message

    return fault


def standing():
    first = []

    def fault(message):
        first.append(message.header.stamp)
        message.header.stamp = first[0]
        return message

    return fault


@pytest.mark.parametrize("name, fault, reason", [
    ("silent", lambda: lambda message: None, "late: no image for 0"),
    ("frozen pixels", frozen, "frozen: the same pixels 1[0-9]"),
    ("frozen stamp", standing, "frozen: its stamp has not advanced"),
    ("future", lambda: stamped(3), "in the future"),
    ("old", lambda: stamped(-3), "late: captured [23]"),
    ("encoding", lambda: rewrite(encoding="16UC1"), "encoding '16UC1' is not accepted; accepted are rgb8"),
    ("short", lambda: rewrite(data=array("B", b"abc")), "3 bytes of data, but 240 rows"),
    ("step", lambda: rewrite(step=7), "step is 7 bytes"),
    ("no stamp", lambda: lambda m: image(NOISE[0], type(m.header.stamp)()), "its stamp is zero"),
])
def test_a_faulty_camera_is_named_and_the_others_go_on(ingest, cameras, name, fault, reason):
    wait(lambda: everything_valid(ingest))
    ingest.sets.clear()
    cameras.faults["left_wrist_camera"] = fault()
    left = NAMES.index("left_wrist_camera")
    wait(lambda: any(not m.valid[left] and re.search(reason, m.reasons[left]) and sum(m.valid) == len(NAMES) - 1
                     for _, m in list(ingest.sets)), what=f"{reason}, and the others valid: {ingest.states()}")
    bad = next(m.images[left] for _, m in ingest.sets if not m.valid[left])
    assert (bad.height, bad.width, len(bad.data)) == (0, 0, 0)
    wait(lambda: re.search(reason, ingest.diagnostics["left_wrist_camera"].message)
         and ingest.diagnostics["left_wrist_camera"].level == b"\x02")
    before = len(ingest.sets)
    wait(lambda: len(ingest.sets) > before + 5)
    pauses = np.diff([at for at, _ in ingest.sets])
    assert pauses.max() < 1.5  # never a long silence for the sake of one camera
    cameras.faults.clear()
    ingest.until("left_wrist_camera", "")
    wait(lambda: ingest.diagnostics["left_wrist_camera"].level == b"\x00")


@pytest.mark.parametrize("name, fault, reason", [
    ("silent", lambda m: None, "late"),
    ("joint missing", lambda m: rewrite(name=m.name[1:], position=m.position[1:])(m), f"lacks {JOINTS[0]}"),
    ("NaN", lambda m: rewrite(position=[float("nan")] * len(JOINTS))(m), "not finite"),
    ("future", stamped(3), "in the future"),
    ("lengths", lambda m: rewrite(position=[0.0])(m), "1 positions"),
    ("velocities", lambda m: rewrite(velocity=[0.0])(m), "1 of velocity"),
])
def test_bad_joint_states_are_not_passed_on(ingest, cameras, name, fault, reason):
    wait(lambda: everything_valid(ingest))
    cameras.faults["joint_states"] = fault
    wait(lambda: not ingest.latest().joints_valid)
    assert not ingest.latest().joints.name and all(ingest.latest().valid)
    wait(lambda: reason in ingest.diagnostics["joint_states"].message, what=ingest.diagnostics["joint_states"].message)
    cameras.faults.clear()
    wait(lambda: everything_valid(ingest))


def test_all_cameras_silent_is_said_once(ingest, cameras):
    wait(lambda: everything_valid(ingest))
    cameras.faults.update(dict.fromkeys(NAMES, lambda message: None))
    wait(lambda: not any(ingest.latest().valid))
    wait(lambda: ingest.diagnostics["observation"].message == "no camera is valid")
    count, tick = len(ingest.sets), cameras.count
    wait(lambda: cameras.count > tick + 20)
    assert len(ingest.sets) == count


def test_nothing_is_sent_while_inactive(ingest, cameras):
    wait(lambda: everything_valid(ingest))
    assert ingest.change("deactivate")
    time_left = cameras.count + 10
    ingest.sets.clear()
    wait(lambda: cameras.count > time_left)
    assert not ingest.sets
    assert ingest.change("cleanup") and ingest.change("configure") and ingest.change("activate")
    wait(lambda: everything_valid(ingest))
    assert ingest.sets[0][1].sequence == 0


def test_sources_namespace_and_qos(node, tmp_path):
    """A file as a camera, a publisher that can't be heard, a wrong type, in a namespace."""
    from sensor_msgs.msg import CompressedImage, Image

    from pi_policy_node.nodes.common import SENSOR

    film = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter_fourcc(*"MJPG"), 20.0, (320, 240))
    for picture in NOISE[:20]:
        writer.write(picture)
    writer.release()
    publishers = [node.create_publisher(Image, "/second/left_wrist_camera/image_raw", SENSOR),
                  node.create_publisher(CompressedImage, "/second/right_wrist_camera/image_raw", SENSOR)]
    ingest = Ingest(node, "-p", f"front_camera.source:={film}", "-p", "reliable:=true", namespace="/second")
    try:
        ingest.until("front_camera", "")
        expected = {"left_wrist_camera": "offers less RELIABILITY than this node asks for",
                    "right_wrist_camera": "is published as sensor_msgs/msg/CompressedImage",
                    "rear_camera": "nobody publishes /second/rear_camera/image_raw"}
        for camera, words in expected.items():
            wait(lambda: words in getattr(ingest.diagnostics.get(camera), "message", ""), what=f"{camera}: {words}")
        assert ingest.diagnostics["rear_camera"].level == b"\x01"  # not required
        node.destroy_publisher(publishers.pop(0))
        wait(lambda: "nobody publishes" in ingest.diagnostics["left_wrist_camera"].message, what="that it is gone")
    finally:
        code, output = ingest.close()
        for publisher in publishers:
            node.destroy_publisher(publisher)
    assert code == 0 and "Traceback" not in output


def test_compressed_images_of_another_robot(node):
    """single_arm.yaml: JPEG from one camera, no base and so no odom."""
    from sensor_msgs.msg import CompressedImage, Image, JointState

    robot = load_robot("single_arm")
    joints = [joint for group in robot.groups for joint in group.joints]
    data = {"good": encode_jpeg(NOISE[0]), "cut": encode_jpeg(NOISE[0])[:2000]}
    state = {"data": "good"}
    ingest = Ingest(node, "-p", "robot:=single_arm", namespace="/third")
    publishers = {camera.name: node.create_publisher(
        CompressedImage if camera.transport == "compressed" else Image, f"/third/{camera.topic}", 1)
        for camera in robot.cameras}
    joint_states = node.create_publisher(JointState, "/third/joint_states", 10)
    compressed = next(camera.name for camera in robot.cameras if camera.transport == "compressed")
    count = 0

    def tick():
        nonlocal count
        count += 1
        stamp = node.get_clock().now().to_msg()
        message = JointState(name=joints, position=[0.1] * len(joints))
        message.header.stamp = stamp
        joint_states.publish(message)
        for camera in robot.cameras:
            if camera.name == compressed:
                file = CompressedImage(format="jpeg", data=array("B", data[state["data"]] + bytes([count % 256])))
                file.header.stamp = stamp
                publishers[camera.name].publish(file)
            else:
                publishers[camera.name].publish(image(NOISE[count % 64], stamp))

    timer = node.create_timer(1 / 30, tick)
    try:
        wait(lambda: ingest.states() and all(valid for valid, _ in ingest.states().values()))
        wait(lambda: ingest.latest().joints_valid and ingest.latest().odom_valid)
        picture = ingest.latest().images[[camera.name for camera in robot.cameras].index(compressed)]
        pixels = np.frombuffer(picture.data, np.uint8).reshape(*robot.image_size, 3)
        np.testing.assert_array_equal(
            pixels, letterbox(decode_compressed(format="jpeg", data=data["good"]), robot.image_size))
        state["data"] = "cut"
        ingest.until(compressed, "a broken file of 2001 bytes")
    finally:
        node.destroy_timer(timer)
        code, output = ingest.close()
    assert code == 0 and "Traceback" not in output


@pytest.mark.parametrize("arguments, words", [
    (("-p", "tolerance:=-1.0"), "parameter 'tolerance' is -1, but must be at least 0.001"),
    (("-p", "frozen_frames:=many"), "parameter 'frozen_frames' is 'many', but must be a int"),
    (("-p", "robot:=nowhere"), "nowhere"),
])
def test_wrong_parameters_are_one_line_and_exit_2(domain, arguments, words):
    command = [sys.executable, "-m", "pi_policy_node.nodes.camera_ingest", "--ros-args", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=dict(os.environ))
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.strip()]) == 1
