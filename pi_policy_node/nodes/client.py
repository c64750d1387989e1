"""A robot as a program sees it: say, wait, stop, resume, status.

>>> with RobotClient() as robot:
...     robot.say("put the red block in the bin")
...     print(robot.wait(limit=60).reason)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import rclpy
from pi_msgs.msg import BridgeStatus, PolicyStatus, TaskStatus
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String
from std_srvs.srv import Trigger

from pi_policy_node.nodes.common import LATCHED, RELIABLE10
from pi_policy_node.nodes.executor import LeanExecutor
from pi_policy_node.task import is_cancel, is_stop, next_step

FIRST_STATUS = 2.0  # s for the latched `task/status` to arrive
STATUSES = QoSProfile(depth=10, reliability=LATCHED.reliability, durability=LATCHED.durability)
ENDED = {TaskStatus.SUCCEEDED, TaskStatus.FAILED, TaskStatus.TIMED_OUT, TaskStatus.CANCELLED, TaskStatus.REFUSED,
         TaskStatus.STOPPED}


class NoRobot(Exception):
    """Nobody answers. The message says what was tried."""


class RobotClient:
    """Works in the caller's thread: messages arrive while one of its methods waits."""

    def __init__(self, *, namespace: str = "", node_name: str = "robot_client") -> None:
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = Node(node_name, namespace=namespace, context=self._context, use_global_arguments=False)
        self._executor = LeanExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.task: TaskStatus | None = None
        self.bridge: BridgeStatus | None = None
        self.policy: PolicyStatus | None = None
        self._answers: list[TaskStatus] = []  # on `task/status` since the words were said
        self._before = ""  # the task that they replace
        self._step_of = ""  # the task whose next step they are
        self._enough: set[int] = set()  # an end of whatever task that answers them
        self._command = self.node.create_publisher(String, "command", RELIABLE10)
        self._stop = self.node.create_client(Trigger, "stop")
        self._resume = self.node.create_client(Trigger, "resume")
        for kind, topic, name in ((TaskStatus, "task/status", "task"), (BridgeStatus, "bridge/status", "bridge"),
                                  (PolicyStatus, "policy/status", "policy")):
            self.node.create_subscription(kind, topic, lambda message, name=name: self._take(name, message), STATUSES)

    def __enter__(self) -> RobotClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leaves the graph; the robot goes on."""
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()

    # --------------------------------------------------------------------------------------------------- the verbs

    def say(self, words: str, *, limit: float = 10.0) -> None:
        """Hands words to the commander; NoRobot when none is there within `limit` s.

        A task; "next: " and a step; "cancel"; or "stop", which latches until `resume`.
        """
        # A stop word need not wait for the latched status: only for somebody who listens.
        self._connect(lambda: self._command.get_subscription_count() > 0, "command", limit)
        self._before, self._step_of, self._enough = "", "", set()
        if is_stop(words):
            self._enough = {TaskStatus.STOPPED}
        elif is_cancel(words):
            self._enough = {TaskStatus.CANCELLED, TaskStatus.REFUSED}
        else:
            self.wait_until(lambda: self.task is not None, FIRST_STATUS)
            running = self.task is not None and self.task.state == TaskStatus.RUNNING
            task = self.task.id if running else ""
            self._before, self._step_of = (task, "") if next_step(words) is None else ("", task)
        self._answers.clear()
        self._command.publish(String(data=words))

    def wait(self, *, limit: float = 3600.0, feedback: Callable[[TaskStatus], None] = lambda _: None) -> TaskStatus:
        """The end of what was said last; `feedback` sees every status on the way. NoRobot without an answer in 5 s."""
        task, seen, begin = None, 0, time.monotonic()
        while True:
            for status in self._answers[seen:]:
                seen += 1
                if task is None and self._before and status.id == self._before:
                    continue
                if task is None and status.id and status.state == TaskStatus.RUNNING:
                    task = status.id
                if task is not None and status.id != task and status.state == TaskStatus.RUNNING:
                    return TaskStatus(id=task, state=TaskStatus.CANCELLED, reason=f"replaced by '{status.text}'")
                enough = status.state in self._enough
                # Of a step's task the end may be all that arrives, where that comes before it is heard to run.
                if enough or status.id == (task or "") or self._step_of and status.id == self._step_of:
                    feedback(status)
                    if enough or status.state in ENDED:
                        return status
            if time.monotonic() - begin > (limit if task else min(limit, 5.0)):
                what = f"did not end within {limit:g} s" if task else "was not answered by the commander"
                raise NoRobot(f"the command {what}")
            self.spin(0.1)

    def stop(self, *, limit: float = 5.0) -> str:
        """Stops the robot at the bridge, past the commander; what the bridge says."""
        return self._call(self._stop, "stop", limit)

    def resume(self, *, limit: float = 5.0) -> str:
        """Ends a latched stop or fault; moves nothing. What the bridge says."""
        return self._call(self._resume, "resume", limit)

    def status(self, *, limit: float = 10.0) -> tuple[TaskStatus, BridgeStatus, PolicyStatus]:
        """What task, bridge and policy say now."""
        self._connect(lambda: None not in (self.task, self.bridge, self.policy), "…/status", limit)
        return self.task, self.bridge, self.policy

    # ------------------------------------------------------------------------------------------------------- helpers

    def spin(self, limit: float) -> None:
        """Lets messages in, for up to `limit` s, or until one came."""
        self._executor.spin_once(timeout_sec=limit)

    def wait_until(self, condition: Callable[[], bool], limit: float) -> bool:
        """Lets messages in until the condition holds; False after `limit` s."""
        end = time.monotonic() + limit
        while not condition():
            left = end - time.monotonic()
            if left <= 0:
                return False
            self.spin(min(left, 0.1))
        return True

    def _take(self, name: str, message: Any) -> None:
        setattr(self, name, message)
        if name == "task":
            self._answers.append(message)

    def _call(self, client: Any, name: str, limit: float) -> str:
        end = time.monotonic() + limit
        self._connect(client.service_is_ready, name, limit)
        answer = None
        while answer is None or not answer.done():
            if time.monotonic() > end:
                raise NoRobot(f"the service '{self.node.resolve_service_name(name)}' did not answer within {limit:g} s")
            answer = client.call_async(Trigger.Request())  # asked again: while discovery goes on, answers get lost
            self.wait_until(answer.done, min(1.0, max(end - time.monotonic(), 0.01)))
        if not answer.result().success:
            raise NoRobot(f"{name}: {answer.result().message}")
        return answer.result().message

    def _connect(self, condition: Callable[[], bool], name: str, limit: float) -> None:
        if not self.wait_until(condition, limit):
            raise NoRobot(f"no robot answers on '{self.node.resolve_topic_name(name.lstrip('…/'))}' of ROS domain "
                          f"{self._context.get_domain_id()}")
