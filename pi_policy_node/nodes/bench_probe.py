"""The processes of `./pi bench graph`: cameras and a counter for the transport, and a watcher of the running robot.

    python -m pi_policy_node.nodes.bench_probe send SECONDS | count SECONDS
    python -m pi_policy_node.nodes.bench_probe watch SECONDS ROBOT images|references|idle [WORDS …]

Each prints one line of JSON at its end. The middleware itself notes when a message was sent (source_timestamp, by the
sender), on this host's system clock: what a node adds is from the sending of the last message it needed to the sending
of its own, the way into the node included. When a message reached the probe says nothing about when it reached a node.
"""

from __future__ import annotations

import array
import json
import struct
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import rclpy
from pi_msgs.msg import ActionChunk, BridgeStatus, Observation, TaskStatus
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from pi_policy_node.bench import measures
from pi_policy_node.nodes._process import ask_for_priority
from pi_policy_node.nodes.common import LATCHED, RELIABLE10, SENSOR, to_ns, to_seconds
from pi_policy_node.nodes.executor import LeanExecutor
from pi_policy_node.robot import load_robot

CAMERAS = ("a", "b", "c", "d")
HEIGHT, WIDTH, HZ = 480, 640, 30.0
PATIENCE = 15.0  # s for two processes to find each other
CONTROLLER_PERIOD = 0.002  # s between two updates of the simulated controllers
AGAIN = 0.3  # s between the end of a task and the next words


def stamp_of(data: bytes) -> int:
    """ns; the stamp of a serialised message that begins with a header, which costs less than reading an image."""
    sec, nanosec = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return sec * 1_000_000_000 + nanosec


# ------------------------------------------------------------------------------------------------------------ transport

def send(seconds: float) -> dict[str, Any]:
    """Four raw cameras; a set's number is its stamp's seconds, 0 while the two processes are finding each other."""
    node = Node("bench_cameras")
    publishers = [node.create_publisher(Image, f"bench/{name}/image_raw", qos_profile_sensor_data) for name in CAMERAS]
    pixels = array.array("B", np.random.default_rng(0).integers(0, 255, HEIGHT * WIDTH * 3, np.uint8).tobytes())
    image = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH, data=pixels)
    ready = node.create_client(Trigger, "bench/ready")
    begin = time.monotonic()
    while not (all(publisher.get_subscription_count() for publisher in publishers) and ready.service_is_ready()):
        if time.monotonic() > begin + PATIENCE:
            return {"sets": 0}
        rclpy.spin_once(node, timeout_sec=0.05)
    answer = None
    due, number = time.monotonic(), 0
    while number < round(seconds * HZ):
        if number == 0 and answer is not None and answer.done() and answer.result().success:
            number = 1
        elif number:
            number += 1
        elif answer is None or answer.done():
            answer = ready.call_async(Trigger.Request())
        image.header.stamp.sec = number
        for publisher in publishers:
            publisher.publish(image)
        due += 1.0 / HZ
        rclpy.spin_once(node, timeout_sec=0.0)
        time.sleep(max(0.0, due - time.monotonic()))
    return {"sets": number}


def count(seconds: float) -> dict[str, Any]:
    """Counts complete sets, and how long after its being sent the last image of each has arrived."""
    node = Node("bench_counter")
    arrivals: dict[str, dict[int, int]] = {name: {} for name in CAMERAS}
    sent: dict[int, int] = {}

    def arrived(name: str, data: bytes, info: dict) -> None:
        number = stamp_of(data) // 1_000_000_000
        arrivals[name][number] = info["received_timestamp"]
        if name == CAMERAS[-1]:
            sent[number] = info["source_timestamp"]

    for name in CAMERAS:
        node.create_subscription(Image, f"bench/{name}/image_raw", lambda data, info, name=name: arrived(
            name, data, info), SENSOR, raw=True)

    def ready(_: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        answer.success = all(0 in camera for camera in arrivals.values())
        return answer

    node.create_service(Trigger, "bench/ready", ready)
    executor = LeanExecutor()
    executor.add_node(node)
    total, begin, last = round(seconds * HZ), time.monotonic(), time.monotonic()
    while time.monotonic() < begin + PATIENCE + 2 * seconds:
        newest = max((max(camera, default=0) for camera in arrivals.values()), default=0)
        if newest >= total and time.monotonic() > last + 0.5:
            break
        last = time.monotonic() if newest < total else last
        executor.spin_once(timeout_sec=0.05)
    sets = {number: at for number, at in measures.complete_sets(arrivals).items() if number > 0}
    return {"complete": len(sets), "images": sum(len(camera) - (0 in camera) for camera in arrivals.values()),
            "age_ms": measures.percentiles([sets[n] - sent[n] for n in sets if n in sent], scale=1e-6)}


# ----------------------------------------------------------------------------------------------------------- the robot

class Watcher(Node):
    """Keeps the robot busy, with one task after another, and notes down what it sees."""

    def __init__(self, robot_name: str, words: Sequence[str], *, images: bool, references: bool) -> None:
        super().__init__("bench_watcher")
        self._words = words
        self.robot = load_robot(robot_name)
        self.images: dict[str, dict[int, int]] = {camera.name: {} for camera in self.robot.cameras}  # when sent
        self.observations: list[tuple[int, int, dict[str, int]]] = []  # its stamp, when it was sent, its images' stamps
        self.chunks: list[tuple[int, int]] = []  # the stamp of what they were planned from, when they were sent
        self.windows: list[int] = []  # when they were sent
        self.clock: list[tuple[float, float]] = []  # s of the simulation, s of arrival
        self.references: dict[str, list[tuple]] = {}
        self.modes: list[tuple[float, bool, str]] = []  # s, whether the bridge follows a plan, what holds it
        self.tasks: list[list[float]] = []  # [begin, end] in s
        self.failures: list[str] = []  # how tasks ended that did not succeed
        self._state, self._asked, self._latched, self._mode = TaskStatus.IDLE, 0.0, False, BridgeStatus.HOLD
        if images:
            for camera in self.robot.cameras:
                self.create_subscription(Image, camera.topic, lambda data, info, name=camera.name:
                                         self.images[name].__setitem__(stamp_of(data), info["source_timestamp"]),
                                         SENSOR, raw=True)
            self.create_subscription(Observation, "observation", self._on_observation, SENSOR)
        self.create_subscription(ActionChunk, "action_chunk", self._on_chunk, RELIABLE10)
        arm = next(group for group in self.robot.groups if group.kind == "arm")
        self.create_subscription(JointTrajectory, arm.controller.topic, lambda data, info: self.windows.append(
            info["source_timestamp"]), RELIABLE10, raw=True)
        self.create_subscription(Clock, "/clock", lambda message, info: self.clock.append(
            (to_seconds(message.clock), info["received_timestamp"] * 1e-9)), SENSOR)
        if references:
            for group in self.robot.groups:
                if group.kind in ("arm", "lift", "base"):
                    rows = self.references.setdefault(group.name, [])
                    self.create_subscription(
                        JointState, f"{group.controller.name}/reference", lambda message, rows=rows: rows.append((
                            to_seconds(message.header.stamp), tuple(message.position), tuple(message.velocity))),
                        RELIABLE10)
        self.create_subscription(BridgeStatus, "bridge/status", self._on_bridge, LATCHED)
        self.create_subscription(TaskStatus, "task/status", self._on_task, LATCHED)
        self._command = self.create_publisher(String, "command", RELIABLE10)
        self._resume = self.create_client(Trigger, "resume")

    def _on_observation(self, message: Observation, info: dict) -> None:
        stamps = {name: to_ns(image.header.stamp) for name, image, valid in
                  zip(message.cameras, message.images, message.valid) if valid}
        self.observations.append((to_ns(message.header.stamp), info["source_timestamp"], stamps))

    def _on_chunk(self, message: ActionChunk, info: dict) -> None:
        # One that asks for rest, or that comes to a bridge at rest, need not lead to a message.
        if message.horizon and self._mode == BridgeStatus.RUNNING:
            self.chunks.append((to_ns(message.observation_stamp), info["source_timestamp"]))

    def _on_bridge(self, message: BridgeStatus) -> None:
        self._latched, self._mode = message.latched, message.mode
        self.modes.append((time.monotonic(), message.mode == BridgeStatus.RUNNING, message.cause))

    def _on_task(self, message: TaskStatus) -> None:
        now = time.monotonic()
        if message.state == TaskStatus.RUNNING and self._state != TaskStatus.RUNNING:
            self.tasks.append([now, float("inf")])
        elif message.state != TaskStatus.RUNNING and self._state == TaskStatus.RUNNING:
            self.tasks[-1][1] = now
            if message.state != TaskStatus.SUCCEEDED:
                self.failures.append(message.reason)
        self._state = message.state

    def keep_busy(self) -> None:
        """Resumes after a latched hold, and says the words again when a task has ended."""
        now = time.monotonic()
        if now < self._asked + 1.0 or self._state == TaskStatus.RUNNING:
            return
        if self.tasks and now < self.tasks[-1][1] + AGAIN:
            return
        if self._latched and self._resume.service_is_ready():
            self._resume.call_async(Trigger.Request())
            self._asked = now - 0.7
        elif self._command.get_subscription_count():
            self._command.publish(String(data=self._words[len(self.tasks) % len(self._words)]))
            self._asked = now

    def result(self, seconds: float) -> dict[str, Any]:
        complete = measures.last_arrivals(self.images, (stamps for *_, stamps in self.observations))
        ages = [sent - last for (_, sent, _), last in zip(self.observations, complete) if last is not None]
        captured = {stamp: last for (stamp, *_), last in zip(self.observations, complete) if last is not None}
        made = [sent for _, sent in self.chunks]
        gaps = np.diff(self.windows) if len(self.windows) > 1 else []
        stamps, walls = zip(*self.clock) if self.clock else ((), ())
        return {
            "seconds": seconds, "observations": len(self.observations), "chunks": len(self.chunks),
            "windows": len(self.windows),
            "ingest_ms": measures.percentiles(ages, scale=1e-6),
            "bridge_ms": measures.percentiles(measures.next_after(made, self.windows), scale=1e-6),
            "act_ms": measures.percentiles(measures.answers(captured, self.chunks, self.windows), scale=1e-6),
            "gap_ms": measures.percentiles(gaps, scale=1e-6),
            "rate": measures.rate(stamps, walls), "tasks": len(self.tasks),
            "stops": self.failures + measures.holds(self.modes, self.tasks),
            **self._references(),
        }

    def _references(self) -> dict[str, Any]:
        jumps, samples, fastest = [], 0, {}
        for name, rows in self.references.items():
            if len(rows) < 2:
                continue
            group = self.robot.group(name)
            limit = self.robot.acceleration[group.columns]
            times, positions, velocities = (np.asarray(column, float) for column in zip(*rows))
            # A twist is held for a command's period, or two where one is late.
            held = 2.0 / self.robot.command_hz if group.kind == "base" else 0.0
            jumps += measures.velocity_jumps(times, velocities, limit, held=held)
            if group.kind != "base":
                jumps += measures.jumps(times, positions, velocities, limit, period=CONTROLLER_PERIOD)
            samples += len(rows)
            fastest[name] = float(np.abs(velocities).max())
        return {"jumps": len(jumps), "jumped_at": sorted({round(at, 2) for at in jumps})[:50], "samples": samples,
                "fastest": fastest}


def watch(seconds: float, robot: str, what: str, words: list[str]) -> dict[str, Any]:
    node = Watcher(robot, words, images=what == "images", references=what == "references")
    executor = LeanExecutor()
    executor.add_node(node)
    begin = time.monotonic()
    idle = what == "idle"  # the simulator alone
    while not node.clock if idle else not (node.tasks and node.windows):  # the motion has begun
        if not idle:
            node.keep_busy()
        executor.spin_once(timeout_sec=0.05)
        if time.monotonic() > begin + 2 * PATIENCE:
            why = node.modes[-1][2] if node.modes else "nothing on bridge/status"
            return {"error": f"the robot did not begin to move: {why}"}
    for record in (node.observations, node.chunks, node.windows, node.clock, node.modes, node.failures,
                   *node.references.values()):
        record.clear()
    del node.tasks[:-1]
    begin = time.monotonic()
    while time.monotonic() < begin + seconds:
        if not idle:
            node.keep_busy()
        executor.spin_once(timeout_sec=0.05)
    return node.result(time.monotonic() - begin)


def main() -> None:
    what, seconds, *options = sys.argv[1:]
    ask_for_priority()
    rclpy.init(args=[])
    try:
        if what == "watch":
            result = watch(float(seconds), options[0], options[1], options[2:])
        else:
            result = {"send": send, "count": count}[what](float(seconds))
        print(json.dumps(result), flush=True)
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
