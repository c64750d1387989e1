"""hardware_bridge: the only way from a plan to the controllers. What it may do is decided in control/; this carries it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import NoReturn

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry
from pi_msgs.msg import ActionChunk, BridgeStatus, Instruction
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from pi_policy_node.control import Bridge, Chunk, Code, Mode, Refused, Status
from pi_policy_node.nodes import common
from pi_policy_node.nodes._bridge_markers import PlanMarkers
from pi_policy_node.nodes._bridge_senders import Sender, make_senders
from pi_policy_node.nodes.common import (
    ERROR, LATCHED, OK, RELIABLE1, RELIABLE10, SENSOR, STALE, WARN, ManagedNode, describe, parameter, robot_parameter,
    steady_timer, to_ns, to_seconds, to_stamp,
)  # fmt: skip
from pi_policy_node.robot import Kinematics

REST_LIMIT = 3.0  # s within which the robot must be at rest when the node is deactivated
STATUS_PERIOD = 0.2  # s
CAMERA_REPORTS = "camera_ingest: "  # what the diagnostics that name a camera begin with
SOONEST = 0.01  # s between two windows that chunks asked for, however many arrive


def guarded(callback: Callable) -> Callable:
    """An error of our own stops the robot and is said in one line; it must not kill the process that brakes it."""

    @wraps(callback)
    def call(self: HardwareBridge, *args):
        try:
            return callback(self, *args)
        except Exception as error:
            self.get_logger().error(f"error of our own in {callback.__name__}: {describe(error)}", throttle_duration_sec=1.0)
            self.bridge.fault(Code.INTERNAL, describe(error))
            return args[-1] if args else None  # of a service: the answer, which says success = false

    return call


class HardwareBridge(ManagedNode):
    """Activate lets chunks through, deactivate comes to rest first. What is latched stays so until `resume`."""

    def __init__(self) -> None:
        super().__init__("hardware_bridge")
        self.robot = robot_parameter(self)
        self.dry_run = parameter(self, "dry_run", False, "shows the plan and sends nothing to the controllers")
        self.bridge = Bridge(self.robot, dry_run=self.dry_run)
        self.senders: list[Sender] = []
        self.markers: PlanMarkers | None = None
        self._said: tuple = ()  # what the last status said
        self._prompt = ""  # the words of the last instruction
        self._last_tick = 0.0  # s, steady
        self._last_answer = 0.0  # s, steady: when a chunk last had its window at once
        self._slowest = 0.0  # s from a chunk's arrival to its window's being sent, of the last second
        self._gap = 0.0  # s, the longest between two ticks, of the last second
        self._ticks = None
        self.statuses = self.create_publisher(BridgeStatus, "bridge/status", LATCHED)
        self.create_subscription(Instruction, "instruction", self.on_instruction, RELIABLE1)
        self.create_subscription(ActionChunk, "action_chunk", self.on_policy_chunk, RELIABLE1)
        self.create_subscription(ActionChunk, "takeover/action_chunk", self.on_takeover_chunk, RELIABLE1)
        self.create_subscription(JointState, "joint_states", self.on_joints, SENSOR)
        if self.robot.is_base.any():
            self.create_subscription(Odometry, "odom", self.on_odom, SENSOR)
        self.create_subscription(DiagnosticArray, "diagnostics", self.on_diagnostics, RELIABLE10)
        self.create_subscription(Bool, "stop_heartbeat", self.on_heartbeat, RELIABLE1)
        self.create_service(Trigger, "stop", self.on_stop)
        self.create_service(Trigger, "resume", self.on_resume)
        steady_timer(self, STATUS_PERIOD, self.on_status_timer)
        self.publish_status()

    # ----------------------------------------------------------------------------------------------------- lifecycle

    def configure(self) -> None:
        """Connects to the controllers' topics."""
        kinematics = Kinematics(self.robot)
        self.markers = PlanMarkers(self, self.robot, kinematics)
        if self.dry_run:
            self.get_logger().warning("dry run: nothing is sent to the controllers")
        else:
            self.senders = make_senders(self, self.robot, self.on_controller_failure)
            self.look_for_listeners()

    def activate(self) -> None:
        """Starts where the robot is found."""
        self.bridge.restart()
        self._last_tick = time.monotonic()
        self._ticks = steady_timer(self, 1.0 / self.robot.command_hz, self.on_tick)

    def deactivate(self) -> None:
        """Comes to rest, then lets go. The controllers go on holding the robot."""
        if self._ticks is not None:
            self.destroy_timer(self._ticks)
            self._ticks = None
            self._come_to_rest()
        self.active = False
        self.publish_status()

    def cleanup(self) -> None:
        for sender in self.senders:
            sender.close()
        self.senders = []
        if self.markers is not None:
            self.markers.close()
            self.markers = None

    def _come_to_rest(self) -> None:
        # Messages are not taken in here, /clock is not either: time goes on by the steady clock.
        self.bridge.rest("hardware_bridge was deactivated")
        begin, now = time.monotonic(), self.now()
        while (steady := time.monotonic()) < begin + REST_LIMIT:
            if self._send(now + round((steady - begin) * 1e9), steady):
                return
            time.sleep(1.0 / self.robot.command_hz)
        self.get_logger().error(f"not at rest within {REST_LIMIT} s")

    # ----------------------------------------------------------------------------------------------------- motion

    def now(self) -> int:
        """ns of the node's clock."""
        return self.get_clock().now().nanoseconds

    @guarded
    def on_tick(self) -> None:
        self._gap = max(self._gap, time.monotonic() - self._last_tick)
        self._send(self.now(), time.monotonic())
        self._tell_changes()

    def _send(self, now: int, steady: float) -> bool:
        """One tick of the bridge, and its messages. True at rest."""
        output = self.bridge.tick(now=now, steady=steady)
        self._last_tick = steady
        for sender in self.senders:
            sender.send(output, now=now, steady=steady)
        return output.at_rest

    # ----------------------------------------------------------------------------------------------------- messages

    @guarded
    def on_instruction(self, message: Instruction) -> None:
        self._prompt = message.subtask or message.text
        if self.active:
            self.bridge.on_instruction(
                message.id, issued=to_ns(message.issued), stamp=to_ns(message.header.stamp),
                expiry=to_seconds(message.expiry), now=self.now(), steady=time.monotonic())

    def on_policy_chunk(self, message: ActionChunk) -> None:
        self.on_chunk(message, False)

    def on_takeover_chunk(self, message: ActionChunk) -> None:
        self.on_chunk(message, True)

    @guarded
    def on_chunk(self, message: ActionChunk, person: bool) -> None:
        if not self.active:
            return
        arrived = time.monotonic()
        try:
            chunk = Chunk.read(
                self.robot, source=message.source, sequence=message.sequence, instruction_id=message.instruction_id,
                stamp=to_ns(message.header.stamp), observation_stamp=to_ns(message.observation_stamp), dt=message.dt,
                horizon=message.horizon, names=message.names, data=np.asarray(message.data, dtype=float))
        except Refused as refusal:
            self.bridge.refuse(refusal)
            reason = str(refusal)
        else:
            reason = self.bridge.on_chunk(chunk, person=person, now=self.now(), steady=arrived)
        if reason:
            whose = "takeover" if person else "policy"
            self.get_logger().warning(f"chunk of the {whose} refused: {reason}", throttle_duration_sec=1.0)
        elif arrived - self._last_answer > SOONEST:
            self._last_answer = arrived
            self._send(self.now(), time.monotonic())
            self._ticks.reset()  # the next one a period after this
            self._slowest = max(self._slowest, time.monotonic() - arrived)
        self._tell_changes()

    @guarded
    def on_joints(self, message: JointState) -> None:
        if self.active:
            self.bridge.on_joints(message.name, message.position, stamp=to_ns(message.header.stamp), now=self.now(),
                                  steady=time.monotonic())

    @guarded
    def on_odom(self, message: Odometry) -> None:
        if self.active:
            twist = message.twist.twist
            self.bridge.on_odom((twist.linear.x, twist.linear.y, twist.angular.z), steady=time.monotonic())

    @guarded
    def on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.startswith(CAMERA_REPORTS):
                problem = status.message or "no reason given" if status.level >= ERROR else ""
                self.bridge.on_camera(status.name[len(CAMERA_REPORTS):], problem)

    @guarded
    def on_heartbeat(self, message: Bool) -> None:
        self.bridge.on_heartbeat(message.data, steady=time.monotonic())
        self._tell_changes()

    @guarded
    def on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Works in every state of the node."""
        self.bridge.stop()
        if self.active:
            self._send(self.now(), time.monotonic())
        response.success, response.message = True, "stopped: `resume`, then give a task"
        self._tell_changes()
        return response

    @guarded
    def on_resume(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self.active:
            response.success, response.message = self.bridge.resume(now=self.now(), steady=time.monotonic())
        else:
            response.success, response.message = False, "hardware_bridge is not active"
        self._tell_changes()
        return response

    def on_controller_failure(self, words: str) -> None:
        """A gripper's action failed."""
        self.bridge.fault(Code.CONTROLLER, words)

    # ----------------------------------------------------------------------------------------------------- what it says

    @guarded
    def on_status_timer(self) -> None:
        self.look_for_listeners()
        self.publish_status()
        if self.active and self.markers is not None:
            status = self.bridge.status(steady=time.monotonic())
            prompt = f"“{self._prompt}”\n" if status.instruction_id and self._prompt else ""
            self.markers.publish(self.bridge.timeline, self.now(), f"{prompt}{status.mode.name}: {status.cause}")

    def look_for_listeners(self) -> None:
        """Nothing may move whose commands nobody hears."""
        missing = [sender.topic for sender in self.senders if not sender.heard()]
        self.bridge.on_listeners(missing)
        self.diagnostics.set("controllers", WARN if missing else OK,
                             f"nobody listens on {', '.join(missing)}" if missing else "every command is heard")

    def _tell_changes(self) -> None:
        status = self.bridge.status(steady=time.monotonic())
        if (status.mode, status.code, status.at_rest, status.instruction_id) != self._said:
            self.publish_status()

    def publish_status(self) -> None:
        status = self.bridge.status(steady=time.monotonic())
        changed = (status.mode, status.code) != self._said[:2]
        self._said = status.mode, status.code, status.at_rest, status.instruction_id
        cause = status.cause if self.active or status.latched else "hardware_bridge is not active"
        message = BridgeStatus(
            mode=int(status.mode), code=int(status.code), cause=cause, latched=status.latched, at_rest=status.at_rest,
            dry_run=self.dry_run, instruction_id=status.instruction_id, source=status.source,
            chunk_sequence=status.sequence, plan_left=status.plan_left, tracking_error=status.tracking_error,
            counters=list(status.counters), counts=list(status.counters.values()))
        message.header.stamp = to_stamp(self.now())
        message.header.frame_id = self.robot.base_frame
        self.statuses.publish(message)
        self._diagnose(status, cause, changed)

    def _diagnose(self, status: Status, cause: str, changed: bool) -> None:
        level = {Mode.FAULT: ERROR, Mode.STOPPED: WARN}.get(status.mode, OK if self.active else STALE)
        words = f"{status.mode.name}: {cause}"
        if changed and self.active:
            # A line each: rclpy ties the severity to the place of the call.
            if level == ERROR:
                self.get_logger().error(words)
            elif level == WARN:
                self.get_logger().warning(words)
            else:
                self.get_logger().info(words)
        self.diagnostics.set("motion", level, words, {
            "longest time between ticks (ms)": f"{self._gap * 1e3:.1f}",
            "slowest chunk to window (ms)": f"{self._slowest * 1e3:.1f}",
            **status.counters,
        })
        self._gap = self._slowest = 0.0


def main() -> NoReturn:
    common.main(HardwareBridge)


if __name__ == "__main__":
    main()
