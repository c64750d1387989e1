"""A whole robot under test: its nodes as processes on real DDS, and what a test wants to do to it and see of it."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from starvation import STARVATION
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from pi_msgs.msg import ActionChunk, BridgeStatus, Instruction, PolicyStatus, TaskStatus
from pi_msgs.srv import SetFault
from pi_policy_node.environment import share
from pi_policy_node.nodes.common import LATCHED, RELIABLE1, RELIABLE10, SENSOR
from pi_policy_node.robot import load_robot

NODES = ("sim", "camera_ingest", "hardware_bridge", "policy", "commander", "bringup")
# s, of the robot under test: longer than in the robot's own file, because the simulator may be short of a core.
HEARTBEAT = 1.0
JOINT_STATE_TIMEOUT = 0.3
MAX_AGE = 0.5  # of an image that is still used
WATCHED = ("left_arm_controller", "lift_controller", "base_controller")
STILL = {"left_arm_controller": 0.005, "lift_controller": 0.001, "base_controller": 0.002}  # rad/s, m/s
SLACK = 0.15  # s that messages and polling may add to what is measured here
ASK_AGAIN = 2.0  # s until a service is asked once more
ATTEMPTS = 4  # at bringing it to move: a busy machine can starve it into a hold of its own
STARVED = {BridgeStatus.CAMERA, BridgeStatus.JOINTS_STALE, BridgeStatus.CLOCK, BridgeStatus.TRACKING_ERROR,
           BridgeStatus.HEARTBEAT_SILENT}
AGAIN = 3  # attempts at a test
SHORT = 0.1  # of an attempt's time: a machine that was so short of computing time may be why it failed


def _die_with_parent() -> None:
    # Tests get killed too, and what they started must not live on.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def small_robot(folder: Path) -> Path:
    """pi_mobile with small, slow cameras and a stop button: what is tested here does not need the pixels."""
    text = share("config", "robots", "pi_mobile.yaml").read_text()
    text, cameras = re.subn(r"width: \d+, height: \d+, hz: \d+", "width: 64, height: 48, hz: 10", text)
    text, button = re.subn(r"heartbeat_timeout:[^#\n]*", f"heartbeat_timeout: {HEARTBEAT} ", text)
    text, joints = re.subn(r"joint_state_timeout: [\d.]+", f"joint_state_timeout: {JOINT_STATE_TIMEOUT}", text)
    text, rate = re.subn(r"(observation:\n(?:\s*#.*\n)*\s+hz: )\d+", r"\g<1>10", text)
    text, size = re.subn(r"image_size: \[\d+, \d+\]", "image_size: [48, 64]", text)
    text, urdf = re.subn(r"urdf: (\S+)", lambda m: f"urdf: {share('urdf', m[1])}", text)
    assert (cameras, button, joints, rate, size, urdf) == (4, 1, 1, 1, 1, 1), "the robot file has changed: adapt this"
    text = re.sub(r"controllers: (\S+)", lambda m: f"controllers: {share('config', m[1])}", text)
    file = folder / "small.yaml"
    file.write_text(text)
    return file


def tried_again(test: Callable[[], object], robots: Iterable[RobotUnderTest]) -> None:
    """Runs a test. A busy machine starves the robot into faults of its own: then, and only then, it is tried again."""
    for attempt in range(AGAIN):
        begin = time.monotonic()
        for robot in robots:
            robot.bridges.clear()
        try:
            return test()
        except AssertionError:
            starved = STARVATION.since(begin) > SHORT * (time.monotonic() - begin)
            starved |= any(status.code in STARVED for robot in robots for status in list(robot.bridges))
            if attempt == AGAIN - 1 or not starved:
                raise


class RobotUnderTest:
    """Waits for conditions, with limits; `rest` and `moving` are judged on the controllers' own reference."""

    def __init__(self, file: Path | str, *, namespace: str = "", policy: str = "scripted", heartbeat: bool = True,
                 parameters: Mapping[str, Mapping[str, object]] | None = None) -> None:
        """`parameters`: more of them, by node."""
        self.robot = load_robot(file)
        self._file, self._namespace, self._policy_name = str(file), namespace, policy
        self._parameters = parameters or {}
        self.processes: dict[str, subprocess.Popen] = {}
        self.logs: dict[str, list[str]] = {}
        self.bridge = self.task = self.policy = None
        self.bridges: deque[BridgeStatus] = deque(maxlen=500)
        self.tasks: deque[TaskStatus] = deque(maxlen=200)
        self.chunk: ActionChunk | None = None
        self.instruction: Instruction | None = None
        self.diagnostics: dict[str, tuple[bytes, str]] = {}
        self.joints: dict[str, float] = {}
        self.references = {name: deque(maxlen=4000) for name in WATCHED}  # (steady, stamp, position, velocity)
        self.beating = heartbeat
        self._lock = threading.Lock()
        self._motion = 0.0  # s, steady: when a reference last moved
        self.node = Node("tester", namespace=namespace,
                         parameter_overrides=[Parameter("use_sim_time", value=True)],
                         cli_args=["--ros-args", "-r", "/clock:=clock"], use_global_arguments=False)
        self._subscribe()
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    # ---------------------------------------------------------------------------------------------------- processes

    def start(self, *names: str) -> None:
        """Starts nodes (all of them by default), each as a process of its own, as the launch files do."""
        for name in names or NODES:
            command = [sys.executable, "-m", f"pi_policy_node.nodes.{name}", "--ros-args", "-r", f"__node:={name}",
                       "-r", f"__ns:=/{self._namespace.strip('/')}", "-r", "/clock:=clock", "-r", "/tf:=tf",
                       "-p", "use_sim_time:=true", "-p", f"robot:={self._file}"]
            if name == "camera_ingest":
                command += ["-p", f"max_age:={MAX_AGE}"]
            if name == "policy":
                command += ["-p", f"policy:={self._policy_name}"]
            for parameter, value in self._parameters.get(name, {}).items():
                command += ["-p", f"{parameter}:={value}"]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                       env=os.environ, start_new_session=True, preexec_fn=_die_with_parent)
            self.processes[name] = process
            lines = self.logs.setdefault(name, [])
            threading.Thread(target=lambda process=process, lines=lines: lines.extend(process.stdout),
                             daemon=True).start()

    def ready(self, limit: float = 40.0) -> None:
        """Until bringup says so."""
        self.wait(lambda: any("robot ready" in line for line in self.logs.get("bringup", [])), limit, "robot ready")
        self.wait(lambda: self.bridge and self.task and self.policy and self.joints, 10, "first statuses")

    def kill(self, name: str, number: int = signal.SIGKILL, *, limit: float = 8.0) -> float:
        """Sends a signal to a node, and waits for its end; when it was sent [s, steady]."""
        sent = time.monotonic()
        self.processes[name].send_signal(number)
        self.processes[name].wait(limit)
        return sent

    def restart(self, *names: str, limit: float = 30.0) -> None:
        """Starts nodes again, and waits until bringup has brought them up."""
        self.start(*names)
        for name in names:
            if name in ("sim", "bringup"):
                continue
            said = self.logs["bringup"]
            count = sum(f"'{name}' was started again" in line for line in said)
            self.wait(lambda: sum(f"'{name}' was started again" in line for line in said) > count, limit,
                      f"{name} to be brought up again")

    def close(self) -> None:
        """Ends everything."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        end = time.monotonic() + 6
        for process in self.processes.values():
            try:
                process.wait(max(end - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._executor.shutdown()
        self._thread.join(5)
        self.node.destroy_node()

    # ------------------------------------------------------------------------------------------------------- acting

    def say(self, words: str) -> None:
        """On `command`."""
        self.tasks.clear()
        self._command.publish(String(data=words))

    def run(self, words: str = "wave", limit: float = 6.0) -> None:
        """Makes it well, gives it a task, and waits until it moves."""
        for attempt in range(ATTEMPTS):
            self.recover()
            self.say(words)
            try:
                self.wait(lambda: self.bridge.mode == BridgeStatus.RUNNING, limit, "the bridge to run")
                self.wait(lambda: self.moving() or self.bridge.latched, limit, "motion")
                if not self.bridge.latched:
                    return
            except AssertionError:
                if attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError(f"it does not move; {self.tell()}")

    def recover(self) -> None:
        """No faults, nothing latched, no task, at rest."""
        self.beating = True
        for name in [name for name, process in self.processes.items() if process.poll() is not None]:
            self.restart(name)  # a test before this one failed half-way
        self.fault("all", "none")
        self.say("cancel")
        self.wait(lambda: self.task.state != TaskStatus.RUNNING, 5, "the task to end")

        def resumed() -> bool:
            return not self.bridge.latched or self.call(Trigger, "resume").success
        self.wait(resumed, 10, "resume", step=0.1)
        self.wait(lambda: not self.bridge.latched and self.bridge.at_rest, 5, "rest")

    def call(self, kind, name: str, request=None, limit: float = 8.0):
        """A service's response."""
        client = self._clients.setdefault(name, self.node.create_client(kind, name))
        self.wait(client.service_is_ready, 10, f"the service {name}")
        # Asked again where nothing comes back: a server that was killed still counts as ready for some seconds.
        answers, begin = [], time.monotonic()

        def answered() -> bool:
            if time.monotonic() >= begin + len(answers) * ASK_AGAIN:
                answers.append(client.call_async(request or kind.Request()))
            return any(answer.done() for answer in answers)
        self.wait(answered, limit, f"an answer of {name}")
        return next(answer.result() for answer in answers if answer.done())

    def stop(self) -> None:
        assert self.call(Trigger, "stop").success

    def fault(self, target: str, kind: str, value: float = 0.0) -> float:
        """Sets a fault of the simulator; when it was sent [s, steady]."""
        sent = time.monotonic()
        response = self.call(SetFault, "set_fault", SetFault.Request(target=target, kind=kind, value=float(value)))
        assert response.success, response.message
        return sent

    def lifecycle(self, name: str, transition: int) -> None:
        request = ChangeState.Request(transition=Transition(id=transition))
        assert self.call(ChangeState, f"{name}/change_state", request, limit=15).success

    # ------------------------------------------------------------------------------------------------------ waiting

    def wait(self, condition: Callable[[], object], limit: float, what: str, *, step: float = 0.005) -> float:
        """Until the condition holds; how long that took [s]. Fails the test after `limit` s."""
        begin = time.monotonic()
        while not condition():
            if time.monotonic() - begin > limit:  # only then: how far the machine is behind
                starved = STARVATION.since(begin)
                assert time.monotonic() - begin < limit + starved, (
                    f"{what}: not within {limit} s (+ {starved:.2f} s of starvation); {self.tell()}")
            time.sleep(step)
        return time.monotonic() - begin

    def wait_cause(self, codes: int | Iterable[int], limit: float) -> BridgeStatus:
        """Until the bridge names one of these causes."""
        wanted = {codes} if isinstance(codes, int) else set(codes)
        self.wait(lambda: self.bridge.code in wanted, limit, f"the bridge to name cause {wanted}")
        return self.bridge

    def moving(self, within: float = 0.15) -> bool:
        """Whether a watched reference moved just now."""
        return time.monotonic() - self._motion < within

    def rest(self, since: float, limit: float) -> float:
        """Waits for rest; how long after `since` the references last moved, which must be within `limit` s.

        By the references' own stamps where these go on steadily, so that a starved simulator is not held against the
        bridge, else by their arrival.
        """
        quiet = 0.3  # s, after the event as well: what was commanded just before shows only a moment later
        self.wait(lambda: not self.moving(quiet) and time.monotonic() - since > quiet, limit + 3, "rest")
        took = max(self._motion - since, 0.0)
        for name in WATCHED:
            entries = [entry for entry in list(self.references[name]) if entry[0] >= since]
            stamps = np.array([entry[1] for entry in entries])
            if len(stamps) < 2 or np.diff(stamps).min() < 0 or np.diff(stamps).max() > 1.0:
                break
        else:
            took = min(took, max(self._way_to_rest(name, since) for name in WATCHED))
        starved = STARVATION.since(since)
        assert took <= limit + SLACK + starved, (
            f"it came to rest {took:.2f} s after the event; the limit is {limit:.2f} s (+ {starved:.2f} s of starvation); "
            f"{self.tell()}")
        return took

    def _way_to_rest(self, name: str, since: float) -> float:
        entries = [entry for entry in list(self.references[name]) if entry[0] >= since]
        moving = [entry[1] for entry in entries if np.abs(entry[3]).max() > STILL[name]]
        return moving[-1] - entries[0][1] if moving else 0.0

    def stays_at_rest(self, seconds: float) -> None:
        """Watches that nothing moves; the only waiting here that is not for something."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert not self.moving(0.05), f"it moves; {self.tell()}"
            time.sleep(0.01)

    def count(self, counter: str) -> int:
        """A counter of the bridge."""
        return dict(zip(self.bridge.counters, self.bridge.counts)).get(counter, 0)

    def tell(self) -> str:
        """Where things stand, for a failure's message."""
        def short(message, *fields):
            return "nothing" if message is None else ", ".join(f"{f} {getattr(message, f)}" for f in fields)
        ended = {name: process.returncode for name, process in self.processes.items() if process.poll() is not None}
        logs = "\n".join(f"  {name}: {line.rstrip()}" for name, lines in self.logs.items() for line in lines[-3:])
        return (f"bridge: {short(self.bridge, 'mode', 'code', 'cause', 'latched', 'at_rest')}; "
                f"task: {short(self.task, 'state', 'text', 'reason')}; "
                f"policy: {short(self.policy, 'state', 'code', 'cause')}; ended: {ended}\n{logs}")

    def now(self) -> float:
        """The graph's time [s]."""
        return self.node.get_clock().now().nanoseconds * 1e-9

    def state(self) -> np.ndarray:
        """Where the robot is [A], at rest."""
        return self.robot.state(list(self.joints), list(self.joints.values()))

    # ------------------------------------------------------------------------------------------------------ inside

    def _subscribe(self) -> None:
        node = self.node
        self._clients: dict[str, object] = {}
        self._command = node.create_publisher(String, "command", RELIABLE10)
        self._heartbeat = node.create_publisher(Bool, "stop_heartbeat", RELIABLE1)
        self._beats = threading.Thread(target=self._beat, daemon=True)
        self._beats.start()
        self.chunks = node.create_publisher(ActionChunk, "action_chunk", RELIABLE10)

        def keep(name: str, history: deque | None = None):
            def callback(message) -> None:
                setattr(self, name, message)
                if history is not None:
                    history.append(message)
            return callback

        node.create_subscription(BridgeStatus, "bridge/status", keep("bridge", self.bridges), LATCHED)
        node.create_subscription(TaskStatus, "task/status", keep("task", self.tasks), LATCHED)
        node.create_subscription(PolicyStatus, "policy/status", keep("policy"), LATCHED)
        node.create_subscription(ActionChunk, "action_chunk", keep("chunk"), RELIABLE10)
        node.create_subscription(Instruction, "instruction", keep("instruction"), RELIABLE1)
        node.create_subscription(JointState, "joint_states", self._on_joints, SENSOR)
        node.create_subscription(DiagnosticArray, "diagnostics", self._on_diagnostics, RELIABLE10)
        for name in WATCHED:
            node.create_subscription(JointState, f"{name}/reference",
                                     lambda message, name=name: self._on_reference(name, message), RELIABLE10)

    def _on_joints(self, message: JointState) -> None:
        if len(message.name) == len(message.position) and np.all(np.isfinite(message.position)):
            self.joints = dict(zip(message.name, message.position))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.diagnostics[status.name] = (status.level, status.message)

    def _on_reference(self, name: str, message: JointState) -> None:
        # A base's reference has velocities only.
        now = time.monotonic()
        velocity = np.array(message.velocity)
        if velocity.size and np.abs(velocity).max() > STILL[name]:
            self._motion = now
        stamp = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
        self.references[name].append((now, stamp, np.array(message.position), velocity, np.array(message.effort)))

    def _beat(self) -> None:
        # A thread of its own, on no clock that a test stops.
        while True:
            time.sleep(0.1)
            try:
                if self.beating:
                    self._heartbeat.publish(Bool(data=True))
            except Exception:  # the node is gone: the test is over
                return

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except (ExternalShutdownException, InvalidHandle):
            pass  # the test is over
