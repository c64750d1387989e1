"""What every node shares: the runner, lifecycle with reasons, QoS presets, parameters, diagnostics, clocks and stamps."""

from __future__ import annotations

import faulthandler
import gc
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import rclpy
import rclpy.duration
from builtin_interfaces.msg import Duration, Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.action import ActionClient, ActionServer
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from pi_policy_node.nodes._process import ask_for_priority, on_signals
from pi_policy_node.nodes.executor import LeanExecutor
from pi_policy_node.robot import Robot, load_robot

SENSOR = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
RELIABLE1 = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
RELIABLE10 = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)

OK, WARN, ERROR, STALE = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR, DiagnosticStatus.STALE

DELIVERY_LIMIT = 0.5  # s for the last messages of a node that ends to be acknowledged
EXIT_LIMIT = 4.0  # s; Fast DDS can spin for ever at process exit, so this process ends itself


class NodeError(Exception):
    """A mistake of whoever started the node. The message says what is wrong and what would be right."""


# --------------------------------------------------------------------------------------------------------------- stamps

def to_ns(stamp: Time | Duration) -> int:
    """Nanoseconds of a Time or Duration message."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def to_stamp(ns: int) -> Time:
    """A Time message from nanoseconds."""
    sec, nanosec = divmod(int(ns), 1_000_000_000)
    return Time(sec=sec, nanosec=nanosec)


def to_duration(ns: int) -> Duration:
    """A Duration message from nanoseconds."""
    sec, nanosec = divmod(int(ns), 1_000_000_000)
    return Duration(sec=sec, nanosec=nanosec)


def to_seconds(stamp: Time | Duration) -> float:
    """Seconds of a Time or Duration message (float64: 0.2 us at the Unix time of today)."""
    return stamp.sec + stamp.nanosec * 1e-9


def from_seconds(seconds: float) -> Time:
    """A Time message from seconds."""
    return to_stamp(round(seconds * 1e9))


# ------------------------------------------------------------------------------------------------- clocks and parameters

def steady_timer(node: Node, period: float, callback: Callable[[], None], **options: Any):
    """A timer of `period` seconds that goes on when the node's clock stops: for every timeout and watchdog."""
    return node.create_timer(period, callback, clock=Clock(clock_type=ClockType.STEADY_TIME), **options)


def parameter(node: Node, name: str, default: Any, description: str, *, minimum: float | None = None,
              maximum: float | None = None, choices: Sequence[Any] | None = None) -> Any:
    """Declares a read-only parameter and returns its value, converted to the type of `default`.

    A wrong type, range or choice raises NodeError with the right one. An integer is taken for a float (`-p limit:=3`).
    """
    # Read as given and checked here: rclpy's own exceptions say neither what was given nor what would be right.
    value = node.declare_parameter(name, default, ParameterDescriptor(dynamic_typing=True)).value
    node.undeclare_parameter(name)
    value = default if value is None else value
    kind = type(default)
    if kind is float and type(value) is int:
        value = float(value)
    if kind in (list, tuple):
        value = list(value) if isinstance(value, (list, tuple)) or hasattr(value, "tolist") else value
        kind = list
    if kind is str and type(value) in (int, float):  # `-p robot:=7` reads as a number
        value = str(value)
    if type(value) is not kind:
        raise NodeError(f"parameter '{name}' is {value!r}, but must be a {kind.__name__}: {description}")
    if choices is not None and value not in choices:
        raise NodeError(f"parameter '{name}' is {value!r}, but must be one of {', '.join(map(str, choices))}")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not ((minimum is None or value >= minimum) and (maximum is None or value <= maximum)):
            ends = " and ".join(f"{word} {end:g}" for word, end in (("at least", minimum), ("at most", maximum))
                                if end is not None)
            raise NodeError(f"parameter '{name}' is {value:g}, but must be {ends}: {description}")
    descriptor = ParameterDescriptor(description=description, read_only=True)
    if choices is not None:
        descriptor.additional_constraints = f"one of {', '.join(map(str, choices))}"
    if minimum is not None and maximum is not None:
        if kind is float:
            descriptor.floating_point_range = [FloatingPointRange(from_value=float(minimum), to_value=float(maximum))]
        else:
            descriptor.integer_range = [IntegerRange(from_value=int(minimum), to_value=int(maximum))]
    node.declare_parameter(name, value, descriptor, ignore_override=True)
    return value


def robot_parameter(node: Node) -> Robot:
    """The robot that the node's parameter `robot` names. RobotError where its file is wrong."""
    return load_robot(parameter(node, "robot", "pi_mobile", "a robot file: a name under config/robots, or a path"))


# ---------------------------------------------------------------------------------------------------------- diagnostics

class Diagnostics:
    """Publishes the state of a node's subsystems as "node: subsystem", at 1 Hz and at once on every change.

    A change is one of level or message: numbers that always move belong in `values`.
    """

    def __init__(self, node: Node, *, hardware_id: str = "") -> None:
        self._node = node
        self._hardware_id = hardware_id
        self._publisher = node.create_publisher(DiagnosticArray, "diagnostics", RELIABLE10)
        self._statuses: dict[str, DiagnosticStatus] = {}
        self._lock = threading.Lock()
        self._timer = steady_timer(node, 1.0, self._publish_all)

    def set(self, subsystem: str, level: bytes, message: str, values: Mapping[str, object] | None = None) -> None:
        """The state of one subsystem from now on."""
        pairs = [KeyValue(key=key, value=str(value)) for key, value in (values or {}).items()]
        status = DiagnosticStatus(level=level, name=f"{self._node.get_name()}: {subsystem}", message=message,
                                  hardware_id=self._hardware_id, values=pairs)
        with self._lock:
            old = self._statuses.get(subsystem)
            self._statuses[subsystem] = status
        if old is None or (old.level, old.message) != (level, message):
            self._publish([status])

    def clear(self, subsystem: str) -> None:
        """Forgets a subsystem."""
        with self._lock:
            self._statuses.pop(subsystem, None)

    def _publish_all(self) -> None:
        with self._lock:
            statuses = list(self._statuses.values())
        if statuses:
            self._publish(statuses)

    def _publish(self, statuses: list[DiagnosticStatus]) -> None:
        message = DiagnosticArray(status=statuses)
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)


# ------------------------------------------------------------------------------------------------------------ lifecycle

class ManagedNode(LifecycleNode):
    """A lifecycle node that says why a transition failed: on the log, and as diagnostics of "<node>: lifecycle".

    Override `configure`, `activate`, `deactivate` and `cleanup`, which raise when they can't. `deactivate` must leave
    nothing moving; it and `cleanup` are called on Ctrl-C and SIGTERM too, and must bear being called in any state.
    """

    def __init__(self, name: str, *, cli_args: list[str] | None = None) -> None:
        super().__init__(name, cli_args=cli_args)
        self.diagnostics = Diagnostics(self)
        self.active = False

    def configure(self) -> None:
        """Loads and warms up."""

    def activate(self) -> None:
        """Starts to accept work."""

    def deactivate(self) -> None:
        """Stops safely; back in `inactive`."""

    def cleanup(self) -> None:
        """Frees what `configure` made."""

    def on_configure(self, state) -> TransitionCallbackReturn:
        return self._transition("configure", self.configure, undo=self.cleanup)

    def on_activate(self, state) -> TransitionCallbackReturn:
        done = self._transition("activate", self.activate, undo=self.deactivate)
        self.active = done == TransitionCallbackReturn.SUCCESS
        return done

    def on_deactivate(self, state) -> TransitionCallbackReturn:
        self.active = False
        return self._transition("deactivate", self.deactivate)

    def on_cleanup(self, state) -> TransitionCallbackReturn:
        return self._transition("clean up", self.cleanup)

    def on_shutdown(self, state) -> TransitionCallbackReturn:
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        super().destroy_node()
        # It holds the node: until it goes, the middleware's files stay in shared memory, 50 MB of them, for ever.
        self._state_machine.destroy_when_not_in_use()

    def close(self) -> None:
        """Comes to a safe end from any state."""
        if self.active:
            self.active = False
            self._transition("deactivate", self.deactivate)
            _deliver(self)
        self._transition("clean up", self.cleanup)

    def _transition(self, verb: str, action: Callable[[], None],
                    undo: Callable[[], None] | None = None) -> TransitionCallbackReturn:
        try:
            action()
        except Exception as error:  # rclpy would swallow it and say nothing
            reason = describe(error)
            self.get_logger().error(f"cannot {verb}: {reason}")
            if os.environ.get("PI_TRACEBACK"):
                traceback.print_exc()
            self.diagnostics.set("lifecycle", ERROR, f"cannot {verb}: {reason}")
            if undo is not None:
                try:
                    undo()
                except Exception as another:
                    self.get_logger().error(f"nor undo it: {describe(another)}")
            return TransitionCallbackReturn.FAILURE
        self.diagnostics.set("lifecycle", OK, f"{verb}: done")
        return TransitionCallbackReturn.SUCCESS


def describe(error: BaseException) -> str:
    """An error in one line: its message where it was meant for a person, else its type and where it happened."""
    if _is_ours(error):
        return " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    return " ".join(f"{type(error).__name__}: {error}{place}".split())


# --------------------------------------------------------------------------------------------------------------- runner

def main(node_class: Callable[[], Node]) -> NoReturn:
    """Runs one node until SIGINT or SIGTERM, or until it calls `finish(node, code)`; ends the process.

    Exit status 0: stopped as asked; 1: an error of ours; 2: a wrong parameter, robot file or argument. Errors are one line each
    (PI_TRACEBACK=1 shows where an unexpected one happened).
    On a signal a ManagedNode is deactivated, with its publishers still alive, before anything is torn down.
    """
    ask_for_priority()  # first: threads have that of the one that starts them
    try:
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:  # rclpy has an exception type per kind of argument that it can't read
        sys.exit(_fail(_name(node_class, None), f"cannot start: {' '.join(str(error).split())}", 2))
    sys.setswitchinterval(0.001)  # s; Python's 5 ms is long for a thread that has a message to answer
    executor = LeanExecutor()
    done: Future = Future(executor=executor)
    on_signals(lambda: done.done() or done.set_result(0))
    node = None
    code = 1
    try:
        node = node_class()
        node.finished = done
        executor.add_node(node)
        gc.collect()
        gc.freeze()  # what has been made lives as long as the process: no collection need look at it again
        executor.spin_until_future_complete(done)
        code = done.result() if done.done() else 0
    except ExternalShutdownException:
        code = 0
    except Exception as error:
        code = _fail(_name(node_class, node), describe(error), 2 if _is_ours(error) and node is None else 1)
        if os.environ.get("PI_TRACEBACK"):
            traceback.print_exc()
    # Written without Python: the interpreter may be the one that hangs.
    with open(os.devnull, "w") as nowhere:
        faulthandler.dump_traceback_later(EXIT_LIMIT, exit=True, file=nowhere)
        try:
            executor.shutdown(timeout_sec=0)
            if isinstance(node, ManagedNode):
                node.close()
            if node is not None:
                for action in [one for one in node.waitables if isinstance(one, (ActionClient, ActionServer))]:
                    action.destroy()  # they hold the node as well
                node.destroy_node()
            rclpy.try_shutdown()
        except Exception as error:
            code = code or _fail(_name(node_class, node), f"while stopping: {describe(error)}", 1)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # everything is closed; atexit handlers of the middleware are where it has been seen to hang


def finish(node: Node, code: int) -> None:
    """Ends the `main` that runs this node, with an exit status; from any thread."""
    finished: Future | None = getattr(node, "finished", None)
    if finished is not None and not finished.done():
        finished.set_result(code)


def wait_for(condition: Callable[[], bool], limit: float, *, step: float = 0.005) -> bool:
    """Waits on the steady clock, in a thread that is not the executor's, until `condition()`; False after `limit` s."""
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(step)
    return True


def _deliver(node: Node) -> None:
    # What was said last (a withdrawn lease, an empty chunk) must arrive: a process that is gone sends nothing again.
    end = time.monotonic() + DELIVERY_LIMIT
    for publisher in node.publishers:
        left = max(end - time.monotonic(), 0.001)
        try:
            publisher.wait_for_all_acked(rclpy.duration.Duration(seconds=left))
        except InvalidHandle:
            continue  # destroyed already


def _name(node_class: Callable[[], Node], node: Node | None) -> str:
    return node.get_name() if node is not None else Path(sys.modules[node_class.__module__].__file__ or "node").stem


def _is_ours(error: BaseException) -> bool:
    # The package's own exceptions carry messages for people; anything else is a bug, and says where.
    return type(error).__module__.startswith("pi_policy_node.") or type(error).__module__ == "__main__"


def _fail(name: str, reason: str, code: int) -> int:
    print(f"[ERROR] [{name}]: {reason}", file=sys.stderr, flush=True)
    return code
