"""policy: answers observations with chunks of actions, as the instruction in force asks."""

from __future__ import annotations

import time
from typing import NoReturn

import numpy as np
from pi_msgs.msg import ActionChunk, Instruction, PolicyStatus
from pi_msgs.msg import Observation as ObservationMsg

from pi_policy_node.nodes import common
from pi_policy_node.nodes.common import (
    ERROR, LATCHED, OK, RELIABLE1, SENSOR, STALE, WARN, ManagedNode, from_seconds, parameter, robot_parameter,
    steady_timer, to_seconds,
)  # fmt: skip
from pi_policy_node.policy.base import Observation
from pi_policy_node.policy.loop import Chunk, Code, PolicyLoop, State, Task
from pi_policy_node.policy.registry import BACKENDS, make_policy, options
from pi_policy_node.robot import RobotError
from pi_policy_node.vision import ImageError, check_image

LEVELS = {State.INACTIVE: STALE, State.IDLE: OK, State.RUNNING: OK, State.BLIND: WARN, State.FAILED: ERROR}


class PolicyNode(ManagedNode):
    """Configure loads and warms up, activate answers, deactivate asks the robot to rest."""

    def __init__(self, cli_args: list[str] | None = None) -> None:
        super().__init__("policy", cli_args=cli_args)
        self.robot = robot_parameter(self)
        self.backend = parameter(self, "policy", "scripted", "which policy thinks", choices=sorted(BACKENDS))
        self.deadline = parameter(self, "deadline_s", 0.5, "an inference that takes longer is given up [s]",
                                  minimum=0.01, maximum=60.0)
        self.options = self.declare_options()
        self.policy = None
        self.loop: PolicyLoop | None = None
        self.chunks = self.create_publisher(ActionChunk, "action_chunk", RELIABLE1)
        self.statuses = self.create_publisher(PolicyStatus, "policy/status", LATCHED)
        self.create_subscription(ObservationMsg, "observation", self.on_observation, SENSOR)
        self.create_subscription(Instruction, "instruction", self.on_instruction, RELIABLE1)
        steady_timer(self, 0.02, lambda: self.loop and self.loop.tick())
        steady_timer(self, 0.5, self.publish_status)
        self.publish_status()

    def declare_options(self) -> dict[str, object]:
        """What the backend is to be told, from parameters called <backend>.<option>; empty ones are left to it."""
        chosen = {}
        for name, option in options(self.backend).items():
            default = option.default if option.default not in (None, option.empty) else ""
            value = parameter(self, f"{self.backend}.{name}", default, f"option of the policy '{self.backend}'")
            if value != "":
                chosen[name] = int(value) if default == "" and str(option.annotation).startswith("int") else value
        return chosen

    # ----------------------------------------------------------------------------------------------------- lifecycle

    def configure(self) -> None:
        """Loads and warms up."""
        begin = time.monotonic()
        self.policy = make_policy(self.backend, self.robot, **self.options)
        try:
            self.policy.warm_up()
        except ConnectionError as error:  # the link goes on trying, and until then policy/status says LINK_DOWN
            self.get_logger().warning(f"policy '{self.backend}' is not there yet: {error}")
        else:
            self.get_logger().info(f"policy '{self.backend}' is warm ({time.monotonic() - begin:.1f} s)")

    def activate(self) -> None:
        """Starts to answer observations."""
        # Sequence numbers go on upwards over a restart of this process, or its chunks would be refused as old ones.
        self.loop = PolicyLoop(self.policy, self.robot, send=self.send, changed=self.publish_status, now=self.now,
                               deadline=self.deadline, first_sequence=time.time_ns() // 1000)
        self.loop.start()
        self.publish_status()

    def deactivate(self) -> None:
        """Stops answering; the robot comes to rest on an empty chunk."""
        loop, self.loop = self.loop, None
        if loop is not None and not loop.close():
            self.get_logger().warning("the policy did not come back from its last inference")
        self.publish_status()

    def cleanup(self) -> None:
        """Lets go of the policy."""
        policy, self.policy = self.policy, None
        getattr(policy, "close", lambda: None)()

    # ------------------------------------------------------------------------------------------------------ messages

    def on_instruction(self, message: Instruction) -> None:
        """A lease: renewed, new, or withdrawn."""
        if self.loop is None:
            return
        left = to_seconds(message.expiry) - max(self.now() - to_seconds(message.header.stamp), 0.0)
        if not message.id or left <= 0:
            self.loop.instruct(None)
        else:
            self.loop.instruct(Task(message.id, message.subtask or message.text, time.monotonic() + left))

    def on_observation(self, message: ObservationMsg) -> None:
        """One synchronised set."""
        if self.loop is None:
            return
        age = self.now() - to_seconds(message.header.stamp)
        if age < -self.robot.clock_tolerance:
            self.loop.lack(Code.NO_OBSERVATION, f"observations are stamped {-age:.2f} s in the future")
            return
        if not message.joints_valid or not message.odom_valid:
            what = "odometry" if message.joints_valid else "joint states"
            self.loop.lack(Code.STATE_INVALID, f"camera_ingest says that the {what} are not valid")
            return
        images = {}
        if len({len(message.cameras), len(message.images), len(message.valid), len(message.reasons)}) > 1:
            self.loop.lack(Code.CAMERA_INVALID, "the observation's lists of cameras differ in length")
            return
        for name, image, valid, reason in zip(message.cameras, message.images, message.valid, message.reasons):
            if valid:
                try:
                    check_image(encoding=image.encoding, height=image.height, width=image.width, step=image.step,
                                length=len(image.data), accepted=("rgb8",))
                except ImageError as error:
                    self.loop.lack(Code.CAMERA_INVALID, f"{name}: {error}")
                    return
                rows = np.frombuffer(image.data, np.uint8).reshape(image.height, image.step)
                images[name] = rows[:, : image.width * 3].reshape(image.height, image.width, 3)
            elif name in getattr(self.policy, "cameras", ()):
                self.loop.lack(Code.CAMERA_INVALID, f"{name}: {reason}")
                return
        twist = message.odom.twist.twist
        try:
            state = self.robot.state(message.joints.name, message.joints.position,
                                     (twist.linear.x, twist.linear.y, twist.angular.z))
        except RobotError as error:
            self.loop.lack(Code.STATE_INVALID, str(error))
            return
        self.loop.lack(Code.NO_OBSERVATION, "observations stopped arriving")
        self.loop.observe(Observation(images, state, "", to_seconds(message.header.stamp)), age)

    def send(self, chunk: Chunk) -> None:
        """A chunk, from the worker's thread."""
        message = ActionChunk(source=self.backend, sequence=chunk.sequence, instruction_id=chunk.task,
                              observation_stamp=from_seconds(chunk.observed), dt=self.robot.dt,
                              horizon=len(chunk.rows), names=list(self.robot.action_names),
                              data=chunk.rows.ravel().tolist(), inference_time=chunk.inference_time,
                              fixed_rows=chunk.fixed)
        message.header.stamp = from_seconds(chunk.stamp)
        self.chunks.publish(message)

    def publish_status(self) -> None:
        """At 2 Hz and on every change."""
        loop = self.loop
        message = PolicyStatus(backend=self.backend)
        message.header.stamp = self.get_clock().now().to_msg()
        if loop is None:
            message.cause = "not active"
            self.diagnostics.set("inference", STALE, message.cause)
        else:
            status = loop.status
            message.state, message.code, message.cause = status.state.value, status.code.value, status.cause
            message.instruction_id, message.subtask, message.progress = status.task, status.subtask, status.progress
            message.inference_p50, message.inference_p99 = status.p50, status.p99
            message.chunks, message.failures = status.chunks, status.failures
            values = {"backend": self.backend, "p50 (s)": status.p50, "p99 (s)": status.p99,
                      "chunks": status.chunks, "failures": status.failures, "cause": status.cause}
            self.diagnostics.set("inference", LEVELS[status.state], status.code.name.lower().replace("_", " "), values)
        self.statuses.publish(message)

    def now(self) -> float:
        """Seconds on the node's clock."""
        return self.get_clock().now().nanoseconds * 1e-9


def main() -> NoReturn:
    """Entry point."""
    common.main(PolicyNode)


if __name__ == "__main__":
    main()
