"""The commander node: words, the lease, stops, and the action, against a bridge and a policy made of plain messages."""

import time

import pytest
from rclpy.action import ActionClient
from spinning import Spinning
from std_msgs.msg import String
from std_srvs.srv import Trigger

from pi_msgs.action import ExecuteTask
from pi_msgs.msg import BridgeStatus, Instruction, PolicyStatus, TaskStatus
from pi_policy_node.nodes.commander import CommanderNode
from pi_policy_node.nodes.common import LATCHED, RELIABLE10, to_ns, to_seconds
from pi_policy_node.task import State

TRIES = 6  # at being quick: a busy machine is not always


class Bench(Spinning):
    """Plays the bridge (its status and `stop`) and the policy (its status)."""

    def __init__(self):
        super().__init__()
        self.leases = self.listen(Instruction, "instruction", RELIABLE10)
        self.statuses = self.listen(TaskStatus, "task/status", LATCHED)
        self.mode, self.progress, self.alive = BridgeStatus.HOLD, 0.2, True
        self.subtask, self.chunks, self.code = "wave", 0, PolicyStatus.OK
        self.stops = []
        self.confirm = True
        self.probe.create_service(Trigger, "stop", self.on_stop)
        self.bridge = self.probe.create_publisher(BridgeStatus, "bridge/status", LATCHED)
        self.policy = self.probe.create_publisher(PolicyStatus, "policy/status", LATCHED)
        self.probe.create_timer(0.05, self.speak)
        self.node = self.add(CommanderNode())
        self.command = self.talk(String, "command", RELIABLE10)
        self.vla = self.talk(String, "vla/instruction", RELIABLE10)
        self.action = ActionClient(self.probe, ExecuteTask, "execute_task")

    def speak(self):
        if not self.alive:
            return
        self.bridge.publish(BridgeStatus(mode=self.mode, cause="as the test says"))
        task = self.leases[-1].id if self.leases else ""
        self.chunks += 1
        state = PolicyStatus.RUNNING if self.code == PolicyStatus.OK else PolicyStatus.FAILED
        self.policy.publish(PolicyStatus(state=state, code=self.code, instruction_id=task, subtask=self.subtask,
                                         progress=self.progress, inference_p50=0.02, cause="as the policy says",
                                         chunks=self.chunks))

    def on_stop(self, request, response):
        self.stops.append(time.monotonic())
        self.mode = BridgeStatus.STOPPED
        response.success = self.confirm
        response.message = "stopped" if self.confirm else "I will not"
        return response

    def say(self, words, *, publisher=None):
        self.statuses.clear()
        (publisher or self.command).publish(String(data=words))

    def until(self, state, limit=5.0):
        self.wait(lambda: any(status.state == state for status in self.statuses), limit, f"task state {state}")
        return next(status for status in self.statuses if status.state == state)

    def goal(self, words, **fields):
        self.feedback = []
        assert self.action.wait_for_server(10)
        sent = self.action.send_goal_async(ExecuteTask.Goal(instruction=words, **fields),
                                           feedback_callback=lambda message: self.feedback.append(message.feedback))
        self.wait(sent.done)
        return sent.result()

    def result(self, goal, limit=5.0):
        future = goal.get_result_async()
        self.wait(future.done, limit, "the result")
        return future.result().result


@pytest.fixture(scope="module")
def node(ros):
    bench = Bench()
    bench.up(bench.node)
    yield bench
    bench.close()


@pytest.fixture
def bench(node):
    node.mode, node.progress, node.alive, node.confirm = BridgeStatus.HOLD, 0.2, True, True
    node.subtask, node.code = "wave", PolicyStatus.OK
    node.node.brain.end(State.CANCELLED, "next test", now=0.0)
    node.node.brain._bridge = None  # what it said in the test before
    node.wait(lambda: node.node.brain._bridge is not None and node.node.brain._bridge[0].value == BridgeStatus.HOLD)
    node.wait(lambda: not node.node.outbox and (not node.statuses or node.statuses[-1].state != TaskStatus.RUNNING))
    node.stops.clear()
    node.leases.clear()
    return node


def test_words_become_a_lease_that_is_renewed(bench):
    bench.say("  put the block\nin the bin ")
    status = bench.until(TaskStatus.RUNNING)
    bench.wait(lambda: len(bench.leases) >= 4)
    ids = {lease.id for lease in bench.leases}
    assert ids == {status.id} and status.id and status.text == "put the block in the bin"
    stamps = [to_seconds(lease.header.stamp) for lease in bench.leases]
    assert (stamps[-1] - stamps[0]) / (len(stamps) - 1) == pytest.approx(0.2, abs=0.08)  # 5 Hz
    first = bench.leases[0]
    assert to_ns(first.expiry) == 1_000_000_000 and first.text == "put the block in the bin" and first.subtask == ""
    assert len({to_ns(lease.issued) for lease in bench.leases}) == 1
    assert to_ns(first.issued) <= to_ns(first.header.stamp)


def test_the_other_topic_works_as_well(bench):
    bench.say("wave", publisher=bench.vla)
    bench.until(TaskStatus.RUNNING)


def test_done_withdraws_the_lease(bench):
    bench.say("wave")
    bench.until(TaskStatus.RUNNING)
    bench.wait(lambda: bench.leases)
    bench.subtask = "done"
    bench.until(TaskStatus.SUCCEEDED)
    bench.wait(lambda: bench.leases[-1].id == "")


@pytest.mark.parametrize("words", ["stop", "STOP!!!", "Halt.", "please freeze", "e-stop"])
def test_stop_words_stop_at_once(bench, words):
    took = []
    while not took or min(took) > 0.1 and len(took) < TRIES:
        bench.mode = BridgeStatus.HOLD
        bench.wait(lambda: bench.node.brain._bridge[0].value == BridgeStatus.HOLD)
        bench.stops.clear()
        bench.say("wave")
        bench.until(TaskStatus.RUNNING)
        begin = time.monotonic()
        bench.say(words)
        bench.wait(lambda: bench.stops)
        took.append(bench.stops[0] - begin)
        status = bench.until(TaskStatus.STOPPED)
        assert status.text == "wave" and words in status.reason
        bench.wait(lambda: bench.leases[-1].id == "")
    assert min(took) < 0.1


def test_stop_words_stop_with_nothing_in_hand_and_when_inactive(bench):
    bench.say("stop")
    bench.wait(lambda: len(bench.stops) == 1)
    bench.until(TaskStatus.STOPPED)
    assert bench.node.trigger_deactivate().name == "SUCCESS"
    try:
        bench.say("stop")
        bench.wait(lambda: len(bench.stops) == 2)
        bench.say("wave")
        assert "not active" in bench.until(TaskStatus.REFUSED).reason
    finally:
        assert bench.node.trigger_activate().name == "SUCCESS"


def test_a_stop_that_is_not_confirmed_is_said_aloud(bench):
    bench.confirm = False
    bench.say("stop")
    bench.wait(lambda: any("did not confirm" in status.reason for status in bench.statuses))


def test_a_stop_overtakes_what_waits(bench):
    for k in range(8):
        bench.command.publish(String(data=f"wave number {k} " + "very " * 90))
    begin = time.monotonic()
    bench.say("stop")
    bench.wait(lambda: bench.stops, limit=1.0)
    assert bench.stops[0] - begin < 0.3
    bench.until(TaskStatus.STOPPED)


@pytest.mark.parametrize("words, why", [
    ("", "empty"), ("   ", "empty"), ("x" * 501, "500"), ("y" * 1_000_000, "500"), ("wave\x07", "U+0007"),
    ("!?", "no word"),
])  # fmt: skip
def test_words_that_are_no_command(bench, words, why):
    bench.say(words)
    status = bench.until(TaskStatus.REFUSED)
    assert why in status.reason and len(status.text) <= 500
    assert not [lease for lease in bench.leases if lease.id]


def test_a_new_command_replaces_the_old_one(bench):
    bench.say("wave")
    first = bench.until(TaskStatus.RUNNING).id
    bench.say("reach left")
    assert bench.until(TaskStatus.CANCELLED).id == first
    bench.wait(lambda: bench.statuses[-1].text == "reach left")
    second = bench.statuses[-1]
    assert second.state == TaskStatus.RUNNING and second.id != first
    bench.wait(lambda: bench.leases[-1].id == second.id)


@pytest.mark.parametrize("topic", ["command", "vla"])
def test_the_next_step_is_said_while_a_task_runs(bench, topic):
    bench.say("clear the table")
    task = bench.until(TaskStatus.RUNNING).id
    took = []
    while not took or min(took) > 0.1 and len(took) < TRIES:
        step = "pick up the blue block" if len(took) % 2 == 0 else "pick up the red block"
        said = time.monotonic()
        bench.say(f"next: {step}", publisher=getattr(bench, topic))
        bench.wait(lambda: bench.leases[-1].subtask == step)
        took.append(time.monotonic() - said)
    assert min(took) < 0.1, "it waits for the renewal"
    bench.say("next: pick up the blue block")
    bench.wait(lambda: bench.leases[-1].subtask == "pick up the blue block")
    lease = bench.leases[-1]
    assert lease.id == task and lease.text == "clear the table" and lease.attempt == 0
    bench.progress = 0.97
    bench.wait(lambda: bench.leases[-1].subtask == "")
    assert bench.leases[-1].id == task


def test_a_step_without_a_task_is_a_task(bench):
    bench.say("next: wave")
    status = bench.until(TaskStatus.RUNNING)
    bench.wait(lambda: bench.leases)
    assert (status.text, bench.leases[-1].subtask) == ("wave", "wave")


def test_words_that_the_policy_does_not_know(bench):
    bench.code = PolicyStatus.WORDS_UNKNOWN
    bench.say("zorp the blue block")
    status = bench.until(TaskStatus.REFUSED)
    assert status.reason == "as the policy says" and status.text == "zorp the blue block"
    bench.wait(lambda: bench.leases[-1].id == "")


def test_it_tries_again_and_gives_up(bench):
    brain = bench.node.brain
    usual, brain._stall = brain._stall, 0.4
    try:
        goal = bench.goal("wave")
        result = bench.result(goal, limit=10)
    finally:
        brain._stall = usual
    assert result.code == ExecuteTask.Result.FAILED and "no progress" in result.reason
    bench.wait(lambda: bench.statuses[-1].state == TaskStatus.FAILED)
    assert bench.statuses[-1].retries == 2
    assert sorted({lease.attempt for lease in bench.leases if lease.id}) == [0, 1, 2]


def test_never_mind(bench):
    bench.say("wave")
    bench.until(TaskStatus.RUNNING)
    bench.say("Never mind!")
    bench.until(TaskStatus.CANCELLED)
    assert not bench.stops
    bench.say("cancel")
    assert "no task" in bench.until(TaskStatus.REFUSED).reason


def test_a_latched_bridge_ends_the_task_and_refuses_commands(bench):
    bench.say("wave")
    bench.until(TaskStatus.RUNNING)
    bench.mode = BridgeStatus.FAULT
    assert "as the test says" in bench.until(TaskStatus.FAILED).reason
    bench.say("wave")
    assert "resume" in bench.until(TaskStatus.REFUSED).reason


def test_a_mode_that_does_not_exist_is_not_listened_to(bench):
    bench.say("wave")
    bench.until(TaskStatus.RUNNING)
    bench.mode = 99
    begin = time.monotonic()
    while time.monotonic() - begin < 0.3:  # it says so many times
        assert bench.node.brain.lease is not None
        time.sleep(0.01)
    bench.mode = BridgeStatus.FAULT  # the commander is alive and hears the next one
    bench.until(TaskStatus.FAILED)


def test_a_dead_bridge_ends_the_task(bench):
    bench.say("wave")
    bench.until(TaskStatus.RUNNING)
    bench.alive = False
    assert "silent" in bench.until(TaskStatus.FAILED).reason


# -------------------------------------------------------------------------------------------------------- the action


def test_a_goal_succeeds_with_feedback(bench):
    goal = bench.goal("wave", direct=True)
    assert goal.accepted
    bench.wait(lambda: bench.feedback and bench.feedback[-1].subtask == "wave")
    assert bench.leases[-1].subtask == "wave" and bench.feedback[-1].progress == pytest.approx(0.2)
    assert bench.feedback[-1].latency == pytest.approx(0.02) and bench.feedback[-1].elapsed > 0
    bench.progress = 0.97  # of the one step that it is
    result = bench.result(goal)
    assert result.code == ExecuteTask.Result.SUCCEEDED and list(result.subtasks) == ["wave"] and result.elapsed > 0


def test_a_goal_times_out(bench):
    result = bench.result(bench.goal("wave", time_limit=0.4))
    assert result.code == ExecuteTask.Result.TIMED_OUT and "0.4 s" in result.reason


def test_a_goal_is_cancelled(bench):
    goal = bench.goal("wave")
    bench.wait(lambda: bench.feedback)
    cancelled = goal.cancel_goal_async()
    bench.wait(cancelled.done)
    result = bench.result(goal)
    assert result.code == ExecuteTask.Result.CANCELLED and goal.status == 5  # action_msgs: CANCELED
    bench.wait(lambda: bench.leases[-1].id == "")


def test_a_goal_is_replaced_by_words(bench):
    goal = bench.goal("wave")
    bench.wait(lambda: bench.feedback)
    bench.say("reach left")
    result = bench.result(goal)
    assert result.code == ExecuteTask.Result.CANCELLED and "reach left" in result.reason


def test_a_goal_replaces_what_is_in_hand_and_is_replaced(bench):
    bench.say("wave")
    first = bench.until(TaskStatus.RUNNING)
    goal = bench.goal("reach left")
    bench.wait(lambda: any(s.id == first.id and s.state == TaskStatus.CANCELLED for s in bench.statuses))
    bench.wait(lambda: bench.feedback)
    other = bench.goal("reach right")
    assert "reach right" in bench.result(goal).reason and bench.result(goal).code == ExecuteTask.Result.CANCELLED
    bench.subtask = "done"
    assert bench.result(other).code == ExecuteTask.Result.SUCCEEDED


def test_a_goal_is_cancelled_before_it_moves_and_after_it_ended(bench):
    goal = bench.goal("wave")
    cancelled = goal.cancel_goal_async()  # at once: nothing has been answered yet
    assert bench.result(goal).code == ExecuteTask.Result.CANCELLED
    bench.wait(cancelled.done)
    goal = bench.goal("wave")
    bench.subtask = "done"
    assert bench.result(goal).code == ExecuteTask.Result.SUCCEEDED
    late = goal.cancel_goal_async()
    bench.wait(late.done)
    assert not late.result().goals_canceling
    bench.subtask = "wave"
    bench.say("wave")  # it is none of the old goal's business
    bench.until(TaskStatus.RUNNING)


@pytest.mark.parametrize("words, fields, code", [
    ("", {}, ExecuteTask.Result.REFUSED), ("wave", {"time_limit": -1.0}, ExecuteTask.Result.REFUSED),
    ("stop!", {}, ExecuteTask.Result.STOPPED),
])  # fmt: skip
def test_a_goal_that_is_not_taken_on_says_why(bench, words, fields, code):
    result = bench.result(bench.goal(words, **fields))
    assert result.code == code and result.reason


def test_a_goal_ends_when_the_robot_is_stopped(bench):
    goal = bench.goal("wave")
    bench.wait(lambda: bench.feedback)
    bench.mode = BridgeStatus.STOPPED
    assert bench.result(goal).code == ExecuteTask.Result.STOPPED


def test_goals_are_rejected_while_inactive(bench):
    assert bench.node.trigger_deactivate().name == "SUCCESS"
    try:
        assert not bench.goal("wave").accepted
    finally:
        assert bench.node.trigger_activate().name == "SUCCESS"
