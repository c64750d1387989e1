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
from pi_policy_node.policy.ahead import Chunk
from pi_policy_node.policy.base import Observation
from pi_policy_node.policy.ladder import Ladder, Task
from pi_policy_node.policy.loop import PolicyLoop
from pi_policy_node.policy.registry import make_policy, options, split
from pi_policy_node.policy.status import Code, State
from pi_policy_node.robot import RobotError
from pi_policy_node.vision import ImageError, check_image

CLOSE_LIMIT = 1.0  # s for policies to come back from their last inference
LEVELS = {State.INACTIVE: STALE, State.IDLE: OK, State.RUNNING: OK, State.BLIND: WARN, State.FAILED: ERROR}


class PolicyNode(ManagedNode):
    """Configure loads and warms up, activate answers, deactivate asks the robot to rest."""

    def __init__(self, cli_args: list[str] | None = None) -> None:
        super().__init__("policy", cli_args=cli_args)
        self.robot = robot_parameter(self)
        self.names = split(parameter(self, "policy", "scripted", "which policy thinks; several, with commas between, are "
                                     "a fallback ladder, the preferred one first"))
        self.deadline = parameter(self, "deadline_s", 0.5, "an inference that takes longer is given up [s]",
                                  minimum=0.01, maximum=5.0)
        self.step_down = parameter(self, "step_down_s", 0.25, "a policy with another one below it that takes longer is "
                                   "stepped down from [s]; replan_s, it and one inference of the next must fit into the "
                                   "robot's max_blind", minimum=0.01, maximum=5.0)
        self.climb = parameter(self, "climb_after_s", 2.0, "a policy that was stepped down from and has answered well on "
                               "the side for so long is used again [s]", minimum=0.0, maximum=600.0)
        self.replan = parameter(self, "replan_s", 0.2, "from one question to the next, at least, where the one before was "
                                "answered well [s]; 0: as soon as there is a new observation", minimum=0.0, maximum=0.3)
        self.options = {name: self.declare_options(name) for name in self.names}
        self.ladder: Ladder | None = None
        self.loop: PolicyLoop | None = None
        self.chunks = self.create_publisher(ActionChunk, "action_chunk", RELIABLE1)
        self.statuses = self.create_publisher(PolicyStatus, "policy/status", LATCHED)
        self.create_subscription(ObservationMsg, "observation", self.on_observation, SENSOR)
        self.create_subscription(Instruction, "instruction", self.on_instruction, RELIABLE1)
        steady_timer(self, 0.02, lambda: self.loop and self.loop.tick())
        steady_timer(self, 0.25, self.publish_status)
        self.publish_status()

    def declare_options(self, backend: str) -> dict[str, object]:
        """What a backend is to be told, from parameters called <backend>.<option>; empty ones are left to it."""
        chosen = {}
        for name, option in options(backend).items():
            default = option.default if option.default not in (None, option.empty) else ""
            value = parameter(self, f"{backend.rpartition(':')[2]}.{name}", default, f"option of the policy '{backend}'")
            if value != "":
                chosen[name] = int(value) if default == "" and str(option.annotation).startswith("int") else value
        return chosen

    # ----------------------------------------------------------------------------------------------------- lifecycle

    def configure(self) -> None:
        """Loads and warms up."""
        policies = []
        for name in self.names:
            begin = time.monotonic()
            policy = make_policy(name, self.robot, **self.options[name])
            policies.append((name.rpartition(":")[2], policy))
            try:
                policy.warm_up()
            except ConnectionError as error:  # the link goes on trying, and until then policy/status says LINK_DOWN
                self.get_logger().warning(f"policy '{name}' is not there yet: {error}")
            else:
                self.get_logger().info(f"policy '{name}' is warm ({time.monotonic() - begin:.1f} s)")
        self.ladder = Ladder(policies, self.robot, deadline=self.deadline, step_down=self.step_down,
                             climb_after=self.climb)

    def activate(self) -> None:
        """Starts to answer observations."""
        # Sequence numbers go on upwards over a restart of this process, or its chunks would be refused as old ones.
        self.loop = PolicyLoop(self.ladder, self.robot, send=self.send, changed=self.publish_status, now=self.now,
                               replan=self.replan, first_sequence=time.time_ns() // 1000)
        self.loop.start()
        self.publish_status()

    def deactivate(self) -> None:
        """Stops answering; the robot comes to rest on an empty chunk."""
        loop, self.loop = self.loop, None
        if loop is not None and not loop.close():
            self.get_logger().info("a policy still thinks; nobody waits for it")
        self.publish_status()

    def cleanup(self) -> None:
        """Lets go of the policies."""
        ladder, self.ladder = self.ladder, None
        if ladder is None:
            return
        for name in ladder.close(CLOSE_LIMIT):
            self.get_logger().warning(f"policy '{name}' did not come back from its last inference")
        for rung in ladder.rungs:
            getattr(rung.policy, "close", lambda: None)()

    # ------------------------------------------------------------------------------------------------------ messages

    def on_instruction(self, message: Instruction) -> None:
        """A lease: renewed, new, or withdrawn."""
        if self.loop is None:
            return
        left = to_seconds(message.expiry) - max(self.now() - to_seconds(message.header.stamp), 0.0)
        if not message.id or left <= 0:
            self.loop.instruct(None)
        else:
            self.loop.instruct(Task(message.id, message.text, time.monotonic() + left, message.subtask, message.attempt))

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
            elif all(name in getattr(rung.policy, "cameras", ()) for rung in self.ladder.rungs):
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
        message = ActionChunk(source=chunk.source, sequence=chunk.sequence, instruction_id=chunk.task,
                              observation_stamp=from_seconds(chunk.observed), dt=self.robot.dt,
                              horizon=len(chunk.rows), names=list(self.robot.action_names),
                              data=chunk.rows.ravel().tolist(), inference_time=chunk.inference_time,
                              fixed_rows=chunk.fixed)
        message.header.stamp = from_seconds(chunk.stamp)
        self.chunks.publish(message)

    def publish_status(self) -> None:
        """At 4 Hz and on every change."""
        loop = self.loop
        message = PolicyStatus(backend=self.names[0].rpartition(":")[2])
        message.header.stamp = self.get_clock().now().to_msg()
        if loop is None:
            message.cause = "not active"
            self.diagnostics.set("inference", STALE, message.cause)
        else:
            status = loop.status
            message.state, message.code, message.cause = status.state.value, status.code.value, status.cause
            message.backend, message.rung = status.source, status.rung
            message.instruction_id, message.subtask, message.progress = status.task, status.subtask, status.progress
            message.inference_p50, message.inference_p99 = status.p50, status.p99
            message.chunks, message.failures = status.chunks, status.failures
            values = {"backend": status.source, "rung": status.rung, "p50 (s)": status.p50, "p99 (s)": status.p99,
                      "chunks": status.chunks, "failures": status.failures, "cause": status.cause}
            level = WARN if status.state == State.RUNNING and status.rung else LEVELS[status.state]
            self.diagnostics.set("inference", level, status.code.name.lower().replace("_", " "), values)
        self.statuses.publish(message)

    def now(self) -> float:
        """Seconds on the node's clock."""
        return self.get_clock().now().nanoseconds * 1e-9


def main() -> NoReturn:
    """Entry point."""
    common.main(PolicyNode)


if __name__ == "__main__":
    main()
