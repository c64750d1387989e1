"""Cameras, joint states and odometry in; one synchronised, letterboxed `observation` out.

Works on arrival: each image is judged, decoded and letterboxed when it comes, and the set goes out with its last image.
An image that can't be used makes its camera invalid in the set, with the reason in words; nothing stands in for it.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from nav_msgs.msg import Odometry
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from sensor_msgs.msg import CompressedImage, Image, JointState

from pi_msgs.msg import Observation
from pi_policy_node.nodes import common
from pi_policy_node.robot import Camera, RobotError
from pi_policy_node.vision import (CameraWatch, Eye, Frame, ImageError, ImageSet, Picture, Samples, SetPicker,
                                   VideoSource, check_message, decode_compressed, decode_message, find_cv_bridge)

PUMP_PERIOD = 0.02  # s; how soon a silence is noticed
CLOCK_SLACK = 0.05  # s by which a stamp may be ahead of our clock
SIMULATED_SLACK = 0.25  # s; there, our clock is as old as the last /clock that was read, and images race it
DECODERS = 2  # threads
AGES = 1000  # sets over which the added age is reported


class CameraIngest(common.ManagedNode):
    def __init__(self) -> None:
        super().__init__("camera_ingest")
        self.robot = common.robot_parameter(self)
        self.tolerance = common.parameter(
            self, "tolerance", 0.05, "how far apart the capture times in a set may be [s]", minimum=0.001, maximum=1.0)
        self.max_age = common.parameter(
            self, "max_age", 0.25, "oldest image that is still used, from its stamp [s]", minimum=0.01, maximum=5.0)
        self.frozen_frames = common.parameter(
            self, "frozen_frames", 10, "that many images in a row with equal pixels are a frozen camera; 0: never",
            minimum=0, maximum=10000)
        self.reliable = common.parameter(
            self, "reliable", False, "ask publishers for reliable images; best effort hears every publisher")
        self.use_cv_bridge = common.parameter(
            self, "use_cv_bridge", True, "decode with cv_bridge where it is installed: adds bayer and yuv422 encodings")
        self._sources = {camera.name: common.parameter(
            self, f"{camera.name}.source", "", "a device (0, /dev/video0), file or URL to read instead of the topic")
            for camera in self.robot.cameras}
        simulated = bool(self.get_parameter("use_sim_time").value)
        self._future = max(self.robot.clock_tolerance, SIMULATED_SLACK if simulated else CLOCK_SLACK)
        self._has_base = any(group.kind == "base" for group in self.robot.groups)
        self._pool = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")
        self._lock = threading.RLock()  # video sources have threads of their own
        self._output = None
        self._inputs: list = []
        self._watchdogs: list = []
        self._videos: list[VideoSource] = []
        self._unheard: dict[str, str] = {}  # camera -> a publisher whose QoS keeps its images from us

    # ------------------------------------------------------------------------------------------------------- lifecycle

    def configure(self) -> None:
        self._bridge, self._decoding = find_cv_bridge() if self.use_cv_bridge else (None, "own decoding, as asked for")
        self.get_logger().info(self._decoding)
        self._start_afresh()
        events = PublisherEventCallbacks(incompatible_qos=self._observation_unheard)
        self._output = self.create_publisher(Observation, "observation", common.SENSOR, event_callbacks=events)
        for camera in self.robot.cameras:
            if not self._sources[camera.name]:
                self._inputs.append(self._subscribe(camera))
        sensor10 = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._inputs.append(self.create_subscription(JointState, "joint_states", self._on_joints, sensor10))
        if self._has_base:
            self._inputs.append(self.create_subscription(Odometry, "odom", self._on_odom, sensor10))

    def activate(self) -> None:
        self._start_afresh()
        self._videos = [self._open(camera) for camera in self.robot.cameras if self._sources[camera.name]]
        self._watchdogs = [common.steady_timer(self, PUMP_PERIOD, self._pump),
                        common.steady_timer(self, 1.0, self._report)]

    def deactivate(self) -> None:
        for video in self._videos:
            video.close()
        for timer in self._watchdogs:
            self.destroy_timer(timer)
        self._videos, self._watchdogs = [], []

    def cleanup(self) -> None:
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self._inputs = []
        if self._output is not None:
            self.destroy_publisher(self._output)
            self._output = None

    def _start_afresh(self) -> None:
        self._forget()
        self._sequence = 0
        self._ages: deque[float] = deque(maxlen=AGES)
        self._reported = time.monotonic()

    def _forget(self) -> None:
        """Nothing has been seen yet."""
        cameras = self.robot.cameras
        self._eyes = {camera.name: Eye(
            CameraWatch(max_age=self.max_age, future=self._future, frozen_frames=self.frozen_frames),
            (camera.height, camera.width)) for camera in cameras}
        self._picker = SetPicker({camera.name: camera.hz for camera in cameras},
                                 hz=self.robot.observation_hz, tolerance=self.tolerance)
        self._joints, self._odom = Samples(), Samples()
        self._joints_reason, self._odom_reason = "no joint_states yet", "no odom yet"
        self._arrivals = dict.fromkeys(self._eyes, 0)  # at the last report
        self._latest = 0

    # ---------------------------------------------------------------------------------------------------------- inputs

    def _subscribe(self, camera: Camera):
        compressed = camera.transport == "compressed"

        def decode(message) -> np.ndarray:
            if compressed:
                return decode_compressed(format=message.format, data=message.data)
            return decode_message(message, self._bridge)

        def arrived(message, info) -> None:
            reason = ""
            try:
                if not compressed:
                    check_message(message, self._bridge)
            except ImageError as error:
                reason = str(error)
            data = np.frombuffer(message.data, dtype=np.uint8)
            self._on_image(camera.name, common.to_ns(message.header.stamp), data, lambda: decode(message),
                           info["received_timestamp"], reason)

        qos = QoSProfile(
            depth=1, reliability=ReliabilityPolicy.RELIABLE if self.reliable else ReliabilityPolicy.BEST_EFFORT)
        events = SubscriptionEventCallbacks(incompatible_qos=lambda event: self._camera_unheard(camera, event))
        return self.create_subscription(
            CompressedImage if compressed else Image, camera.topic, arrived, qos, event_callbacks=events)

    def _open(self, camera: Camera) -> VideoSource:
        def image(rgb: np.ndarray) -> None:
            self._on_image(camera.name, self.get_clock().now().nanoseconds, rgb, lambda: rgb, time.time_ns())

        def trouble(sentence: str) -> None:
            with self._lock:
                self._eyes[camera.name].refused += 1
                self._picker.refuse(camera.name, sentence, time.monotonic())

        return VideoSource(self._sources[camera.name], on_image=image, on_trouble=trouble,
                           size=(camera.height, camera.width), hz=camera.hz)

    def _on_image(self, name: str, stamp: int, data: np.ndarray, decode: Callable[[], np.ndarray], received: int,
                  reason: str = "") -> None:
        """Judges an image at the door. `received`: when it reached this process [ns, system clock]."""
        if not self.active:
            return
        with self._lock:
            now, steady = self._time(), time.monotonic()
            eye = self._eyes[name]
            eye.arrived += 1
            reason = eye.watch.check(stamp, now, data) or reason
            if not now and self.get_clock().ros_time_is_active:
                reason = "use_sim_time is set, but no /clock has come"
            if reason:
                eye.refused += 1
                self._picker.refuse(name, reason, steady)
            else:
                picture = Picture(eye, self.robot.image_size, decode)
                if self._picker.wanted(name, stamp):
                    picture.start(self._pool)
                self._picker.add(name, Frame(stamp, steady, picture))
            self._publish_when_due(received)

    def _on_joints(self, message: JointState) -> None:
        if not self.active:
            return
        with self._lock:
            stamp = common.to_ns(message.header.stamp)
            reason = self._premature(stamp)  # first: the clock may have jumped
            try:
                self.robot.state(message.name, message.position)
                for field in ("velocity", "effort"):
                    if len(getattr(message, field)) not in (0, len(message.name)):
                        reason = f"malformed: {len(message.name)} names, but {len(getattr(message, field))} of {field}"
            except RobotError as error:
                reason = f"malformed: {error}"
            if not reason and not self._joints.add(stamp, message):
                reason = "its stamp does not advance"
            self._joints_reason = reason

    def _on_odom(self, message: Odometry) -> None:
        if not self.active:
            return
        with self._lock:
            stamp = common.to_ns(message.header.stamp)
            reason = self._premature(stamp)
            pose, twist = message.pose.pose, message.twist.twist
            numbers = (pose.position.x, pose.position.y, pose.orientation.x, pose.orientation.y, pose.orientation.z,
                       pose.orientation.w, twist.linear.x, twist.linear.y, twist.angular.z)
            if not np.isfinite(numbers).all():
                reason = "malformed: not finite"
            if not reason and not self._odom.add(stamp, message):
                reason = "its stamp does not advance"
            self._odom_reason = reason

    def _premature(self, stamp: int) -> str:
        ahead = (stamp - self._time()) * 1e-9
        return f"its stamp is {ahead:.3f} s in the future; check the clocks" if ahead > self._future else ""

    def _time(self) -> int:
        """The time now [ns]; where it jumped back, everything from the old time is forgotten first."""
        now = self.get_clock().now().nanoseconds
        if now < self._latest:
            self.get_logger().warning(f"the clock jumped back by {(self._latest - now) * 1e-9:.3f} s: starting afresh")
            self._forget()
        self._latest = now
        return now

    # ---------------------------------------------------------------------------------------------------------- output

    def _pump(self) -> None:
        if self.active:
            with self._lock:
                self._publish_when_due(None)

    def _publish_when_due(self, received: int | None) -> None:
        picked = self._picker.pick(now=self._time(), steady=time.monotonic())
        if picked is None:
            return
        self._output.publish(self._message(picked))
        self._sequence += 1
        if received is not None:
            self._ages.append((time.time_ns() - received) * 1e-9)

    def _message(self, picked: ImageSet) -> Observation:
        message = Observation(sequence=self._sequence, cameras=list(self._eyes))
        message.header.stamp = common.to_stamp(picked.stamp)
        message.header.frame_id = self.robot.base_frame
        for camera, eye in zip(self.robot.cameras, self._eyes.values()):
            frame, reason = picked.frames[camera.name], picked.reasons[camera.name]
            image = Image(encoding="rgb8")
            image.header.frame_id = camera.frame
            if frame is not None:
                try:
                    boxed = frame.payload.boxed()
                except ImageError as error:  # its header was in order, its contents are not
                    reason = str(error)
                    eye.refused += 1
                else:
                    image.header.stamp = common.to_stamp(frame.stamp)
                    image.height, image.width, image.step = boxed.shape[0], boxed.shape[1], boxed.shape[1] * 3
                    image.data = array("B", boxed.tobytes())
            message.images.append(image)
            message.valid.append(not reason)
            message.reasons.append(reason)
            changed = reason.split(":")[0] != eye.reason.split(":")[0]
            eye.reason = reason
            if changed:
                self._say(camera)
        tolerance = self._picker.tolerance
        joints, odom = self._joints.near(picked.stamp, tolerance), self._odom.near(picked.stamp, tolerance)
        if joints is not None:
            message.joints = joints
        if odom is not None:
            message.odom = odom
        message.joints_valid = joints is not None
        message.odom_valid = odom is not None or not self._has_base
        return message

    # ----------------------------------------------------------------------------------------------------- diagnostics

    def _say(self, camera: Camera, rate: float | None = None) -> None:
        eye = self._eyes[camera.name]
        if camera.name in self._unheard and not self._offers_less(camera):
            del self._unheard[camera.name]
        unheard = self._unheard.get(camera.name, "")
        values = {"source": self._sources[camera.name] or camera.topic, "arrived": eye.arrived,
                  "refused": eye.refused, "decoded": eye.decoded}
        if rate is not None:
            values["images per second"] = f"{rate:.1f}"
        if eye.reason:
            reason = eye.reason
            if reason == "no image yet" or reason.startswith("late: no image"):
                reason += f"; {unheard}" if unheard else self._why_silent(camera)
            self.diagnostics.set(camera.name, common.ERROR if camera.required else common.WARN, reason, values)
        else:
            remark = unheard or eye.remark
            self.diagnostics.set(camera.name, common.WARN if remark else common.OK, remark or "ok", values)

    def _why_silent(self, camera: Camera) -> str:
        if self._sources[camera.name]:
            return ""
        expected = "sensor_msgs/msg/" + ("CompressedImage" if camera.transport == "compressed" else "Image")
        topic = self.resolve_topic_name(camera.topic)
        types = sorted({info.topic_type for info in self.get_publishers_info_by_topic(topic)})
        if not types:
            return f"; nobody publishes {topic}"
        return "" if expected in types else f"; {topic} is published as {', '.join(types)}, expected is {expected}"

    def _report(self) -> None:
        if not self.active:
            return
        with self._lock:
            now = time.monotonic()
            passed, self._reported = now - self._reported, now
            for camera in self.robot.cameras:
                arrived = self._eyes[camera.name].arrived
                self._say(camera, (arrived - self._arrivals[camera.name]) / passed)
                self._arrivals[camera.name] = arrived
            stamp = self._time() - round(self.max_age * 1e9)
            for name, samples, reason in (("joint_states", self._joints, self._joints_reason),
                                          ("odom", self._odom, self._odom_reason)):
                if name == "odom" and not self._has_base:
                    continue
                if not reason and (samples.newest or 0) < stamp:
                    reason = f"late: older than {self.max_age:g} s"
                self.diagnostics.set(name, common.ERROR if reason else common.OK, reason or "ok")
            values = {"sent": self._sequence, "decoding": self._decoding}
            if self._ages:
                p50, p99 = np.percentile(self._ages, (50, 99)) * 1e3
                values |= {"added age p50 [ms]": f"{p50:.1f}", "added age p99 [ms]": f"{p99:.1f}"}
            blind = all(eye.reason for eye in self._eyes.values())
            self.diagnostics.set("observation", common.ERROR if blind else common.OK,
                                 "no camera is valid" if blind else "ok", values)

    def _camera_unheard(self, camera: Camera, event) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        reason = (f"a publisher of {camera.topic} offers less {policy} than this node asks for, and is not heard"
                  + ("; set reliable:=false" if self.reliable else ""))
        self._unheard[camera.name] = reason
        self.get_logger().error(reason)
        with self._lock:
            self._say(camera)

    def _offers_less(self, camera: Camera) -> bool:
        """Whether that publisher is still there. Reliability is all that can keep images from us."""
        publishers = self.get_publishers_info_by_topic(self.resolve_topic_name(camera.topic))
        return any(info.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT for info in publishers)

    def _observation_unheard(self, event) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        self.get_logger().error(f"a subscriber of observation asks for more {policy} than this node offers "
                                "(best effort, volatile), and hears nothing")


def main() -> None:
    common.main(CameraIngest)


if __name__ == "__main__":
    main()
