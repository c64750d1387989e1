"""commander: words in, a lease on the robot out. What is done with them is decided in task/."""

from __future__ import annotations

import time
from collections import deque
from typing import NoReturn

from pi_msgs.action import ExecuteTask
from pi_msgs.msg import BridgeStatus, Instruction, PolicyStatus, TaskStatus
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.task import Future
from std_msgs.msg import String
from std_srvs.srv import Trigger

from pi_policy_node.nodes import common
from pi_policy_node.nodes.common import (
    ERROR, LATCHED, OK, RELIABLE1, RELIABLE10, STALE, WARN, ManagedNode, parameter, robot_parameter, steady_timer,
    to_duration, to_stamp,
)  # fmt: skip
from pi_policy_node.task import Brain, Bridge, Lease, Outcome, Refused, Report, State, is_cancel, is_stop, next_step

RENEWAL = 0.2  # s
EXPIRY = 1.0  # s
STOP_LIMIT = 1.0  # s for the bridge to confirm a stop
SPACING = 0.05  # s between statuses: a latched topic of depth 1 delivers only the last one of a burst


class CommanderNode(ManagedNode):
    """One task at a time, from the topics `command` and `vla/instruction` or the action `execute_task`."""

    def __init__(self) -> None:
        super().__init__("commander")
        robot_parameter(self)
        limit = parameter(self, "time_limit_s", 180.0, "time limit of a task that brings none [s]",
                          minimum=0.1, maximum=3600.0)
        stall = parameter(self, "stall_s", 15.0, "without progress for so long, the policy is asked to try again [s]",
                          minimum=0.5, maximum=3600.0)
        retries = parameter(self, "retries", 2, "how often it is, before the task has failed", minimum=0, maximum=100)
        self.brain = Brain(time_limit=limit, changed=self.on_outcome, stall=stall, retries=retries)
        self.said: Lease | None = None  # last on `instruction`
        self.goal: tuple[str, ServerGoalHandle, Future] | None = None  # task id, its action goal, its end
        self.leases = self.create_publisher(Instruction, "instruction", RELIABLE1)
        self.statuses = self.create_publisher(TaskStatus, "task/status", LATCHED)
        self.outbox: deque[TaskStatus] = deque()
        self.stop_client = self.create_client(Trigger, "stop")
        for topic in ("command", "vla/instruction"):
            self.create_subscription(String, topic, lambda message: self.on_words(message.data), RELIABLE10)
        self.create_subscription(BridgeStatus, "bridge/status", self.on_bridge, LATCHED)
        self.create_subscription(PolicyStatus, "policy/status", self.on_policy, LATCHED)
        self.server = ActionServer(self, ExecuteTask, "execute_task", self.on_execute, goal_callback=self.on_goal,
                                   cancel_callback=self.on_cancel)
        steady_timer(self, RENEWAL, self.renew)
        steady_timer(self, 0.1, self.on_tick)
        steady_timer(self, SPACING, self.send)
        self.diagnostics.set("task", STALE, "not active")
        self.publish(self.brain.outcome)

    # ----------------------------------------------------------------------------------------------------- lifecycle

    def activate(self) -> None:
        """Starts to accept commands. Nothing from before is taken up again."""
        self.diagnostics.set("task", OK, "no task yet")

    def deactivate(self) -> None:
        """Withdraws the lease: the robot comes to rest."""
        self.brain.end(State.CANCELLED, "the commander was shut down", now=time.monotonic())
        while self.outbox:
            self.send()
        self.diagnostics.set("task", STALE, "not active")

    # ------------------------------------------------------------------------------------------------------ commands

    def on_words(self, text: str) -> None:
        """A person said something."""
        if is_stop(text):
            self.stop(text)
        elif not self.active:
            self.brain.refuse(text, "the commander is not active")
        elif is_cancel(text):
            if self.brain.lease is None:
                self.brain.refuse(text, "there is no task to cancel")
            self.brain.end(State.CANCELLED, "cancelled by words", now=time.monotonic())
        else:
            try:
                step = next_step(text)
                if step is None:
                    self.begin(text)
                else:
                    self.step(step)
            except Refused as refusal:
                self.get_logger().warning(f"refused: {refusal}")
                self.brain.refuse(text, str(refusal))

    def begin(self, text: str, *, limit: float = 0.0, direct: bool = False) -> str:
        """Takes on a task; its id. Refused where it is not."""
        task = self.brain.begin(text, now=time.monotonic(), stamp=self.get_clock().now().nanoseconds, limit=limit,
                                direct=direct)
        self.get_logger().info(f"task {task}: {self.brain.lease.text}")
        return task

    def step(self, text: str) -> None:
        """The next step, said by a person; "": the policy chooses again. Refused where it can't be."""
        self.brain.step(text, now=time.monotonic(), stamp=self.get_clock().now().nanoseconds)
        self.get_logger().info(f"task {self.brain.lease.id}: next step: {text or 'as the policy chooses'}")

    def stop(self, text: str) -> None:
        """Stops the robot, at once, whatever else is going on: even when this node is not active."""
        confirmed = self.stop_client.call_async(Trigger.Request())
        self.withdraw()
        reason = f"somebody said '{text[:40].strip()}'"
        self.get_logger().warning(f"stop: {reason}")
        if self.brain.lease is None:
            self.brain.refuse(text, reason, stopped=True)
        else:
            self.brain.end(State.STOPPED, reason, now=time.monotonic())
        timer = steady_timer(self, STOP_LIMIT, lambda: self.check_stop(timer, confirmed))

    def check_stop(self, timer, confirmed: Future) -> None:
        """Says so when a stop did not arrive. The lease is gone, on which the robot holds as well."""
        timer.cancel()
        self.destroy_timer(timer)
        if not confirmed.done():
            self.stop_client.remove_pending_request(confirmed)
        if not confirmed.done() or not confirmed.result().success:
            why = confirmed.result().message if confirmed.done() else f"no answer within {STOP_LIMIT:g} s"
            self.get_logger().error(f"the hardware bridge did not confirm the stop: {why}")
            self.brain.refuse("stop", f"the hardware bridge did not confirm the stop ({why}); the instruction is "
                              "withdrawn, use the emergency stop if the robot still moves", stopped=True)

    # -------------------------------------------------------------------------------------------------------- action

    def on_goal(self, request: ExecuteTask.Goal) -> GoalResponse:
        """Rejects while inactive; everything else is explained in the result."""
        if is_stop(request.instruction):
            self.stop(request.instruction)
        return GoalResponse.ACCEPT if self.active else GoalResponse.REJECT

    def on_cancel(self, goal: ServerGoalHandle) -> CancelResponse:
        """Always accepted, and at once; a goal that has ended is none of ours any more."""
        if self.goal is not None and self.goal[1].goal_id == goal.goal_id:
            self.brain.end(State.CANCELLED, "cancelled by the client", now=time.monotonic())
        return CancelResponse.ACCEPT

    async def on_execute(self, goal: ServerGoalHandle) -> ExecuteTask.Result:
        """One goal, from its words to its result."""
        request = goal.request
        if is_stop(request.instruction):
            goal.abort()
            return ExecuteTask.Result(code=ExecuteTask.Result.STOPPED, reason="the words say stop")
        if goal.is_cancel_requested:
            goal.canceled()
            return ExecuteTask.Result(code=ExecuteTask.Result.CANCELLED, reason="cancelled before it began")
        try:
            task = self.begin(request.instruction, limit=request.time_limit, direct=request.direct)
        except Refused as refusal:
            goal.abort()
            return ExecuteTask.Result(code=ExecuteTask.Result.REFUSED, reason=str(refusal))
        ended: Future = Future(executor=self.executor)
        self.goal = (task, goal, ended)
        outcome: Outcome = await ended
        if outcome.state == State.SUCCEEDED:
            goal.succeed()
        elif goal.is_cancel_requested:
            goal.canceled()
        else:
            goal.abort()
        return ExecuteTask.Result(code=outcome.state.value, reason=outcome.reason, elapsed=outcome.elapsed,
                                  subtasks=list(outcome.subtasks))

    # ---------------------------------------------------------------------------------------------------- the others

    def on_bridge(self, message: BridgeStatus) -> None:
        """The bridge's mode: its latching ends a task."""
        try:
            mode = Bridge(message.mode)
        except ValueError:
            self.get_logger().error(f"bridge/status has no mode {message.mode}: not listened to", throttle_duration_sec=1.0)
            return
        self.brain.on_bridge(mode, message.cause, now=time.monotonic())

    def on_policy(self, message: PolicyStatus) -> None:
        """The policy's progress and failures."""
        well = message.state in (PolicyStatus.IDLE, PolicyStatus.RUNNING)
        report = Report(message.instruction_id, well, message.cause, message.subtask, message.progress,
                        message.inference_p50, message.chunks, message.code == PolicyStatus.WORDS_UNKNOWN and not well)
        self.brain.on_policy(report, now=time.monotonic())

    def on_tick(self) -> None:
        """Limits, feedback, cancellation."""
        self.brain.tick(time.monotonic())
        if self.goal is None:
            return
        task, goal, _ = self.goal
        if self.brain.lease is not None and self.brain.lease.id == task:
            outcome = self.brain.outcome
            goal.publish_feedback(ExecuteTask.Feedback(subtask=outcome.subtask, progress=outcome.progress,
                                                       elapsed=outcome.elapsed, latency=outcome.latency))

    # ----------------------------------------------------------------------------------------------------- publishing

    def on_outcome(self, outcome: Outcome) -> None:
        """Every change of the task in hand."""
        ended = outcome.state not in (State.IDLE, State.RUNNING)
        if ended and outcome.id:
            self.withdraw()
            self.get_logger().info(f"task {outcome.id}: {outcome.state.name.lower()}: {outcome.reason}")
            if self.goal is not None and self.goal[0] == outcome.id:
                _, _, end = self.goal
                self.goal = None
                end.set_result(outcome)
        elif outcome.id:
            self.renew_changed()
        bad = {State.FAILED: ERROR, State.TIMED_OUT: WARN, State.STOPPED: WARN}
        self.diagnostics.set("task", bad.get(outcome.state, OK), outcome.state.name.lower().replace("_", " "),
                             {"words": outcome.text, "reason": outcome.reason})
        self.publish(outcome)

    def publish(self, outcome: Outcome) -> None:
        """On `task/status`."""
        message = TaskStatus(id=outcome.id, text=outcome.text, state=outcome.state.value, reason=outcome.reason,
                             subtask=outcome.subtask, progress=outcome.progress, elapsed=outcome.elapsed,
                             latency=outcome.latency, retries=outcome.retries)
        message.header.stamp = self.get_clock().now().to_msg()
        if self.outbox and (self.outbox[-1].id, self.outbox[-1].state) == (message.id, message.state):
            self.outbox.pop()
        self.outbox.append(message)

    def send(self) -> None:
        """The next status that waits."""
        if self.outbox:
            self.statuses.publish(self.outbox.popleft())

    def renew(self) -> None:
        """The lease, at 5 Hz. When this process dies, it ends within EXPIRY."""
        self.said = self.brain.lease
        if self.said is not None:
            self.leases.publish(self.instruction(self.said))

    def renew_changed(self) -> None:
        """At once where it says something new: another step, or another attempt."""
        if self.brain.lease != self.said:
            self.renew()

    def withdraw(self) -> None:
        """Ends the lease now rather than by its expiry."""
        self.leases.publish(self.instruction(Lease("", "", "", 0)))

    def instruction(self, lease: Lease) -> Instruction:
        """A renewal of a lease."""
        message = Instruction(id=lease.id, issued=to_stamp(lease.issued), expiry=to_duration(int(EXPIRY * 1e9)),
                              text=lease.text, subtask=lease.subtask, attempt=lease.attempt)
        message.header.stamp = self.get_clock().now().to_msg()
        return message


def main() -> NoReturn:
    """Entry point."""
    common.main(CommanderNode)


if __name__ == "__main__":
    main()
