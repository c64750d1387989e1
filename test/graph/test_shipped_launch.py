"""The shipped launch file, as a person starts it: who may move the robot, two robots beside each other, an ordinary
shell with default DDS settings, and the end."""

import os
import signal
import subprocess
import sys
import time

import pytest
from harness import RobotUnderTest, small_robot

from pi_msgs.msg import BridgeStatus, TaskStatus


class Launched:
    """`./pi launch mobile_manipulator.launch.py` in a process of its own."""

    def __init__(self, *arguments):
        self.lines = []
        command = [sys.executable, "-m", "pi_policy_node", "launch", "mobile_manipulator.launch.py", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                        stdin=subprocess.DEVNULL, start_new_session=True)
        import threading
        threading.Thread(target=lambda: self.lines.extend(self.process.stdout), daemon=True).start()

    def says(self, words):
        return any(words in line for line in list(self.lines))

    def end(self, number=signal.SIGINT, limit=20.0):
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(limit)
        finally:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return small_robot(tmp_path_factory.mktemp("robot"))


@pytest.fixture(scope="module")
def launched(ros, file):
    """The launch, and what watches it; one robot in no namespace."""
    launch = Launched("hardware:=sim", f"robot:={file}")
    watch = RobotUnderTest(file)
    try:
        watch.wait(lambda: launch.says("robot ready"), 60, "robot ready: " + "".join(launch.lines[-5:]))
        watch.wait(lambda: watch.bridge and watch.task and watch.policy and watch.joints, 15, "first statuses")
        yield launch, watch
    finally:
        launch.end()
        watch.close()


def test_says_once_that_it_is_ready_and_moves(launched):
    launch, watch = launched
    assert sum("robot ready: pi_mobile" in line for line in launch.lines) == 1
    watch.run()
    watch.say("stop")
    watch.rest(time.monotonic(), 0.5)


def test_nothing_but_the_bridge_publishes_to_controllers(launched):
    _, watch = launched
    for group in watch.robot.groups:
        infos = watch.node.get_publishers_info_by_topic(group.controller.topic)
        assert [info.node_name for info in infos] == ["hardware_bridge"], group.controller.topic


def test_all_names_are_relative(launched):
    _, watch = launched
    assert not [name for name, _ in watch.node.get_topic_names_and_types() if name.startswith("/pi")]


ORDINARY = """
import time, rclpy
from rclpy.qos import QoSProfile, DurabilityPolicy
from std_msgs.msg import String
from std_srvs.srv import Trigger
from pi_msgs.msg import BridgeStatus
rclpy.init()
node = rclpy.create_node("ordinary")
heard = []
latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
node.create_subscription(BridgeStatus, "bridge/status", heard.append, latched)
say = node.create_publisher(String, "command", 10)
stop = node.create_client(Trigger, "stop")
def until(condition, limit):
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, (len(heard), heard and heard[-1])
        rclpy.spin_once(node, timeout_sec=0.1)
until(lambda: "hardware_bridge" in node.get_node_names() and say.get_subscription_count() and stop.service_is_ready(), 20)
print("listed", flush=True)
say.publish(String(data="wave"))
until(lambda: heard and heard[-1].mode == BridgeStatus.RUNNING, 10)
print("commanded", flush=True)
answer = stop.call_async(Trigger.Request())
until(lambda: answer.done() and heard[-1].mode == BridgeStatus.STOPPED and heard[-1].at_rest, 10)
print("stopped", flush=True)
"""


def test_an_ordinary_shell_lists_commands_and_stops_the_robot(launched, domain):
    _, watch = launched
    watch.recover()
    # What a shell has that sourced ROS and nothing of ours: no transport profile.
    ours = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE", "RMW_IMPLEMENTATION")
    env = {name: value for name, value in os.environ.items() if name not in ours}
    result = subprocess.run([sys.executable, "-c", ORDINARY], env=env, capture_output=True, text=True, timeout=60)
    assert result.stdout.split() == ["listed", "commanded", "stopped"], result.stdout + result.stderr[-800:]
    assert watch.bridge.mode == BridgeStatus.STOPPED


def test_say_tells_what_becomes_of_words_by_its_exit_status(launched):
    _, watch = launched
    watch.recover()
    say = [sys.executable, "-m", "pi_policy_node", "say"]

    def run(*words):
        return subprocess.run([*say, *words], capture_output=True, text=True, timeout=60, env=os.environ)
    done = run("close the gripper")
    assert done.returncode == 0 and "done: close the gripper" in done.stdout, done.stdout + done.stderr
    refused = run("\x07")
    assert refused.returncode == TaskStatus.REFUSED and "unprintable" in refused.stderr
    assert run("--stop").returncode == 0
    assert run("--resume").returncode == 0
    assert run().returncode == 2


def test_two_robots_do_not_hear_each_other(launched, file):
    _, watch = launched
    other = Launched("hardware:=sim", f"robot:={file}", "namespace:=second")
    second = RobotUnderTest(file, namespace="second")
    try:
        second.wait(lambda: other.says("robot ready"), 60, "the second robot to be ready")
        second.wait(lambda: second.bridge and second.task and second.policy and second.joints, 15, "first statuses")
        watch.recover()
        second.run()
        assert watch.bridge.mode == BridgeStatus.HOLD
        assert all(task.state != TaskStatus.RUNNING for task in watch.tasks), "it heard the other's command"
        watch.stays_at_rest(0.5)
        watch.stop()
        second.wait(second.moving, 1, "motion that goes on")
        assert second.bridge.mode == BridgeStatus.RUNNING
        watch.recover()
    finally:
        other.end()
        second.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_launch_ends_clean_in_motion_the_bridge_first(ros, file, number, launched):
    _, watch = launched
    other = Launched("hardware:=sim", f"robot:={file}", "namespace:=third")
    third = RobotUnderTest(file, namespace="third")
    try:
        third.wait(lambda: other.says("robot ready"), 60, "the robot to be ready")
        third.wait(lambda: third.bridge and third.task and third.policy and third.joints, 15, "first statuses")
        third.run()
        told = time.monotonic()
        other.end(number)
        third.rest(told, 0.1 + 0.3)
        ends = [line for line in other.lines if "process has finished cleanly" in line]
        assert len(ends) == 6 and "hardware_bridge" in ends[0], "".join(other.lines[-12:])
        assert not other.says("Traceback"), "".join(other.lines[-30:])
        assert not other.says("process has died")
    finally:
        other.end()
        third.close()
