"""Watches a robot while it works: what it measured, saw and said, for the demo's film and for judging what it did."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry
from sensor_msgs.msg import Image, JointState

from pi_msgs.msg import BridgeStatus, TaskStatus
from pi_policy_node.nodes.client import RobotClient
from pi_policy_node.nodes.common import RELIABLE10, SENSOR, to_seconds
from pi_policy_node.robot import Robot
from pi_policy_node.sim.film import Moment

FPS = 12.0  # moments kept per second
MODES = ("hold", "running", "takeover", "fault", "stopped")


class Witness(RobotClient):
    """A client that keeps a moment every 1 / FPS seconds while it spins."""

    def __init__(self, robot: Robot) -> None:
        super().__init__(node_name="witness")
        self.robot = robot
        self.moments: list[Moment] = []
        self.values: dict[str, dict[str, str]] = {}  # of diagnostics, by name
        self._joints: dict[str, float] = {}
        self._base = (0.0, 0.0, 0.0)
        self._images: dict[str, np.ndarray] = {}
        self._due = 0.0
        self._time = 0.0
        node = self.node
        node.create_subscription(JointState, "joint_states", self._on_joints, SENSOR)
        node.create_subscription(Odometry, "odom", self._on_odom, SENSOR)
        node.create_subscription(DiagnosticArray, "diagnostics", self._on_diagnostics, RELIABLE10)
        for camera in robot.cameras:
            if camera.transport == "raw":
                node.create_subscription(Image, camera.topic,
                                         lambda image, name=camera.name: self._on_image(name, image), SENSOR)

    def value(self, name: str, key: str) -> float:
        """A number of the diagnostics; nan where there is none."""
        try:
            return float(self.values[name][key])
        except (KeyError, ValueError):
            return float("nan")

    def travel(self, since: int) -> Mapping[str, float]:
        """How far each group's joints went since a moment: the largest range of any of its joints, as measured.

        An arm's in rad, a lift's in m, a gripper's in strokes, and "base" as the way of its origin in m, or its turn in
        rad where that is larger.
        """
        moments = self.moments[since:]
        result = dict.fromkeys((group.name for group in self.robot.groups), 0.0)
        if not moments:
            return result
        for group in self.robot.groups:
            if group.kind == "base":
                path = np.array([moment.base for moment in moments])
                turn = np.unwrap(path[:, 2])
                result[group.name] = max(float(np.linalg.norm(path[:, :2] - path[0, :2], axis=1).max()), float(np.ptp(turn)))
                continue
            columns = np.array([[moment.joints[joint] for joint in group.joints] for moment in moments])
            stroke = abs(group.gripper.open - group.gripper.closed) if group.gripper else 1.0
            result[group.name] = float(np.ptp(columns, axis=0).max() / stroke)
        return result

    def _on_joints(self, message: JointState) -> None:
        self._joints = dict(zip(message.name, message.position))
        self._time = to_seconds(message.header.stamp)
        if time.monotonic() >= self._due and all(joint in self._joints for g in self.robot.groups for joint in g.joints):
            self._due = max(self._due + 1.0 / FPS, time.monotonic() - 0.5 / FPS)
            self.moments.append(Moment(self._time, self._joints, self._base, dict(self._images), self._words()))

    def _on_odom(self, message: Odometry) -> None:
        pose = message.pose.pose
        yaw = 2.0 * np.arctan2(pose.orientation.z, pose.orientation.w)
        self._base = (pose.position.x, pose.position.y, float(yaw))

    def _on_image(self, name: str, image: Image) -> None:
        if image.encoding == "rgb8":
            rows = np.frombuffer(image.data, np.uint8).reshape(image.height, image.step)
            self._images[name] = rows[:, : image.width * 3].reshape(image.height, image.width, 3)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.values[status.name] = {pair.key: pair.value for pair in status.values}

    def _words(self) -> tuple[str, ...]:
        task: TaskStatus | None = self.task
        bridge: BridgeStatus | None = self.bridge
        if task is None or bridge is None:
            return ()
        progress = "" if np.isnan(task.progress) else f"  {task.progress:.0%}"
        doing = f"{task.subtask}{progress}" if task.state == TaskStatus.RUNNING else task.reason
        return (f'"{task.text}"' if task.text else "", doing, f"bridge: {MODES[bridge.mode]}: {bridge.cause}")
