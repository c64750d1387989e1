"""`./pi say` and the Python client, beside a robot that is at work."""

import os
import subprocess
import sys

import pytest

from pi_msgs.msg import BridgeStatus, TaskStatus
from pi_policy_node.nodes.client import NoRobot, RobotClient


def start(*words):
    return subprocess.Popen([sys.executable, "-m", "pi_policy_node", "say", *words], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env=os.environ)


def end(process, limit=40):
    out, err = process.communicate(timeout=limit)
    return process.returncode, out + err


def test_it_shows_how_a_task_goes_and_ends_with_its_status(robot):
    robot.recover()
    code, said = end(start("reach left"))
    assert code == 0 and "running: reach left" in said and "done: reach left" in said, said
    code, said = end(start("sing me a song"))
    assert code == TaskStatus.REFUSED and "'sing'" in said and "wave" in said


def test_who_is_replaced_is_told_and_who_replaces_waits_for_its_own(robot):
    robot.recover()
    first = start("wave")
    robot.wait(lambda: robot.task.text == "wave" and robot.moving(), 10, "the wave")
    second = start("reach left")
    code, said = end(first)
    assert code == TaskStatus.CANCELLED and "reach left" in said, said
    code, said = end(second)
    assert code == 0 and "done: reach left" in said, said


def test_the_next_step_is_said(robot):
    robot.run("wave")
    task = robot.instruction.id
    process = start("--next", "reach left")
    robot.wait(lambda: robot.policy.subtask == "reach left", 10, "the step")
    assert robot.instruction.id == task
    robot.say("cancel")
    code, said = end(process)
    assert code == TaskStatus.CANCELLED, said


def test_a_step_whose_task_ends_before_it_is_heard_to_run_is_answered(robot):
    robot.run("wave")
    with RobotClient() as client:
        client.say("next: reach left")
        robot.wait(lambda: robot.policy.subtask == "reach left", 10, "the step")
        robot.say("cancel")
        assert client.wait_until(lambda: client.task.state == TaskStatus.CANCELLED, 5)
        del client._answers[:-1]  # as where status and client find each other late
        assert client.wait(limit=5).state == TaskStatus.CANCELLED


def test_what_is_refused_to_others_ends_no_wait(robot):
    robot.recover()
    with RobotClient() as client:
        client.say("raise the lift")
        assert client.wait_until(lambda: client.task.state == TaskStatus.RUNNING, 10)
        task = client.task.id
        client._answers[:] = [client.task, TaskStatus(state=TaskStatus.REFUSED), TaskStatus(id=task, state=TaskStatus.FAILED)]
        ended = client.wait(limit=5)
        assert (ended.id, ended.state) == (task, TaskStatus.FAILED)


def test_a_stop_that_is_carried_out_is_no_failure(robot):
    robot.run("wave")
    code, said = end(start("stop!"))
    assert code == 0 and "stopped" in said, said
    assert robot.bridge.mode == BridgeStatus.STOPPED
    code, said = end(start("wave"))
    assert code == TaskStatus.REFUSED and "resume" in said
    code, said = end(start("--resume"))
    assert code == 0, said
    code, said = end(start("--status"))
    assert code == 0 and "policy: idle (scripted)" in said, said


def test_the_five_verbs(robot):
    robot.recover()
    with RobotClient() as client:
        client.say("raise the lift")
        seen = []
        assert client.wait(limit=30, feedback=seen.append).state == TaskStatus.SUCCEEDED
        assert len(seen) > 3 and seen[-1].text == "raise the lift"
        client.say("wave")
        assert client.wait_until(lambda: client.bridge.mode == BridgeStatus.RUNNING, 10)
        assert client.stop()
        assert client.wait(limit=5).state == TaskStatus.STOPPED
        assert client.status()[1].latched and client.resume()


def test_nobody_there_is_named(domain):
    with RobotClient(namespace="nowhere") as client:
        with pytest.raises(NoRobot, match="nowhere/command"):
            client.say("wave", limit=0.3)
