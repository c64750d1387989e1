"""Every way in which a task can end, in a real graph with a policy that fails as asked; and who may change its course."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from harness import RobotUnderTest, small_robot
from lifecycle_msgs.msg import Transition
from rclpy.action import ActionClient

from pi_msgs.action import ExecuteTask
from pi_msgs.msg import BridgeStatus, PolicyStatus, TaskStatus

BRAKE = 0.3  # s
STALL = 4.0  # s without progress, here
MAX_BLIND = 0.8  # s


@pytest.fixture(scope="module")
def robot(ros, tmp_path_factory):
    """All nodes, with a policy for drills."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    one = RobotUnderTest(small_robot(tmp_path_factory.mktemp("robot")), policy="drill:Drill",
                         parameters={"commander": {"stall_s": STALL, "retries": 1}})
    try:
        one.start()
        one.ready()
        one.action = ActionClient(one.node, ExecuteTask, "execute_task")
        yield one
    finally:
        one.close()


def goal(robot, words, **fields):
    """Sends a goal to a robot that is well, and waits until it is accepted."""
    robot.wait(robot.action.server_is_ready, 10, "the action")
    robot.feedback = []
    sent = robot.action.send_goal_async(ExecuteTask.Goal(instruction=words, **fields),
                                        feedback_callback=lambda message: robot.feedback.append(message.feedback))
    robot.wait(sent.done, 5, "acceptance")
    assert sent.result().accepted
    return sent.result()


def result(robot, handle, limit=15):
    future = handle.get_result_async()
    robot.wait(future.done, limit, "the result")
    return future.result().result


def moves(robot, limit=6):
    robot.wait(lambda: robot.bridge.mode == BridgeStatus.RUNNING and robot.moving(), limit, "motion")


def ended(robot, state, limit):
    robot.wait(lambda: robot.task.state == state, limit, f"task state {state}")
    return robot.task


# ---------------------------------------------------------------------------------------------------- it ends well


def test_success_by_words(robot):
    robot.run("reach left")
    task = ended(robot, TaskStatus.SUCCEEDED, 20)
    assert task.text == "reach left" and task.subtask == "done" and task.elapsed > 3
    robot.wait(lambda: robot.bridge.at_rest, 3, "rest")


def test_success_by_action_with_feedback(robot):
    robot.recover()
    handle = goal(robot, "please raise the lift")
    answer = result(robot, handle, 20)
    assert answer.code == ExecuteTask.Result.SUCCEEDED, answer.reason
    assert list(answer.subtasks) == ["raise the lift"] and answer.elapsed > 2
    progress = [message.progress for message in robot.feedback if message.subtask == "raise the lift"]
    assert max(progress) > 0.7 and robot.feedback[-1].latency > 0


def test_a_direct_goal_is_one_step(robot):
    robot.recover()
    answer = result(robot, goal(robot, "reach right", direct=True), 20)
    assert answer.code == ExecuteTask.Result.SUCCEEDED and robot.instruction.id == ""


# ----------------------------------------------------------------------------------------------------- or it fails


@pytest.mark.parametrize("how, code", [
    ("crash", PolicyStatus.EXCEPTION), ("nan", PolicyStatus.NOT_FINITE), ("full", PolicyStatus.OUT_OF_MEMORY),
    ("hang", PolicyStatus.DEADLINE_MISSED),
])  # fmt: skip
def test_a_policy_that_fails_in_motion_is_named_and_the_robot_holds(robot, how, code):
    robot.run(f"{how} and wave")
    robot.wait(lambda: robot.policy.code == code, 8, f"{how} to be named")
    failed = time.monotonic()
    assert robot.policy.state == PolicyStatus.FAILED and robot.policy.cause and robot.policy.backend == "hold"
    robot.rest(failed, MAX_BLIND + BRAKE)
    assert robot.bridge.mode == BridgeStatus.HOLD and not robot.bridge.latched, robot.tell()
    if how == "crash":
        task = ended(robot, TaskStatus.FAILED, 10)
        assert "a screw is loose" in task.reason
    robot.run()  # and it is as well as before


def test_it_tries_again_and_gives_up_with_a_sentence(robot):
    robot.recover()
    robot.say("stall and wave")
    task = ended(robot, TaskStatus.FAILED, 15)
    assert task.retries == 1 and "no progress" in task.reason and "'push'" in task.reason and "30%" in task.reason


def test_a_time_limit_ends_motion(robot):
    robot.recover()
    handle = goal(robot, "wave", time_limit=2.0)
    moves(robot)
    answer = result(robot, handle)
    over = time.monotonic()
    assert answer.code == ExecuteTask.Result.TIMED_OUT and 2.0 <= answer.elapsed < 3.0
    robot.rest(over, BRAKE)


def test_words_that_nobody_knows_are_refused_with_what_would_be_understood(robot):
    robot.recover()
    sequence = robot.bridge.chunk_sequence
    robot.say("sing me a song")
    robot.wait(lambda: robot.task.state == TaskStatus.REFUSED and robot.task.text == "sing me a song", 5, "the refusal")
    assert "'sing'" in robot.task.reason and "wave" in robot.task.reason
    robot.stays_at_rest(0.3)
    assert robot.bridge.chunk_sequence == sequence
    answer = result(robot, goal(robot, "sing"))
    assert answer.code == ExecuteTask.Result.REFUSED and "'sing'" in answer.reason


def test_a_killed_policy_fails_the_task_which_is_not_taken_up_again(robot):
    robot.run()
    task = robot.instruction.id
    killed = robot.kill("policy")
    robot.rest(killed, MAX_BLIND + BRAKE)
    assert ended(robot, TaskStatus.FAILED, 10).id == task and robot.task.reason
    robot.restart("policy")
    robot.stays_at_rest(0.7)


# ------------------------------------------------------------------------------------------------------- it is ended


@pytest.mark.parametrize("words, how", [("wave", "in motion"), ("slow wave", "in motion"), ("slow wave", "in inference")])
def test_stop_words(robot, words, how):
    if how == "in motion":
        robot.run(words)
    else:
        robot.recover()
        robot.say(words)
        robot.wait(lambda: robot.instruction and robot.instruction.id, 3, "the task")  # the first inference begins
    said = time.monotonic()
    robot.say("STOP!!")
    robot.rest(said, BRAKE)
    robot.wait(lambda: robot.bridge.mode == BridgeStatus.STOPPED, 2, "the latch")
    ended(robot, TaskStatus.STOPPED, 3)
    robot.stays_at_rest(0.5)
    robot.say("wave")
    assert "resume" in ended(robot, TaskStatus.REFUSED, 3).reason and robot.instruction.id == ""


@pytest.mark.parametrize("stage", ["before it moves", "in motion", "by words"])
def test_cancel_at_every_stage(robot, stage):
    robot.recover()
    handle = goal(robot, "wave")
    if stage != "before it moves":
        moves(robot)
    asked = time.monotonic()
    if stage == "by words":
        robot.say("never mind")
    else:
        handle.cancel_goal_async()
    answer = result(robot, handle)
    assert answer.code == ExecuteTask.Result.CANCELLED and answer.reason
    robot.rest(asked, BRAKE)
    assert not robot.bridge.latched
    robot.stays_at_rest(0.3)


def test_a_new_goal_replaces_the_old_one(robot):
    robot.recover()
    first = goal(robot, "wave")
    moves(robot)
    second = goal(robot, "raise the lift")
    answer = result(robot, first)
    assert answer.code == ExecuteTask.Result.CANCELLED and "raise the lift" in answer.reason
    assert result(robot, second, 20).code == ExecuteTask.Result.SUCCEEDED


def test_the_next_step_takes_effect_at_once_and_without_a_jump(robot):
    robot.run("wave")
    task = robot.instruction.id
    robot.wait(lambda: robot.policy.subtask == "wave" and robot.policy.progress > 0.2, 6, "the middle of a wave")
    refused, said = robot.count("far_first_row"), time.monotonic()
    robot.say("next: reach left")
    robot.wait(lambda: robot.policy.subtask == "reach left", 1.0, "the next step")
    assert robot.task.id == task and robot.instruction.subtask == "reach left"
    robot.wait(lambda: robot.policy.subtask == "wave", 20, "the task to go on after it")
    assert robot.task.id == task and robot.task.state == TaskStatus.RUNNING
    heard = list(robot.references["left_arm_controller"])
    entries = [entry for entry in heard if said - 0.2 < entry[0] < said + 2.0]
    steps = np.abs(np.diff([entry[2] for entry in entries], axis=0))
    assert steps.max() < 0.1 and robot.count("far_first_row") == refused, robot.tell()


def test_an_unknown_step_is_refused_and_the_task_goes_on(robot):
    robot.run("wave")
    task = robot.instruction.id
    robot.say("next: sing")
    robot.wait(lambda: any(status.state == TaskStatus.REFUSED for status in robot.tasks), 3, "the refusal")
    moves(robot)
    robot.wait(lambda: robot.task.id == task and robot.task.state == TaskStatus.RUNNING, 3, "the task to be shown again")


def test_deactivation_waits_for_no_policy(robot):
    robot.run("hang and wave")
    robot.wait(lambda: robot.policy.code == PolicyStatus.DEADLINE_MISSED, 8, "a policy that hangs")
    begin = time.monotonic()
    robot.lifecycle("policy", Transition.TRANSITION_DEACTIVATE)
    took = time.monotonic() - begin
    robot.lifecycle("policy", Transition.TRANSITION_ACTIVATE)
    assert took < 1.5, f"it took {took:.2f} s; the policy's answer takes 2 s"
    robot.rest(begin, BRAKE)
    robot.run()
