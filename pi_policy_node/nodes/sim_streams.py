"""What the simulated robot tells of itself: joint_states, odom and tf, the cameras; with their faults on request."""

from __future__ import annotations

import copy
import math
import threading
import time
from array import array
from collections import deque
from typing import TYPE_CHECKING

import mujoco
import numpy as np
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState

from pi_policy_node.nodes.common import ERROR, RELIABLE10, SENSOR, describe, from_seconds
from pi_policy_node.nodes.sim_topics import doubles
from pi_policy_node.robot import Camera
from pi_policy_node.sim.faults import Fault
from pi_policy_node.sim.render import Renderer

if TYPE_CHECKING:
    from pi_policy_node.nodes.sim import Sim


class Stream:
    """One topic with a rate, and between it and the world the faults that belong to any topic."""

    def __init__(self, node: Sim, target: str, hz: float):
        self.node = node
        self.target = target
        self.period = 1.0 / hz
        self._due = -math.inf
        self._late: deque[tuple[float, tuple]] = deque()
        self._frozen = None

    def is_due(self, now: float) -> bool:
        """Whether the time has come for the next one; asking moves on."""
        if now < self._due - 1e-6 and now > self._due - 2 * self.period:  # or the clock has leapt back
            return False
        self._due = max(self._due + self.period, now) if self._due > now - self.period else now + self.period
        return True

    def fault(self) -> Fault | None:
        return self.node.faults.get(self.target, now=time.monotonic())

    def content(self, fault: Fault | None, fresh):
        """What is told: `fresh`, or what was told when it froze."""
        if fault is None or fault.kind != "freeze":
            self._frozen = fresh
        return self._frozen

    def stamp(self, fault: Fault | None, now: float):
        return from_seconds(now + (fault.value if fault is not None and fault.kind == "skew" else 0.0))

    def send(self, fault: Fault | None, *messages: tuple) -> None:
        """Publishes (publisher, message) pairs, unless they are lost or late."""
        steady = time.monotonic()
        if fault is not None and fault.kind == "drop" and self.node.random.random() < (fault.value or 1.0):
            return
        late = fault.value if fault is not None and fault.kind == "delay" else 0.0
        self._late.append((steady + late, messages))
        self.flush()

    def flush(self) -> None:
        """Publishes what was held back long enough."""
        while self._late and self._late[0][0] <= time.monotonic():
            for publisher, message in self._late.popleft()[1]:
                publisher.publish(message)


class JointStates(Stream):
    """joint_states of every moving joint."""

    def __init__(self, node: Sim, hz: float):
        super().__init__(node, "joint_states", hz)
        self._publisher = node.create_publisher(JointState, "joint_states", RELIABLE10)

    def read(self, now: float):
        """Called with the simulator's lock held."""
        return (now, self.node.simulator.physics.joint_state()) if self.is_due(now) else None

    def publish(self, reading) -> None:
        if reading is None:
            return self.flush()
        now, state = reading
        fault = self.fault()
        names, *columns = self.content(fault, state)
        order = list(range(len(names)))
        if fault is not None and fault.kind == "reorder":
            self.node.random.shuffle(order)
        if fault is not None and fault.kind == "missing":
            order.remove(int(fault.value) % len(names))
        position, velocity, effort = (column[order] for column in columns)
        if fault is not None and fault.kind == "nan":
            position[int(fault.value) % len(names)] = math.nan
        message = JointState(name=[names[i] for i in order], position=doubles(position), velocity=doubles(velocity),
                             effort=doubles(effort))
        message.header.stamp = self.stamp(fault, now)
        self.send(fault, (self._publisher, message))


class OdometryStream(Stream):
    """odom, and tf from odom to the base where tf2_msgs is installed; of a robot with a base."""

    def __init__(self, node: Sim, hz: float):
        super().__init__(node, "odom", hz)
        self._publisher = self._tf = None
        if not any(group.kind == "base" for group in node.robot.groups):
            return
        self._publisher = node.create_publisher(Odometry, "odom", RELIABLE10)
        try:
            from tf2_msgs.msg import TFMessage
        except ImportError:
            return
        self._type = TFMessage
        self._tf = node.create_publisher(TFMessage, "tf", RELIABLE10)

    def read(self, now: float):
        """Called with the simulator's lock held."""
        return (now, self.node.simulator.physics.base()) if self._publisher and self.is_due(now) else None

    def publish(self, reading) -> None:
        if reading is None:
            return self.flush()
        now, base = reading
        fault = self.fault()
        x, y, yaw, vx, vy, wz = self.content(fault, base)
        message = Odometry(child_frame_id=self.node.robot.base_frame)
        message.header.frame_id, message.header.stamp = "odom", self.stamp(fault, now)
        pose, twist = message.pose.pose, message.twist.twist
        pose.position.x, pose.position.y = x, y
        pose.orientation.z, pose.orientation.w = math.sin(yaw / 2), math.cos(yaw / 2)
        twist.linear.x, twist.linear.y, twist.angular.z = vx, vy, wz
        if fault is not None and fault.kind == "nan":
            twist.linear.x = twist.linear.y = twist.angular.z = math.nan
        messages = [(self._publisher, message)]
        if self._tf is not None:
            transform = TransformStamped(header=message.header, child_frame_id=message.child_frame_id)
            transform.transform.translation.x, transform.transform.translation.y = x, y
            transform.transform.rotation = pose.orientation
            messages.append((self._tf, self._type(transforms=[transform])))
        self.send(fault, *messages)


class CameraStream(Stream):
    """`<camera>/image_raw` or `…/compressed`, and `<camera>/camera_info` beside it."""

    def __init__(self, node: Sim, camera: Camera):
        super().__init__(node, camera.name, camera.hz)
        self.camera = camera
        # A live sensor never gives the same picture twice: the lowest bit is noise, from a new place in it each time.
        self._noise = np.random.default_rng(0).integers(0, 2, 3 * camera.height * camera.width + 4096, np.uint8)
        kind = CompressedImage if camera.transport == "compressed" else Image
        self._publisher = node.create_publisher(kind, camera.topic, SENSOR)
        # front_camera/image_raw and front_camera/image_raw/compressed both have front_camera/camera_info beside them.
        namespace = camera.topic.split("/image_raw")[0] if "/image_raw" in camera.topic else camera.name
        self._info_publisher = node.create_publisher(CameraInfo, f"{namespace}/camera_info", SENSOR)
        focal = camera.height / 2 / math.tan(camera.fov / 2)
        cx, cy = camera.width / 2, camera.height / 2
        self._info = CameraInfo(width=camera.width, height=camera.height, distortion_model="plumb_bob", d=[0.0] * 5,
                                k=[focal, 0.0, cx, 0.0, focal, cy, 0.0, 0.0, 1.0],
                                r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
                                p=[focal, 0.0, cx, 0.0, 0.0, focal, cy, 0.0, 0.0, 0.0, 1.0, 0.0])

    def publish(self, image: np.ndarray, now: float) -> None:
        fault = self.fault()
        offset = self.node.random.randrange(4096)
        image = image ^ self._noise[offset:offset + image.size].reshape(image.shape)
        image = self.content(fault, image)
        message = self._compressed(image) if self.camera.transport == "compressed" else self._raw(image, fault)
        message.header.frame_id, message.header.stamp = self.camera.frame, self.stamp(fault, now)
        info = copy.copy(self._info)  # one of its own for each image: it may be sent late
        info.header = message.header
        self.send(fault, (self._publisher, message), (self._info_publisher, info))

    def _raw(self, image: np.ndarray, fault: Fault | None) -> Image:
        height, width = image.shape[:2]
        message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
        message.data = array("B", image.tobytes())
        kind = fault.kind if fault is not None else ""
        if kind == "encoding":
            message.encoding = "16UC1"
        if kind == "size":
            message.height += 1
        if kind == "step":
            message.step -= 1
        return message

    def _compressed(self, image: np.ndarray) -> CompressedImage:
        import cv2

        _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
        message = CompressedImage(format="rgb8; jpeg compressed bgr8")
        message.data = array("B", data.tobytes())
        return message


class Cameras:
    """The rendering thread: copies the world when pictures are due, so that the physics never waits for them."""

    def __init__(self, node: Sim, stopping: threading.Event):
        self._node, self._stopping = node, stopping
        self._streams = [CameraStream(node, camera) for camera in node.robot.cameras]
        self._lock = threading.Lock()
        self._wanted: set[CameraStream] = set()  # whose pictures are due
        self._wake = threading.Event()
        self._taken = threading.Event()  # the pictures that were due have been taken
        self._taken.set()
        self.images = 0  # sent so far
        self._thread = threading.Thread(target=self._run, name="cameras", daemon=True)
        self._thread.start()

    def wake(self, now: float) -> None:
        """Called at every tick by the physics."""
        due = [stream for stream in self._streams if stream.is_due(now)]
        if due:
            with self._lock:  # all at once, or they would be pictures of different moments
                self._wanted |= set(due)
                self._taken.clear()
            self._wake.set()

    def keep_up(self) -> None:
        """Unpaced: waits until every picture that was due has been taken, so that none is lost."""
        while not self._taken.wait(0.1) and self._thread.is_alive() and not self._stopping.is_set():
            pass

    def join(self, limit: float) -> None:
        self._wake.set()
        self._thread.join(limit)

    def _run(self) -> None:
        node = self._node
        cameras = node.robot.cameras
        try:
            renderer = Renderer(node.simulator.model, width=max(c.width for c in cameras),
                                height=max(c.height for c in cameras))
            data = mujoco.MjData(node.simulator.model.mj)
            while not self._stopping.is_set():
                if self._wake.wait(0.02):
                    self._wake.clear()
                    self._shoot(renderer, data)
                for stream in self._streams:
                    stream.flush()
        except Exception as error:
            if not self._stopping.is_set():  # at the end, publishers go before the thread does
                node.get_logger().fatal(f"the cameras are dead: {describe(error)}")
                node.diagnostics.set("cameras", ERROR, f"dead: {describe(error)}")

    def _shoot(self, renderer: Renderer, data: mujoco.MjData) -> None:
        node = self._node
        with node.drawing:
            with node.lock, self._lock:
                mujoco.mj_copyData(data, node.simulator.model.mj, node.simulator.physics.data)
                now = node.simulator.time
                due = [stream for stream in self._streams if stream in self._wanted]
                self._wanted.clear()
                self._taken.set()
            images = renderer.cameras(data, [stream.camera.name for stream in due])
        for stream in due:
            stream.publish(images[stream.camera.name], now)
            self.images += 1
