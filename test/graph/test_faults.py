"""What goes wrong with the eyes, the joints and the clock while the robot moves: motion ends in time, the cause is
named, and what must latch does."""

import time

import pytest
from harness import HEARTBEAT, JOINT_STATE_TIMEOUT, MAX_AGE, SLACK
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from pi_msgs.msg import BridgeStatus, PolicyStatus, TaskStatus
from pi_policy_node.control.clock import StampWatch
from pi_policy_node.control.limits import Limits
from pi_policy_node.robot import load_robot

BRAKE = 0.3  # s: every joint can rest within this from its full speed
WINDOW = 0.1  # s of plan that a controller has in hand
TAIL = Limits(load_robot()).rest_time  # s: how that ends, where no message makes it shorter
PATIENCE = 0.3  # s that a camera's trouble lasts before it is a fault
FROZEN = 1.0  # s: ten equal images at 10 Hz
CLOCK_STANDS = 0.5  # s until a clock that stands is noticed


def check_latched(robot, code, words, since, limit):
    """At rest in time, latched as a fault for this reason, and the task ended with it."""
    robot.wait(lambda: robot.bridge.code == code and robot.bridge.latched, limit + 3, f"a latch for cause {code}")
    status = robot.bridge
    assert status.mode == BridgeStatus.FAULT and words in status.cause, status.cause
    robot.rest(since, limit)
    robot.wait(lambda: robot.task.state == TaskStatus.FAILED, 2, "the task to fail")
    assert words in robot.task.reason


@pytest.mark.parametrize("kind, value, words, notice", [
    ("drop", 0.0, "late", MAX_AGE), ("freeze", 0.0, "frozen", FROZEN), ("skew", 1.0, "future", 0.1),
    ("skew", -1.0, "late", MAX_AGE), ("delay", 1.2, "late", MAX_AGE), ("encoding", 0.0, "16UC1", 0.1),
    ("size", 0.0, "bytes", 0.1), ("step", 0.0, "step is", 0.1),
])  # fmt: skip
def test_a_camera_that_fails_stops_the_robot(robot, kind, value, words, notice):
    robot.run()
    since = robot.fault("left_wrist_camera", kind, value)
    check_latched(robot, BridgeStatus.CAMERA, "left_wrist_camera", since, 2 * 0.1 + notice + PATIENCE + BRAKE)
    named = f"diagnostics to say '{words}'"
    robot.wait(lambda: words in robot.diagnostics["camera_ingest: left_wrist_camera"][1], 2, named)
    assert robot.diagnostics["camera_ingest: left_wrist_camera"][0] == b"\x02"


def test_a_camera_that_is_not_required_may_fail(robot):
    robot.run()
    robot.fault("rear_camera", "drop")
    robot.wait(lambda: "late" in robot.diagnostics["camera_ingest: rear_camera"][1], 3, "the rear camera to be named")
    robot.wait(lambda: robot.bridge.mode == BridgeStatus.RUNNING and robot.moving(), 2, "motion that goes on")
    assert not robot.bridge.latched


def test_a_fault_cannot_be_resumed_while_it_lasts_and_nothing_moves_after(robot):
    robot.run()
    robot.fault("front_camera", "drop")
    robot.wait_cause(BridgeStatus.CAMERA, 3)
    response = robot.call(Trigger, "resume")
    assert not response.success and "front_camera" in response.message
    robot.fault("front_camera", "none")
    robot.wait(lambda: robot.call(Trigger, "resume").success, 5, "resume", step=0.1)
    robot.rest(time.monotonic(), 1.0)
    robot.stays_at_rest(1.0)
    assert robot.bridge.mode == BridgeStatus.HOLD
    robot.run()


@pytest.mark.parametrize("target, kind, value, code, words", [
    ("joint_states", "drop", 0, BridgeStatus.JOINTS_STALE, "silent"),
    ("joint_states", "nan", 2, BridgeStatus.JOINTS_MALFORMED, "left_joint3"),
    ("joint_states", "missing", 3, BridgeStatus.JOINTS_MALFORMED, "left_joint4"),
    ("joint_states", "skew", -0.1, BridgeStatus.CLOCK, "stamps of joint_states"),
    ("joint_states", "skew", 0.1, BridgeStatus.CLOCK, "stamps of joint_states"),
    ("odom", "drop", 0, BridgeStatus.JOINTS_STALE, "odom"),
])  # fmt: skip
def test_joints_that_fail_stop_the_robot(robot, target, kind, value, code, words):
    robot.run()
    since = robot.fault(target, kind, value)
    notice = StampWatch.SPAN if code == BridgeStatus.CLOCK else JOINT_STATE_TIMEOUT
    check_latched(robot, code, words, since, notice + BRAKE)


def test_the_order_of_the_joints_does_not_matter(robot):
    robot.run()
    robot.fault("joint_states", "reorder")
    begin = time.monotonic()
    robot.wait(lambda: time.monotonic() - begin > 1.0, 3, "some time to pass")
    robot.wait(lambda: robot.bridge.mode == BridgeStatus.RUNNING and robot.moving(), 2, "motion that goes on")


def test_a_clock_that_stands_stops_the_robot(robot):
    robot.run()
    since = robot.fault("clock", "pause")
    check_latched(robot, BridgeStatus.CLOCK, "clock", since, CLOCK_STANDS + WINDOW + TAIL)


@pytest.mark.parametrize("value", [-3.0, 3.0])
def test_a_clock_that_jumps_stops_the_robot(robot, value):
    robot.run()
    since = robot.fault("clock", "jump", value)
    check_latched(robot, BridgeStatus.CLOCK, "clock", since, WINDOW + TAIL)  # no message: the last tail is what brakes
    robot.run()  # life goes on in the new time


def test_a_world_that_stands_still_stops_the_robot(robot):
    robot.run()
    robot.fault("physics", "stall")
    status = robot.wait_cause({BridgeStatus.JOINTS_STALE, BridgeStatus.CLOCK}, 2)
    assert status.latched
    robot.fault("physics", "none")
    robot.rest(time.monotonic(), BRAKE + SLACK)


# --------------------------------------------------------------------------------------------------- people and buttons


def test_stop_by_service_latches(robot):
    robot.run()
    since = time.monotonic()
    robot.stop()
    robot.wait_cause(BridgeStatus.STOP_SERVICE, 1)
    assert robot.bridge.mode == BridgeStatus.STOPPED and robot.bridge.latched
    robot.rest(since, BRAKE)
    robot.wait(lambda: robot.task.state == TaskStatus.STOPPED, 2, "the task to end")
    robot.say("wave")
    robot.wait(lambda: robot.task.state == TaskStatus.REFUSED, 2, "the refusal")
    assert "resume" in robot.task.reason
    robot.stays_at_rest(0.5)


@pytest.mark.parametrize("words", ["stop", "HALT!!", "please freeze"])
def test_stop_by_words_during_motion(robot, words):
    robot.run()
    since = time.monotonic()
    robot.say(words)
    robot.rest(since, BRAKE)
    assert robot.bridge.mode == BridgeStatus.STOPPED and robot.bridge.code == BridgeStatus.STOP_SERVICE
    robot.wait(lambda: robot.task.state == TaskStatus.STOPPED, 2, "the task to end")


def test_a_button_that_says_stop(robot):
    robot.run()
    robot.beating = False
    since = time.monotonic()
    robot._heartbeat.publish(Bool(data=False))
    robot.wait_cause(BridgeStatus.HEARTBEAT_FALSE, 1)
    robot.rest(since, BRAKE)
    assert robot.bridge.mode == BridgeStatus.STOPPED
    response = robot.call(Trigger, "resume")
    assert not response.success and "button" in response.message


def test_a_button_that_falls_silent(robot):
    robot.run()
    robot.beating = False
    since = time.monotonic()
    robot.wait_cause(BridgeStatus.HEARTBEAT_SILENT, HEARTBEAT + 1)
    robot.rest(since, HEARTBEAT + BRAKE)
    assert robot.bridge.mode == BridgeStatus.STOPPED


def test_a_new_command_replaces_the_old_one_in_motion(robot):
    robot.run("wave")
    first = robot.task.id
    robot.say("raise the lift")
    robot.wait(lambda: robot.task.text == "raise the lift" and robot.task.state == TaskStatus.RUNNING, 3, "the new task")
    assert robot.task.id != first
    robot.wait(lambda: robot.task.state == TaskStatus.SUCCEEDED, 15, "the new task to end well")
    robot.wait_cause({BridgeStatus.NO_INSTRUCTION, BridgeStatus.NO_CHUNK}, 2)
    robot.rest(time.monotonic(), BRAKE + SLACK)


def test_a_policy_without_eyes_says_so(robot):
    robot.run()
    since = time.monotonic()
    for camera in robot.robot.cameras:
        robot.fault(camera.name, "drop")
    robot.fault("odom", "skew", -1.0)  # odometry that agrees with nothing: the state is not known
    robot.wait(lambda: robot.policy.state in (PolicyStatus.BLIND, PolicyStatus.IDLE), 2, "the policy to be blind")
    robot.rest(since, MAX_AGE + 0.3 + BRAKE)
