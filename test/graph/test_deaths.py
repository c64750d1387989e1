"""Every node in turn is told to end or killed in full motion: motion ends in time, somebody says why, and after a new
start the robot obeys again, but replays nothing."""

import signal
import time

import pytest

from pi_msgs.msg import BridgeStatus, PolicyStatus, TaskStatus
from pi_policy_node.control.limits import Limits
from pi_policy_node.robot import load_robot

BRAKE = 0.3  # s
WINDOW = 0.1  # s of plan that a controller has in hand
TAIL = Limits(load_robot()).rest_time  # s: how that ends, where no message makes it shorter
BASE_TIMEOUT = 0.15  # s, the base controller's own
LEASE = 1.0  # s
BLIND = 0.3  # s
MAX_BLIND = 0.8  # s
END = {"INT": signal.SIGINT, "TERM": signal.SIGTERM, "KILL": signal.SIGKILL}

# node, signal -> s until rest. Whoever is told to end says so; who is killed is missed.
LIMITS = {
    ("commander", "KILL"): LEASE + BRAKE, ("commander", "INT"): BRAKE, ("commander", "TERM"): BRAKE,
    ("policy", "KILL"): MAX_BLIND + BRAKE, ("policy", "INT"): BRAKE, ("policy", "TERM"): BRAKE,
    ("camera_ingest", "KILL"): BLIND + MAX_BLIND + BRAKE, ("camera_ingest", "INT"): BLIND + MAX_BLIND + BRAKE,
    ("camera_ingest", "TERM"): BLIND + MAX_BLIND + BRAKE,
    ("hardware_bridge", "KILL"): max(WINDOW, BASE_TIMEOUT) + TAIL, ("hardware_bridge", "INT"): WINDOW + BRAKE,
    ("hardware_bridge", "TERM"): WINDOW + BRAKE,
}


@pytest.mark.parametrize("name, how", LIMITS)
def test_the_end_of_a_node_ends_motion_and_nothing_is_replayed(robot, name, how):
    robot.run()
    told = time.monotonic()  # a node that is told to end brakes before it goes
    killed = robot.kill(name, END[how])
    robot.rest(killed if how == "KILL" else told, LIMITS[name, how])
    if name == "hardware_bridge":
        robot.wait(lambda: robot.task.state == TaskStatus.FAILED, 4, "the commander to miss the bridge")
        assert "bridge" in robot.task.reason
    else:
        assert robot.bridge.mode == BridgeStatus.HOLD and not robot.bridge.latched, robot.tell()
    if name == "camera_ingest":
        robot.wait(lambda: robot.policy.state == PolicyStatus.BLIND, 2, "the policy to be blind")
    if how != "KILL":
        assert robot.processes[name].returncode == 0, "".join(robot.logs[name][-6:])
    task = robot.task.id
    robot.restart(name)
    if name == "commander":
        robot.wait(lambda: robot.task.state == TaskStatus.IDLE, 5, "a fresh commander")
    if name in ("commander", "hardware_bridge"):
        robot.stays_at_rest(0.7)
    robot.run()
    robot.wait(lambda: robot.task.id != task, 2, "the new task on task/status")


@pytest.mark.parametrize("how", END)
def test_the_end_of_bringup_ends_nothing(robot, how):
    robot.run()
    robot.kill("bringup", END[how])
    robot.wait(lambda: robot.bridge.mode == BridgeStatus.RUNNING and robot.moving(), 3, "motion that goes on")
    count = sum("robot ready" in line for line in robot.logs["bringup"])
    robot.start("bringup")
    robot.wait(lambda: sum("robot ready" in line for line in robot.logs["bringup"]) > count, 20, "robot ready")


@pytest.mark.parametrize("how", END)
def test_without_a_robot_nothing_is_commanded_and_nobody_dies(robot, how):
    robot.run()
    robot.kill("sim", END[how])
    causes = (BridgeStatus.JOINTS_STALE, BridgeStatus.CLOCK, BridgeStatus.HEARTBEAT_SILENT)
    robot.wait(lambda: robot.bridge.code in causes, 3, "the bridge to say why")
    assert robot.bridge.latched
    robot.wait(lambda: robot.task.state == TaskStatus.FAILED, 3, "the task to fail")
    for name in ("camera_ingest", "hardware_bridge", "policy", "commander", "bringup"):
        assert robot.processes[name].poll() is None, f"{name} died as well"
    robot.start("sim")
    robot.wait(lambda: not robot.diagnostics["hardware_bridge: controllers"][0] > b"\x00", 10, "listeners")
    robot.run()


def test_a_commander_without_a_clock_says_so(robot):
    robot.kill("commander")
    robot.kill("sim")
    robot.start("commander")
    robot.wait(lambda: robot.task.state == TaskStatus.IDLE, 15, "a fresh commander")
    robot.wait(lambda: any("'commander' was started again" in line for line in robot.logs["bringup"][-3:]), 15, "bringup")
    robot.say("wave")
    robot.wait(lambda: robot.task.state == TaskStatus.REFUSED, 3, "the refusal")
    assert "clock" in robot.task.reason or "latched" in robot.task.reason or "bridge" in robot.task.reason
    robot.start("sim")
    robot.run()
