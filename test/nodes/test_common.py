"""The runner, parameters, lifecycle with reasons and diagnostics: in processes of their own where it is about ends."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from hypothesis import given
from hypothesis import strategies as st
from rclpy.node import Node
from rclpy.parameter import Parameter
from spinning import Spinning

from pi_policy_node.nodes.common import (
    ERROR, OK, RELIABLE10, Diagnostics, ManagedNode, NodeError, from_seconds, parameter, to_duration, to_ns, to_seconds,
    to_stamp,
)  # fmt: skip

NODE = """
import time
from pi_policy_node.nodes.common import *
from pi_policy_node.nodes import common

class Subject(ManagedNode):
    def __init__(self):
        super().__init__("subject")
        robot_parameter(self)
        self.what = parameter(self, "what", "run", "what to do", choices=["run", "break", "finish", "hang"])
        self.limit = parameter(self, "limit", 1.0, "a limit [s]", minimum=0.0, maximum=10.0)
        steady_timer(self, 0.1, self.tick)
        self.trigger_configure(), self.trigger_activate()
        print("up", flush=True)

    def tick(self):
        if self.what == "break":
            raise KeyError("x")
        if self.what == "finish":
            common.finish(self, 5)

    def deactivate(self):
        print("deactivated", flush=True)

    def destroy_node(self):
        if self.what == "hang":
            while True:
                pass
        super().destroy_node()

common.main(Subject)
"""


def start(tmp_path, *arguments):
    file = tmp_path / "subject.py"
    file.write_text(textwrap.dedent(NODE))
    return subprocess.Popen([sys.executable, str(file), "--ros-args", *arguments], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env=os.environ)


def end_of(process, limit=20):
    out, err = process.communicate(timeout=limit)
    assert "Traceback" not in err, err
    return process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_deactivates_first_and_ends_with_zero(domain, tmp_path, number):
    process = start(tmp_path)
    assert process.stdout.readline() == "up\n"
    process.send_signal(number)
    begin = time.monotonic()
    code, out, _ = end_of(process)
    assert code == 0 and out == "deactivated\n" and time.monotonic() - begin < 4


@pytest.mark.parametrize("arguments, words", [
    (["-p", "limit:=77"], "must be at least 0 and at most 10"), (["-p", "limit:=soon"], "must be a float"),
    (["-p", "limit:=.nan"], "must be at least"), (["-p", "what:=dance"], "one of run, break, finish, hang"),
    (["-p", "robot:=nobody"], "nobody"), (["-p"], "cannot start"), (["-r", "a b"], "cannot start"),
])  # fmt: skip
def test_a_wrong_start_is_one_line_and_exit_status_2(domain, tmp_path, arguments, words):
    code, out, err = end_of(start(tmp_path, *arguments))
    ours = [line for line in err.splitlines() if "[subject]" in line]
    assert code == 2 and len(ours) == 1 and words in ours[0] and not out


def test_an_error_of_ours_is_one_line_with_its_place_and_exit_status_1(domain, tmp_path):
    code, out, err = end_of(start(tmp_path, "-p", "what:=break"))
    assert code == 1 and "KeyError: 'x' (subject.py:" in err and out == "up\ndeactivated\n"


def test_a_node_can_end_itself_with_a_status(domain, tmp_path):
    assert end_of(start(tmp_path, "-p", "what:=finish"))[0] == 5


def test_a_node_that_hangs_at_its_end_is_ended(domain, tmp_path):
    process = start(tmp_path, "-p", "what:=hang")
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGINT)
    assert end_of(process, limit=10)[0] == 1


# ----------------------------------------------------------------------------------------------------- in this process


@pytest.mark.parametrize("given_value, default, options, expected", [
    (7, 1.0, {"minimum": 0.0, "maximum": 10.0}, 7.0), ("x", "y", {}, "x"), ([1, 2], [3], {}, [1, 2]), (7, "y", {}, "7"),
    (["a"], ["b", "c"], {}, ["a"]), (True, False, {}, True), (3, 1, {"minimum": 1}, 3),
])  # fmt: skip
def test_parameters_are_read_converted_and_described(ros, given_value, default, options, expected):
    node = Node("described", parameter_overrides=[Parameter("it", value=given_value)])
    try:
        value = parameter(node, "it", default, "what it is [s]", **options)
        assert value == expected and type(value) is type(default)
        assert node.get_parameter("it").value in (expected, tuple(expected) if isinstance(expected, list) else expected)
        descriptor = node.describe_parameter("it")
        assert descriptor.read_only and descriptor.description == "what it is [s]"
        if "maximum" in options:
            assert descriptor.floating_point_range[0].to_value == options["maximum"]
    finally:
        node.destroy_node()


@pytest.mark.parametrize("given_value, default, options, words", [
    ("x", 1.0, {}, "float"), (1.5, 1, {}, "int"), (True, 1, {}, "int"), ("yes", False, {}, "bool"),
    (-1.0, 1.0, {"minimum": 0.0}, "at least 0"), (float("nan"), 1.0, {"minimum": 0.0}, "at least 0"),
    ("c", "a", {"choices": ["a", "b"]}, "one of a, b"), ("a", ["a"], {}, "list"),
])  # fmt: skip
def test_wrong_parameters_say_what_is_right(ros, given_value, default, options, words):
    node = Node("described", parameter_overrides=[Parameter("it", value=given_value)])
    try:
        with pytest.raises(NodeError, match="parameter 'it'.*" + words):
            parameter(node, "it", default, "what it is", **options)
    finally:
        node.destroy_node()


class Moody(ManagedNode):
    fails = None

    def __init__(self):
        super().__init__("moody")
        self.calls = []

    def configure(self):
        self.calls.append("configure")
        if self.fails is not None:
            raise self.fails

    def activate(self):
        self.calls.append("activate")

    def deactivate(self):
        self.calls.append("deactivate")

    def cleanup(self):
        self.calls.append("cleanup")


@pytest.mark.parametrize("error, words", [(NodeError("the moon is wrong"), "the moon is wrong"),
                                          (ZeroDivisionError("oh"), "ZeroDivisionError: oh (test_common.py:")])
def test_a_failed_transition_says_why(ros, error, words):
    spinning = Spinning()
    try:
        heard = spinning.listen(DiagnosticArray, "diagnostics", RELIABLE10)
        node = spinning.add(Moody())
        spinning.wait(lambda: node.diagnostics._publisher.get_subscription_count())
        node.fails = error
        assert node.trigger_configure().name == "FAILURE"
        assert node.calls == ["configure", "cleanup"]
        spinning.wait(lambda: heard)
        status = heard[-1].status[0]
        assert (status.name, status.level) == ("moody: lifecycle", ERROR) and words in status.message
        node.fails = None
        assert node.trigger_configure().name == "SUCCESS" and node.trigger_activate().name == "SUCCESS"
        assert node.active
        node.close()
        assert not node.active and node.calls[-2:] == ["deactivate", "cleanup"]
    finally:
        spinning.close()


def test_diagnostics_speak_on_change_and_every_second(ros):
    spinning = Spinning()
    try:
        heard = spinning.listen(DiagnosticArray, "diagnostics", RELIABLE10)
        diagnostics = Diagnostics(spinning.probe, hardware_id="pi")
        spinning.wait(lambda: diagnostics._publisher.get_subscription_count())
        begin = time.monotonic()
        diagnostics.set("eyes", OK, "open", {"count": 4})
        spinning.wait(lambda: len(heard) == 1)
        diagnostics.set("eyes", OK, "open", {"count": 5})  # a number that moved is no change
        spinning.wait(lambda: len(heard) == 2, limit=2.0)
        assert 0.5 < time.monotonic() - begin < 1.6
        status = heard[-1].status[0]
        assert (status.name, status.message, status.values[0].value, status.hardware_id) == (
            "probe: eyes", "open", "5", "pi")
        count = len(heard)
        diagnostics.set("eyes", ERROR, "shut")
        spinning.wait(lambda: any(array.status[0].level == ERROR for array in heard[count:]), limit=0.5)
    finally:
        spinning.close()


@given(st.integers(min_value=0, max_value=4_000_000_000 * 10**9))
def test_stamps_survive(ns):
    assert to_ns(to_stamp(ns)) == ns
    assert abs(to_ns(from_seconds(ns * 1e-9)) - ns) < 1000
    assert to_seconds(to_stamp(ns)) == pytest.approx(ns * 1e-9)


@given(st.integers(min_value=-(10**12), max_value=10**12))
def test_durations_survive(ns):
    assert to_ns(to_duration(ns)) == ns
