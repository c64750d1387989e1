"""Everything that a node can have is served by LeanExecutor as by rclpy's own, for less."""

from __future__ import annotations

import threading
import time

import pytest
from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient, ActionServer, CancelResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from std_msgs.msg import String
from std_srvs.srv import Trigger

from pi_msgs.action import ExecuteTask
from pi_policy_node.nodes.common import ManagedNode, steady_timer
from pi_policy_node.nodes.executor import LeanExecutor

pytestmark = pytest.mark.usefixtures("ros")


@pytest.fixture
def node():
    made = Node("served")
    yield made
    made.destroy_node()


@pytest.fixture
def executor(node):
    made = LeanExecutor()
    made.add_node(node)
    yield made
    made.shutdown()


def spin(executor, condition, limit=10.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"not within {limit} s"
        executor.spin_once(0.1)


def test_messages_with_and_without_their_info(node, executor):
    plain, informed = [], []
    node.create_subscription(String, "words", lambda message: plain.append(message.data), 10)
    node.create_subscription(String, "words", lambda message, info: informed.append(info["source_timestamp"]), 10)
    publisher = node.create_publisher(String, "words", 10)
    for k in range(5):
        publisher.publish(String(data=str(k)))
    spin(executor, lambda: len(plain) == len(informed) == 5)
    assert plain == list("01234") and all(stamp > 0 for stamp in informed)


def test_what_is_made_in_a_callback_is_served_and_what_is_destroyed_is_not(node, executor):
    first, second = [], []
    publisher = node.create_publisher(String, "words", 10)

    def swap(message):
        first.append(message.data)
        node.destroy_subscription(subscription)
        node.create_subscription(String, "words", lambda message: second.append(message.data), 10)

    subscription = node.create_subscription(String, "words", swap, 10)
    publisher.publish(String(data="a"))
    spin(executor, lambda: first)
    spin(executor, lambda: publisher.get_subscription_count() == 1)
    publisher.publish(String(data="b"))
    spin(executor, lambda: second)
    assert (first, second) == (["a"], ["b"])


def test_what_a_callback_destroys_beside_it_is_not_called(node, executor):
    heard = []

    def end_the_other(k):
        heard.append(k)
        node.destroy_subscription(both[1 - k])

    both = [node.create_subscription(String, "words", lambda message, k=k: end_the_other(k), 10) for k in (0, 1)]
    publisher = node.create_publisher(String, "words", 10)
    spin(executor, lambda: publisher.get_subscription_count() == 2)
    publisher.publish(String(data="a"))
    spin(executor, lambda: heard)
    executor.spin_once(0.1)
    assert len(heard) == 1


def test_timers_run_at_their_rate_and_end_when_cancelled(node, executor):
    ticks = []
    timer = steady_timer(node, 0.02, lambda: ticks.append(time.monotonic()))
    spin(executor, lambda: len(ticks) == 10)
    assert ticks[-1] - ticks[0] >= 9 * 0.02 - 0.005
    timer.cancel()
    steady_timer(node, 0.02, lambda: later.append(1))
    later: list[int] = []
    spin(executor, lambda: len(later) == 5)
    assert len(ticks) == 10


def test_services_and_their_clients(node, executor):
    def answer(request, response):
        response.success, response.message = True, "yes"
        return response

    node.create_service(Trigger, "ask", answer)
    client = node.create_client(Trigger, "ask")
    spin(executor, client.service_is_ready)
    future = client.call_async(Trigger.Request())
    executor.spin_until_future_complete(future, timeout_sec=10.0)
    assert future.result().message == "yes"


def test_a_coroutine_may_wait_for_what_this_executor_serves(node, executor):
    group = ReentrantCallbackGroup()  # its own one waits for the coroutine
    node.create_service(Trigger, "ask", lambda request, response: response, callback_group=group)
    client = node.create_client(Trigger, "ask", callback_group=group)
    spin(executor, client.service_is_ready)
    heard = []

    async def ask(message):
        heard.append(await client.call_async(Trigger.Request()))

    node.create_subscription(String, "words", ask, 10)
    node.create_publisher(String, "words", 10).publish(String(data="now"))
    spin(executor, lambda: heard)
    assert isinstance(heard[0], Trigger.Response)


def test_an_action_with_feedback_and_cancel(node, executor):
    def execute(handle):
        handle.publish_feedback(ExecuteTask.Feedback(subtask="on it"))
        handle.succeed()
        return ExecuteTask.Result()

    ActionServer(node, ExecuteTask, "work", execute, cancel_callback=lambda handle: CancelResponse.ACCEPT)
    client = ActionClient(node, ExecuteTask, "work")
    spin(executor, client.server_is_ready)
    feedback = []
    goal = client.send_goal_async(ExecuteTask.Goal(), feedback_callback=lambda m: feedback.append(m.feedback.subtask))
    spin(executor, goal.done)
    result = goal.result().get_result_async()
    spin(executor, lambda: result.done() and feedback)
    assert result.result().status == GoalStatus.STATUS_SUCCEEDED and feedback == ["on it"]


def test_a_guard_condition_and_a_task_from_another_thread(node, executor):
    called = []
    guard = node.create_guard_condition(lambda: called.append("guard"))
    threading.Thread(target=lambda: (guard.trigger(), executor.create_task(lambda: called.append("task")))).start()
    spin(executor, lambda: sorted(called) == ["guard", "task"])


def test_an_error_in_a_callback_reaches_whoever_spins(node, executor):
    def fail():
        raise ArithmeticError("seven")

    steady_timer(node, 0.01, fail)
    with pytest.raises(ArithmeticError, match="seven"):
        spin(executor, lambda: False)


def test_a_quality_that_does_not_match_is_still_said(node, executor):
    said = []
    from rclpy.event_handler import SubscriptionEventCallbacks

    events = SubscriptionEventCallbacks(incompatible_qos=said.append)
    node.create_subscription(String, "words", print, 10, event_callbacks=events)  # reliable
    node.create_publisher(String, "words", qos_profile_sensor_data)
    spin(executor, lambda: said)


def test_a_message_costs_less_than_with_rclpys_executor():
    """A lifecycle node with a timer and a subscription, as all of ours are."""

    def cost(kind) -> float:
        node, got = ManagedNode("costly"), []
        node.create_subscription(String, "words", got.append, 10)
        publisher = node.create_publisher(String, "words", 10)
        steady_timer(node, 0.001, lambda: publisher.publish(String(data="a")))
        executor = kind()
        executor.add_node(node)
        spin(executor, lambda: len(got) > 50)
        begin, before = time.thread_time(), len(got)
        spin(executor, lambda: len(got) > before + 300)
        spent = (time.thread_time() - begin) / (len(got) - before)
        executor.shutdown()
        node.destroy_node()
        return spent

    assert cost(LeanExecutor) < 0.7 * cost(SingleThreadedExecutor)  # 0.25 when nothing else runs
