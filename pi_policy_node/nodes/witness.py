"""Watches a robot while it works: what it measured, saw, planned and said, for the demo's film and for judging it.

It must not take the robot's share of the machine: it looks ten times a second, takes one message of each stream then,
and leaves the rest of them unread.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Pose
from nav_msgs.msg import Odometry
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image, JointState

from pi_msgs.msg import ActionChunk, BridgeStatus, TaskStatus
from pi_msgs.srv import GetScene
from pi_policy_node.demo.film import SIDE, Moment, Plan
from pi_policy_node.nodes.client import NoRobot, RobotClient
from pi_policy_node.nodes.common import RELIABLE1, RELIABLE10, SENSOR, to_seconds
from pi_policy_node.robot import Robot
from pi_policy_node.sim.physics import Thing

FPS = 8.0  # moments kept per second
LOOK = 0.1  # s between two looks
MODES = ("hold", "running", "takeover", "fault", "stopped")


class Witness(RobotClient):
    """A client that keeps a moment every 1 / FPS seconds while it waits."""

    def __init__(self, robot: Robot) -> None:
        super().__init__(node_name="witness")
        self.robot = robot
        self.moments: list[Moment] = []
        self.values: dict[str, dict[str, str]] = {}  # of diagnostics, by name
        self.caption = ""  # a line of the demo's own
        self.close_look = False  # whether to look at every message at once
        self.first_motion: float | None = None  # s, steady
        self._joints: dict[str, float] = {}
        self._base = (0.0, 0.0, 0.0)
        self._images: dict[str, np.ndarray] = {}
        self._plan: Plan | None = None
        self._things: dict[str, tuple[float, ...]] = {}
        self._drawer = 0.0
        self._due = 0.0
        self._raw: dict[str, bytes] = {}  # what came last on a topic, unread
        self._asked = None
        node = self.node
        self._scene = node.create_client(GetScene, "get_scene")
        self._keep("joint_states", JointState, SENSOR)
        self._keep("odom", Odometry, SENSOR)
        self._keep("action_chunk", ActionChunk, RELIABLE1)
        for camera in robot.cameras:
            if camera.transport == "raw":
                self._keep(camera.topic, Image, SENSOR)
        node.create_subscription(DiagnosticArray, "diagnostics", self._on_diagnostics, RELIABLE10)

    def _keep(self, topic: str, kind: type, qos) -> None:
        self.node.create_subscription(kind, topic, lambda data: self._raw.__setitem__(topic, data), qos, raw=True)

    def spin(self, limit: float) -> None:
        """Lets messages in, for `limit` s."""
        if self.close_look:
            super().spin(limit)
        else:
            time.sleep(min(limit, LOOK))
            for _ in range(4):  # streams give one each, statuses all they have
                self._executor.spin_once(timeout_sec=0)
        if time.monotonic() >= self._due:
            self._due = max(self._due + 1.0 / FPS, time.monotonic() - 0.5 / FPS)
            self._look()

    # -------------------------------------------------------------------------------------------------- what there is

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

    def world(self) -> tuple[dict[str, Thing], float, dict[str, float], tuple[float, float, float]]:
        """The simulated world: things, drawer, joints, base. Things move as they did over a fifth of a second."""
        before, began = self._ask_scene(), time.monotonic()
        self.wait_until(lambda: time.monotonic() - began > 0.2, 1.0)
        after = self._ask_scene()
        lasted = time.monotonic() - began
        things = {}
        for name, words, old, new in zip(after.names, after.descriptions, before.poses, after.poses):
            colour, kind = words.split()
            position, earlier = np.array(_seven(new)[:3]), np.array(_seven(old)[:3])
            things[name] = Thing(kind, colour, position, np.array(_seven(new)[3:]), (position - earlier) / lasted)
        return things, after.drawer, dict(self._joints), self._base

    def _ask_scene(self) -> GetScene.Response:
        self._connect(self._scene.service_is_ready, "get_scene", 10.0)
        asked = self._scene.call_async(GetScene.Request())
        if not self.wait_until(asked.done, 5.0):
            raise NoRobot("the simulator does not say what is in its world")
        return asked.result()

    def picture(self) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        """What the cameras see, and words, for a live view; from any thread."""
        return dict(self._images), self._words()

    # ------------------------------------------------------------------------------------------------------- a moment

    def _look(self) -> None:
        """Reads what came last, and keeps it."""
        for camera in self.robot.cameras:
            if (data := self._raw.pop(camera.topic, None)) is not None:
                self._see(camera.name, deserialize_message(data, Image))
        if (data := self._raw.pop("odom", None)) is not None:
            pose = deserialize_message(data, Odometry).pose.pose
            yaw = 2.0 * np.arctan2(pose.orientation.z, pose.orientation.w)
            self._base = (pose.position.x, pose.position.y, float(yaw))
        if (data := self._raw.pop("action_chunk", None)) is not None:
            chunk = deserialize_message(data, ActionChunk)
            rows = np.array(chunk.data, np.float32).reshape(chunk.horizon, -1) if chunk.horizon else None
            self._plan = None if rows is None else Plan(to_seconds(chunk.header.stamp), chunk.dt, rows)
        self._look_at_things()
        if (data := self._raw.pop("joint_states", None)) is None:
            return
        message = deserialize_message(data, JointState)
        self._joints = dict(zip(message.name, message.position))
        if self.first_motion is None and self.bridge is not None and self.bridge.mode == BridgeStatus.RUNNING:
            self.first_motion = time.monotonic()
        if all(joint in self._joints for group in self.robot.groups for joint in group.joints):
            self.moments.append(Moment(to_seconds(message.header.stamp), self._joints, self._base, dict(self._images),
                                       self._words(), plan=self._plan, things=self._things, drawer=self._drawer))

    def _see(self, name: str, image: Image) -> None:
        if image.encoding == "rgb8":
            rows = np.frombuffer(image.data, np.uint8).reshape(image.height, image.step)
            picture = rows[:, : image.width * 3].reshape(image.height, image.width, 3)
            self._images[name] = cv2.resize(picture, SIDE[::-1], interpolation=cv2.INTER_AREA)

    def _look_at_things(self) -> None:
        if self._asked is not None and self._asked.done():
            answer = self._asked.result()
            self._things = dict(zip(answer.names, map(_seven, answer.poses)))
            self._drawer = answer.drawer
            self._asked = None
        if self._asked is None and self._scene.service_is_ready():
            self._asked = self._scene.call_async(GetScene.Request())

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.values[status.name] = {pair.key: pair.value for pair in status.values}

    def _words(self) -> tuple[str, ...]:
        task: TaskStatus | None = self.task
        bridge: BridgeStatus | None = self.bridge
        if task is None or bridge is None:
            return ()
        progress = "" if np.isnan(task.progress) else f"  {task.progress:.0%}"
        doing = f"{task.subtask}{progress}" if task.state == TaskStatus.RUNNING else self.caption or task.reason
        return (f'"{task.text}"' if task.text else "", doing, f"bridge: {MODES[bridge.mode]}: {bridge.cause}")


def _seven(pose: Pose) -> tuple[float, ...]:
    """Position, and quaternion as w x y z."""
    p, q = pose.position, pose.orientation
    return p.x, p.y, p.z, q.w, q.x, q.y, q.z
