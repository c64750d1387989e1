"""hardware_bridge on real DDS, before a robot of topics: what it sends, when it holds, how it ends."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from array import array
from pathlib import Path

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import TwistStamped
from nav_msgs.msg import Odometry
from pi_msgs.msg import ActionChunk, BridgeStatus, Instruction
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from pi_policy_node.control import Code, Mode
from pi_policy_node.environment import share
from pi_policy_node.nodes.common import LATCHED, RELIABLE1, RELIABLE10, SENSOR, to_duration, to_stamp
from pi_policy_node.robot import load_robot
from pi_policy_node.sim.controllers import Point, TrajectoryController, TwistController


class Stand:
    """In place of robot, commander and policy. Follows its commands at once; every part of it can be made to fail."""

    def __init__(self, robot) -> None:
        self.robot = robot
        self.node = Node("stand")
        self.q = robot.home.copy()
        self.lock = threading.Lock()
        self.statuses: list[BridgeStatus] = []
        self.twists: list[TwistStamped] = []
        self.markers: list[MarkerArray] = []
        self.trajectories = {g.name: [] for g in robot.groups}
        self.controllers = {}
        self.silent = False  # no joint_states
        self.instruction = ""  # renewed at 5 Hz while set
        self.issued = 0
        self.motion = None  # rows of the next chunks: f(times since start [H]) -> [H, A]; None: no chunks
        self.began = 0.0
        self.sequence = 0
        self.topic = "policy"
        make = self.node.create_publisher
        self.joints, self.odom = make(JointState, "joint_states", SENSOR), make(Odometry, "odom", SENSOR)
        self.instructions = make(Instruction, "instruction", RELIABLE1)
        self.chunks = {"policy": make(ActionChunk, "action_chunk", RELIABLE1),
                       "person": make(ActionChunk, "takeover/action_chunk", RELIABLE1)}
        self.heart, self.diagnostics = make(Bool, "stop_heartbeat", RELIABLE1), make(DiagnosticArray, "diagnostics", RELIABLE10)
        for group in robot.groups:
            if group.controller.kind == "joint_trajectory":
                home = [robot.joints(self.q)[joint] for joint in group.joints]
                self.controllers[group.name] = TrajectoryController(group.controller.name, group.joints, home)
                self.node.create_subscription(JointTrajectory, group.controller.topic,
                                              lambda message, group=group: self.on_trajectory(group, message), RELIABLE10)
            if group.controller.kind == "twist":
                self.controllers[group.name] = TwistController(group.controller.name)
                self.node.create_subscription(TwistStamped, group.controller.topic, self.on_twist, RELIABLE10)
        self.node.create_subscription(BridgeStatus, "bridge/status", self.statuses.append, LATCHED)
        self.node.create_subscription(MarkerArray, "plan", self.markers.append, RELIABLE1)
        self.services = {name: self.node.create_client(Trigger, name) for name in ("stop", "resume")}
        self.node.create_timer(0.01, self.step)
        self.node.create_timer(0.1, self.think)
        self.node.create_timer(0.2, self.renew)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self.executor.spin, daemon=True)
        self.thread.start()

    def describe(self) -> str:
        """What the bridge said last, for a test that fails."""
        s = self.status
        return "no status" if s is None else (f"{Mode(s.mode).name} {Code(s.code).name}: {s.cause}; "
                                              f"{dict(zip(s.counters, s.counts))}")

    def close(self) -> None:
        self.executor.shutdown()
        self.thread.join(5.0)
        self.node.destroy_node()

    def now(self) -> int:
        return self.node.get_clock().now().nanoseconds

    def on_trajectory(self, group, message: JointTrajectory) -> None:
        self.trajectories[group.name].append(message)
        points = [Point(p.time_from_start.sec + p.time_from_start.nanosec * 1e-9, p.positions, p.velocities, p.accelerations)
                  for p in message.points]
        self.controllers[group.name].command(message.joint_names, points, now=self.now() * 1e-9)

    def on_twist(self, message: TwistStamped) -> None:
        self.twists.append(message)
        twist = message.twist
        stamp = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
        self.controllers["base"].command((twist.linear.x, twist.linear.y, twist.angular.z), stamp=stamp, now=stamp)

    def step(self) -> None:
        """100 Hz: the controllers move the robot at once, and it is measured."""
        now = self.now()
        times = now * 1e-9 + np.arange(0.002, 0.0101, 0.002)
        joints = {}
        for group in self.robot.groups:
            reference = self.controllers[group.name].advance(times)
            if group.kind == "base":
                self.velocity = reference.velocity[-1]
            else:
                joints |= dict(zip(group.joints, reference.position[-1]))
        if self.silent:
            return
        names = sorted(joints)  # not the robot file's order
        message = JointState(name=names, position=array("d", [joints[name] for name in names]))
        message.header.stamp = to_stamp(now)
        self.joints.publish(message)
        odom = Odometry()
        odom.header.stamp = to_stamp(now)
        odom.twist.twist.linear.x, odom.twist.twist.linear.y, odom.twist.twist.angular.z = map(float, self.velocity)
        self.odom.publish(odom)

    def measured(self) -> np.ndarray:
        joints = {}
        for group in self.robot.groups:
            if group.kind != "base":
                joints |= dict(zip(group.joints, self.controllers[group.name]._position))
        return self.robot.state(list(joints), list(joints.values()))

    def settle(self) -> None:
        """Until every controller's reference stands still: messages take a moment, and so does their last stretch."""
        def still() -> bool:
            return not any(c._velocity.any() for c in self.controllers.values())

        until(still, 2.0, "controllers at rest")

    def renew(self) -> None:
        if self.instruction:
            now = self.now()
            message = Instruction(id=self.instruction, issued=to_stamp(self.issued or now), text="move",
                                  expiry=to_duration(1_000_000_000))
            message.header.stamp = to_stamp(now)
            self.instructions.publish(message)

    def think(self) -> None:
        if self.motion is not None:
            self.send_chunk()

    def send_chunk(self, rows: np.ndarray | None = None, **changes) -> None:
        """A chunk of what `motion` says now, or of given rows."""
        now = self.now()
        if rows is None:
            rows = self.motion(now * 1e-9 - self.began + self.robot.dt * np.arange(50))
        self.sequence += 1
        fields = dict(source="stand", sequence=self.sequence, instruction_id=self.instruction, dt=self.robot.dt,
                      horizon=len(rows), names=list(self.robot.action_names), data=array("d", rows.ravel().tolist()),
                      observation_stamp=to_stamp(now))
        message = ActionChunk(**(fields | changes))
        message.header.stamp = to_stamp(now)
        self.chunks[self.topic].publish(message)

    def task(self, name: str, motion) -> None:
        """A new task, with a policy that does it from now on."""
        self.issued = self.now()
        self.instruction = name
        self.renew()
        self.go(motion)

    def go(self, motion) -> None:
        """Chunks from now on, of a motion that begins where the robot is."""
        self.began = self.now() * 1e-9
        place = self.measured()
        self.motion = lambda times: motion(place, times)

    def call(self, name: str) -> Trigger.Response:
        client = self.services[name]
        assert client.wait_for_service(10.0)
        future = client.call_async(Trigger.Request())
        until(future.done, what=name)
        return future.result()

    @property
    def status(self) -> BridgeStatus | None:
        return self.statuses[-1] if self.statuses else None

    def reaches(self, mode: Mode, code: Code, *, at_rest: bool | None = None, limit: float = 5.0) -> BridgeStatus:
        def there() -> bool:
            s = self.status
            return s is not None and (s.mode, s.code) == (mode, code) and at_rest in (None, s.at_rest)

        until(there, limit, f"{mode.name} {code.name}", self)
        return self.status


def until(condition, limit: float = 5.0, what: str = "the condition", stand: Stand | None = None) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {limit} s{f'; {stand.describe()}' if stand else ''}"
        time.sleep(0.005)


def swing(place: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The first joints of both arms and the base go to and fro, smoothly."""
    rows = np.tile(place, (len(times), 1))
    phase = 2 * np.pi * 0.4 * np.maximum(times, 0.0)
    rows[:, 0] += 0.1 * (1 - np.cos(phase))
    rows[:, 7] -= 0.1 * (1 - np.cos(phase))
    rows[:, 15] = 0.1 * (1 - np.cos(phase))
    return rows


class Process:
    """The node in a process of its own, as it is in life."""

    def __init__(self, *parameters: str) -> None:
        arguments = [part for parameter in parameters for part in ("-p", parameter)]
        command = [sys.executable, "-m", "pi_policy_node.nodes.hardware_bridge", "--ros-args", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.lines: list[str] = []
        self.reader = threading.Thread(target=lambda: self.lines.extend(self.process.stdout), daemon=True)
        self.reader.start()

    def end(self, number: int = signal.SIGINT, limit: float = 8.0) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            code = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        self.reader.join(2.0)
        return code


@pytest.fixture(scope="module")
def robot_file(tmp_path_factory) -> Path:
    """pi_mobile with more patience: its measurements are made here in Python, perhaps on a busy machine."""
    text = share("config", "robots", "pi_mobile.yaml").read_text()
    for key, value in (("joint_state_timeout", 0.5), ("clock_tolerance", 0.1)):
        text, count = re.subn(rf"{key}: \S+", f"{key}: {value}", text)
        assert count == 1
    file = tmp_path_factory.mktemp("robots") / "patient.yaml"
    file.write_text(text)
    return file


@pytest.fixture(scope="module")
def robot(robot_file):
    return load_robot(robot_file)


@pytest.fixture
def stand(ros, robot):
    stand = Stand(robot)
    yield stand
    stand.close()


def lifecycle(stand: Stand, *transitions: int) -> None:
    from lifecycle_msgs.srv import ChangeState

    client = stand.node.create_client(ChangeState, "hardware_bridge/change_state")
    assert client.wait_for_service(20.0)
    for transition in transitions:
        request = ChangeState.Request()
        request.transition.id = transition
        future = client.call_async(request)
        until(future.done, 10.0, f"transition {transition}")
        assert future.result().success


@pytest.fixture
def bridge(stand):
    """The node, active."""
    process = Process(f"robot:={stand.robot.file}")
    lifecycle(stand, 1, 3)
    yield process
    process.end()


def test_moves_the_robot_and_rests_when_the_stream_ends(stand, bridge):
    stand.reaches(Mode.HOLD, Code.NO_INSTRUCTION)
    stand.task("a", swing)
    stand.reaches(Mode.RUNNING, Code.OK)
    until(lambda: abs(stand.measured()[0]) > 0.1, what="motion", stand=stand)
    until(lambda: any(abs(t.twist.linear.x) > 0.05 for t in stand.twists), what="a moving base", stand=stand)
    message = stand.trajectories["left_arm"][-1]
    assert message.header.stamp.sec == 0 and message.header.stamp.nanosec == 0
    assert all(len(p.positions) == len(p.velocities) == len(p.accelerations) == 6 for p in message.points)
    assert not any(message.points[-1].velocities) and not any(message.points[-1].accelerations)
    assert message.points[0].time_from_start.nanosec == pytest.approx(stand.robot.window * 1e9, abs=2)
    until(lambda: stand.markers and len(stand.markers[-1].markers) > 2, what="plan markers")
    assert {m.ns for m in stand.markers[-1].markers} >= {"left_arm/plan", "right_arm/plan", "workspace", "words"}
    assert all(0 < m.lifetime.nanosec <= 1e9 and m.header.frame_id == "base_link" for m in stand.markers[-1].markers)
    stand.motion = None
    status = stand.reaches(Mode.HOLD, Code.TOO_BLIND, at_rest=True)
    assert not status.latched
    twist = stand.twists[-1].twist
    assert (twist.linear.x, twist.linear.y, twist.angular.z) == (0.0, 0.0, 0.0)
    place = stand.measured()
    stand.go(swing)  # a transient hold clears by itself
    stand.reaches(Mode.RUNNING, Code.OK)
    until(lambda: abs(stand.measured()[0] - place[0]) > 0.05, what="motion again")


def test_stop_latches_and_resume_moves_nothing(stand, bridge):
    stand.task("a", swing)
    stand.reaches(Mode.RUNNING, Code.OK)
    until(lambda: abs(stand.measured()[0]) > 0.05, what="motion", stand=stand)
    assert stand.call("stop").success
    stand.reaches(Mode.STOPPED, Code.STOP_SERVICE, at_rest=True)
    assert stand.status.latched
    stand.settle()
    place = stand.measured()
    assert stand.call("resume").success  # the policy still streams, for the instruction of before
    stand.reaches(Mode.HOLD, Code.AWAITING_RESUMED_TASK)
    refused = sum(stand.status.counts)
    until(lambda: sum(stand.status.counts) > refused + 3, what="refusals")
    assert np.array_equal(stand.measured(), place)
    stand.task("b", swing)
    stand.reaches(Mode.RUNNING, Code.OK)


@pytest.mark.parametrize("harm, code", [("silent", Code.JOINTS_STALE), ("nan", Code.CHUNK_NOT_FINITE),
                                        ("camera", Code.CAMERA), ("heartbeat", Code.HEARTBEAT_FALSE)])
def test_faults_latch_with_their_cause(stand, bridge, harm, code):
    stand.task("a", swing)
    stand.reaches(Mode.RUNNING, Code.OK)
    if harm == "silent":
        stand.silent = True
    elif harm == "nan":
        stand.send_chunk(np.full((5, 18), np.nan))
    elif harm == "heartbeat":
        stand.heart.publish(Bool(data=False))
    else:
        stand.diagnostics.publish(DiagnosticArray(status=[DiagnosticStatus(
            name="camera_ingest: front_camera", level=DiagnosticStatus.ERROR, message="no image for 0.5 s")]))
    mode = Mode.STOPPED if code.stops else Mode.FAULT
    status = stand.reaches(mode, code, at_rest=True)
    assert status.latched and status.cause
    if harm == "camera":
        assert "front_camera: no image for 0.5 s" in status.cause
    if harm in ("silent", "camera", "heartbeat"):
        answer = stand.call("resume")
        assert not answer.success and "cannot resume" in answer.message
    stand.motion, stand.silent = None, False
    stand.heart.publish(Bool(data=True))
    stand.diagnostics.publish(DiagnosticArray(status=[DiagnosticStatus(
        name="camera_ingest: front_camera", level=DiagnosticStatus.OK, message="ok")]))
    until(lambda: stand.call("resume").success, what="resume")
    stand.reaches(Mode.HOLD, Code.AWAITING_RESUMED_TASK)


def test_a_person_takes_over_and_hands_back(stand, bridge):
    stand.task("a", swing)
    stand.reaches(Mode.RUNNING, Code.OK)
    stand.topic = "person"
    stand.go(lambda place, times: np.tile(np.where(stand.robot.is_base, 0.0, place), (len(times), 1)))
    stand.reaches(Mode.TAKEOVER, Code.OK)
    stand.motion = None  # silent: at rest, and still theirs
    stand.reaches(Mode.TAKEOVER, Code.AWAITING_TAKEOVER, at_rest=True)
    stand.send_chunk(np.zeros((0, 18)))
    stand.reaches(Mode.HOLD, Code.NO_CHUNK)
    stand.topic = "policy"
    stand.go(swing)
    stand.reaches(Mode.RUNNING, Code.OK)


def test_nothing_moves_that_nobody_hears(ros, robot):
    stand = Stand(robot)
    process = Process(f"robot:={robot.file}")
    try:
        lifecycle(stand, 1, 3)
        stand.task("a", swing)
        stand.reaches(Mode.RUNNING, Code.OK)
        (lift,) = [s for s in stand.node.subscriptions if s.topic_name.endswith("lift_controller/joint_trajectory")]
        stand.node.destroy_subscription(lift)
        status = stand.reaches(Mode.HOLD, Code.NO_SUBSCRIBER, at_rest=True)
        assert "lift_controller/joint_trajectory" in status.cause
    finally:
        process.end()
        stand.close()


def test_dry_run_shows_and_sends_nothing(stand):
    process = Process(f"robot:={stand.robot.file}", "dry_run:=true")
    try:
        lifecycle(stand, 1, 3)
        stand.task("a", swing)
        stand.reaches(Mode.RUNNING, Code.OK)
        until(lambda: stand.markers, what="plan markers")
        assert stand.status.dry_run
        assert not stand.twists and not any(stand.trajectories.values())
        assert stand.node.count_publishers("left_arm_controller/joint_trajectory") == 0
    finally:
        process.end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_comes_to_rest_before_it_ends(stand, bridge, number):
    stand.task("a", swing)
    stand.reaches(Mode.RUNNING, Code.OK)
    until(lambda: any(abs(t.twist.linear.x) > 0.1 for t in stand.twists), what="a moving base", stand=stand)
    moving = len(stand.twists)
    assert bridge.end(number) == 0
    until(lambda: stand.twists[-1].twist.linear.x == 0.0, what="a resting base")
    stopping = [t.twist.linear.x for t in stand.twists[moving:]]
    assert stopping[-1] == 0.0 and len(stopping) > 3  # it braked, it did not just fall silent
    assert stand.status.at_rest


def test_killed_while_moving_the_arm_brakes_as_planned(stand, bridge):
    stand.task("a", swing)
    stand.reaches(Mode.RUNNING, Code.OK)
    controller = stand.controllers["left_arm"]
    until(lambda: abs(controller._velocity[0]) > 0.2, what="speed")
    bridge.end(signal.SIGKILL)
    limits = stand.robot
    until(lambda: not controller._velocity.any(), 2.0, "rest")
    curve = controller.history.read()
    assert np.abs(curve.acceleration).max() <= limits.acceleration[0]
    rate = np.abs(np.diff(curve.velocity, axis=0)) / np.diff(curve.time)[:, None]
    assert rate.max() <= limits.acceleration[0]
    until(lambda: not stand.velocity.any(), 1.0, "a resting base")


def test_a_wrong_robot_is_one_clear_line(domain):
    process = Process("robot:=no_such_robot")
    assert process.process.wait(20.0) == 2
    process.reader.join(2.0)
    assert len(process.lines) == 1 and "no_such_robot" in process.lines[0]


def test_a_gripper_action_without_control_msgs_is_one_clear_line(ros, action_gripper):
    try:
        import control_msgs  # noqa: F401

        pytest.skip("control_msgs is installed here")
    except ImportError:
        pass
    process = Process(f"robot:={action_gripper}")
    node = Node("asker")
    try:
        from lifecycle_msgs.srv import ChangeState

        client = node.create_client(ChangeState, "hardware_bridge/change_state")
        assert client.wait_for_service(20.0)
        request = ChangeState.Request()
        request.transition.id = 1
        executor = SingleThreadedExecutor()
        future = client.call_async(request)
        executor.add_node(node)
        executor.spin_until_future_complete(future, 10.0)
        assert not future.result().success
        until(lambda: any("control_msgs" in line for line in process.lines), what="the reason")
        assert not any("Traceback" in line for line in process.lines)
    finally:
        process.end()
        node.destroy_node()
