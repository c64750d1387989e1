"""The fallback ladder in a real graph: the link to a policy server is cut in full motion, and heals."""

import socket
import time

import numpy as np
import pytest
from harness import RobotUnderTest, small_robot

from pi_msgs.msg import BridgeStatus, PolicyStatus, TaskStatus
from pi_policy_node.policy.registry import make_policy
from pi_policy_node.policy.remote.server import Server, ServerThread
from pi_policy_node.robot import load_robot

WORDS = "wave"  # the longest motion; the local policy begins it anew
LINK = {PolicyStatus.LINK_DOWN, PolicyStatus.DEADLINE_MISSED}


class Link:
    """A policy server that can be cut off and brought back on the same port."""

    def __init__(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._thread = None

    def heal(self):
        robot = load_robot("pi_mobile")
        server = Server(make_policy("scripted", robot), robot, host="127.0.0.1", port=self.port)
        self._thread = ServerThread(server)
        self._thread.__enter__()

    def cut(self):
        if self._thread is not None:
            self._thread.__exit__()
        self._thread = None


@pytest.fixture(scope="module")
def link():
    one = Link()
    one.heal()
    yield one
    one.cut()


@pytest.fixture(scope="module")
def robot(ros, link, tmp_path_factory):
    one = RobotUnderTest(small_robot(tmp_path_factory.mktemp("robot")), policy="remote,scripted",
                         parameters={"policy": {"remote.url": f"ws://127.0.0.1:{link.port}", "climb_after_s": 1.0}})
    try:
        one.start()
        one.ready()
        yield one
    finally:
        one.close()


def on(robot, backend, limit):
    robot.wait(lambda: (robot.policy.state, robot.policy.backend) == (PolicyStatus.RUNNING, backend), limit, backend)


def keep_waving(robot):
    """A task that lasts: given again where the motion came to its end."""
    if robot.task.state != TaskStatus.RUNNING:
        robot.run(WORDS)


def test_the_link_is_cut_in_motion_and_heals(robot, link):
    link.cut()
    link.heal()
    robot.run(WORDS)
    on(robot, "remote", 10)
    robot.wait(lambda: robot.bridge.source == "remote" and robot.moving(), 5, "motion by the server's plan")
    cut, refused = time.monotonic(), robot.count("far_first_row")
    robot.bridges.clear()
    link.cut()
    on(robot, "scripted", 3)
    assert robot.policy.rung == 1 and robot.policy.code in LINK and robot.policy.cause, robot.tell()
    robot.wait(lambda: robot.bridge.source == "scripted", 2, "the bridge to follow the other plan")
    took = time.monotonic() - cut
    held = [status.cause for status in list(robot.bridges) if status.mode != BridgeStatus.RUNNING]
    assert not held or took > 0.8, f"it held, though the change took only {took:.2f} s: {held}"
    entries = [entry for entry in list(robot.references["left_arm_controller"]) if entry[0] > cut - 0.3]
    assert np.abs(np.diff([entry[2] for entry in entries], axis=0)).max() < 0.1, "the arm jumped"
    assert robot.count("far_first_row") == refused
    link.heal()

    def climbed():
        keep_waving(robot)
        return robot.policy.backend == "remote" and robot.policy.state == PolicyStatus.RUNNING
    robot.wait(climbed, 30, "the server to be used again")
    assert robot.policy.rung == 0 and robot.policy.code == PolicyStatus.OK


def test_without_the_server_a_task_is_done_by_the_rung_below(robot, link):
    link.cut()
    robot.run("reach left")
    on(robot, "scripted", 10)
    robot.wait(lambda: robot.task.text == "reach left" and robot.task.state != TaskStatus.RUNNING, 30, "the end")
    assert robot.task.state == TaskStatus.SUCCEEDED, robot.tell()
