"""bringup: order, one line when ready, the name and the reason when not, and once more after a death."""

import pytest
from rclpy.parameter import Parameter
from rclpy.task import Future
from spinning import Spinning

from pi_policy_node.nodes import bringup as module
from pi_policy_node.nodes.bringup import Bringup
from pi_policy_node.nodes.common import ManagedNode, NodeError

LOG = []


class Part(ManagedNode):
    fails_to = ""

    def configure(self):
        self.step("configure")

    def activate(self):
        self.step("activate")

    def step(self, verb):
        LOG.append(f"{verb} {self.get_name()}")
        if self.fails_to == verb:
            raise NodeError("its cable is loose")


@pytest.fixture
def bench(ros, monkeypatch):
    LOG.clear()
    spinning = Spinning()
    said = []

    def start(**parameters):
        given = [Parameter(name, value=value) for name, value in parameters.items()]
        init = module.Node.__init__
        monkeypatch.setattr(module.Node, "__init__",
                            lambda self, name: init(self, name, parameter_overrides=given))
        node = Bringup()
        monkeypatch.setattr(module.Node, "__init__", init)
        node.finished = Future()
        logger = node.get_logger()
        for level in ("info", "warning", "error", "fatal"):
            monkeypatch.setattr(logger, level, lambda text, level=level: said.append((level, text)), raising=False)
        monkeypatch.setattr(node, "get_logger", lambda: logger)
        return spinning.add(node)

    spinning.start, spinning.said = start, said
    yield spinning
    spinning.close()


def test_everything_is_configured_before_anything_is_active(bench):
    parts = [bench.add(Part(name)) for name in ("eyes", "hands")]
    bench.start(nodes=["eyes", "hands"])
    bench.wait(lambda: bench.said)
    assert LOG == ["configure eyes", "configure hands", "activate eyes", "activate hands"]
    assert all(part.active for part in parts)
    (level, text), = bench.said
    assert level == "info" and text.startswith("robot ready: pi_mobile (")


@pytest.mark.parametrize("verb", ["configure", "activate"])
def test_a_node_that_fails_is_named_with_its_reason(bench, verb):
    bench.add(Part("eyes"))
    hands = bench.add(Part("hands"))
    hands.fails_to = verb
    node = bench.start(nodes=["eyes", "hands"])
    bench.wait(node.finished.done)
    assert node.finished.result() == 1
    assert bench.said == [("fatal", f"robot not ready: node 'hands' did not {verb}: its cable is loose")]


def test_a_node_that_is_not_there_is_named_within_the_limit(bench):
    bench.add(Part("eyes"))
    node = bench.start(nodes=["eyes", "ghost"], timeout_s=1)
    bench.wait(node.finished.done, limit=8)
    assert node.finished.result() == 1 and "node 'ghost' did not answer within 1 s" in bench.said[0][1]


def test_what_is_active_already_is_left_alone(bench):
    eyes = bench.add(Part("eyes"))
    bench.up(eyes)
    bench.start(nodes=["eyes"])
    bench.wait(lambda: bench.said)
    assert LOG == ["configure eyes", "activate eyes"] and "robot ready" in bench.said[0][1]


def test_a_node_that_was_started_again_is_brought_up_again(bench):
    eyes = bench.add(Part("eyes"))
    bench.start(nodes=["eyes"])
    bench.wait(lambda: eyes.active)
    assert eyes.trigger_deactivate().name == "SUCCESS"
    bench.wait(lambda: len(bench.said) == 1)
    assert not eyes.active  # a person at work on it is left in peace
    assert eyes.trigger_cleanup().name == "SUCCESS"
    bench.wait(lambda: eyes.active, limit=5)
    bench.wait(lambda: ("warning", "node 'eyes' was started again and is active") in bench.said)


def test_it_does_not_keep_up_when_told_so(bench):
    eyes = bench.add(Part("eyes"))
    node = bench.start(nodes=["eyes"], keep_up=False)
    bench.wait(lambda: eyes.active)
    bench.wait(lambda: not node._thread.is_alive())
