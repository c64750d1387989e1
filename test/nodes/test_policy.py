"""The policy node: observations in, time-anchored chunks out, and what it says about itself."""

import math
import time

import pytest
from builtin_interfaces.msg import Duration
from sensor_msgs.msg import Image
from spinning import Spinning

from pi_msgs.msg import ActionChunk, Instruction, Observation, PolicyStatus
from pi_policy_node.nodes.common import LATCHED, RELIABLE1, RELIABLE10, SENSOR, to_ns, to_seconds
from pi_policy_node.nodes.policy import PolicyNode
from pi_policy_node.robot import load_robot

ROBOT = load_robot("pi_mobile")
JOINTS = [joint for group in ROBOT.groups for joint in group.joints]


class Bench(Spinning):
    def __init__(self):
        super().__init__()
        self.chunks = self.listen(ActionChunk, "action_chunk", RELIABLE10)
        self.statuses = self.listen(PolicyStatus, "policy/status", LATCHED)
        self.node = self.add(PolicyNode())
        self.observations = self.talk(Observation, "observation", SENSOR)
        self.instructions = self.talk(Instruction, "instruction", RELIABLE1)

    def instruct(self, task="one", text="wave", expiry=1.0):
        message = Instruction(id=task, text=text, expiry=Duration(sec=int(expiry), nanosec=int(expiry % 1 * 1e9)))
        message.header.stamp = message.issued = self.probe.get_clock().now().to_msg()
        self.instructions.publish(message)

    def observe(self, *, joints=JOINTS, valid=True, joints_valid=True, late=0.0, image=None, reasons=None):
        message = Observation(joints_valid=joints_valid, odom_valid=True)
        stamp = self.probe.get_clock().now().nanoseconds - int(late * 1e9)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
        for camera in ROBOT.cameras:
            fields = {"height": 4, "width": 6, "step": 18, "encoding": "rgb8", "data": bytes(72)} | (image or {})
            message.cameras.append(camera.name)
            message.images.append(Image(**fields) if valid else Image())
            message.valid.append(valid)
            message.reasons.append("" if valid else "frozen")
        message.reasons = message.reasons if reasons is None else reasons
        position = {}
        for group in ROBOT.groups:
            for column, joint in enumerate(group.joints, group.columns.start):
                value = float(ROBOT.home[column])
                if group.gripper:
                    value = group.gripper.closed + value * (group.gripper.open - group.gripper.closed)
                position[joint] = value
        message.joints.name = list(joints)
        message.joints.position = [position[joint] for joint in joints]
        self.observations.publish(message)
        return stamp

    def stream(self, condition, limit=5.0, **how):
        """Observations and renewals at 20 Hz until the condition holds."""
        def step():
            self.instruct()
            self.observe(**how)
            time.sleep(0.05)
            return condition()
        self.wait(step, limit)

    @property
    def status(self):
        return self.statuses[-1]


@pytest.fixture(scope="module")
def node(ros):
    bench = Bench()
    bench.up(bench.node)
    yield bench
    bench.close()


@pytest.fixture
def bench(node):
    node.instructions.publish(Instruction())  # withdraws whatever there was
    node.wait(lambda: node.statuses and node.status.state == PolicyStatus.IDLE)
    node.chunks.clear()
    return node


def test_chunks_are_anchored_in_time_and_carry_everything(bench):
    before = bench.probe.get_clock().now().nanoseconds
    bench.stream(lambda: len(bench.chunks) >= 4)
    first, second = bench.chunks[2], bench.chunks[3]
    assert first.source == "scripted" and first.instruction_id == "one" and list(first.names) == list(ROBOT.action_names)
    assert first.dt == ROBOT.dt and first.horizon == ROBOT.horizon and len(first.data) == 50 * 18
    assert to_ns(first.header.stamp) >= before and to_ns(first.observation_stamp) >= before
    assert all(b.sequence > a.sequence for a, b in zip(bench.chunks, bench.chunks[1:]))
    shift = (to_seconds(second.header.stamp) - to_seconds(first.header.stamp)) / ROBOT.dt
    k = round(shift)
    assert shift == pytest.approx(k, abs=1e-3) and second.fixed_rows > 0
    old, new = list(first.data)[k * 18 :], list(second.data)
    assert new[: second.fixed_rows * 18] == pytest.approx(old[: second.fixed_rows * 18], abs=1e-9)
    bench.wait(lambda: bench.status.state == PolicyStatus.RUNNING and bench.status.instruction_id == "one")
    assert bench.status.backend == "scripted" and bench.status.subtask == "wave" and 0 <= bench.status.progress < 1
    bench.wait(lambda: bench.status.chunks > 0 and not math.isnan(bench.status.inference_p99))
    assert 0 < bench.status.inference_p50 <= bench.status.inference_p99 < 0.5


def test_blind_within_a_third_of_a_second(bench):
    bench.stream(lambda: bench.chunks)
    seen = time.monotonic()
    def renewed():
        bench.instruct()
        return bench.chunks[-1].horizon == 0
    bench.wait(renewed, limit=2.0)
    assert time.monotonic() - seen < 0.6
    bench.wait(lambda: bench.status.state == PolicyStatus.BLIND)
    assert bench.status.code == PolicyStatus.NO_OBSERVATION and bench.chunks[-1].instruction_id == "one"


@pytest.mark.parametrize("how, code, words", [
    ({"joints_valid": False}, PolicyStatus.STATE_INVALID, "joint"),
    ({"joints": JOINTS[1:]}, PolicyStatus.STATE_INVALID, JOINTS[0]),
    ({"late": -1.0}, PolicyStatus.NO_OBSERVATION, "future"),
    ({"late": 0.6}, PolicyStatus.NO_OBSERVATION, "old"),
    ({"image": {"step": 17}}, PolicyStatus.CAMERA_INVALID, "step is 17"),
    ({"image": {"data": bytes(71)}}, PolicyStatus.CAMERA_INVALID, "71 bytes"),
    ({"image": {"encoding": "bgr8"}}, PolicyStatus.CAMERA_INVALID, "accepted are rgb8"),
    ({"reasons": []}, PolicyStatus.CAMERA_INVALID, "differ in length"),
])  # fmt: skip
def test_what_cannot_be_used_is_named(bench, how, code, words):
    bench.stream(lambda: bench.status.state == PolicyStatus.BLIND and bench.status.code == code
                 and words in bench.status.cause, **how)
    assert all(chunk.horizon == 0 for chunk in bench.chunks)


def test_the_scripted_policy_needs_no_camera(bench):
    bench.stream(lambda: bench.chunks and bench.chunks[-1].horizon, valid=False)


def test_a_lease_that_is_not_renewed_ends(bench):
    bench.stream(lambda: bench.chunks)
    bench.wait(lambda: bench.status.code == PolicyStatus.NO_INSTRUCTION, limit=2.0)
    count = len(bench.chunks)
    bench.observe()
    time.sleep(0.1)  # nothing to wait for: nothing must come
    assert len(bench.chunks) == count


def test_deactivation_asks_for_rest_and_is_silent_afterwards(bench):
    bench.stream(lambda: bench.chunks and bench.chunks[-1].horizon)
    assert bench.node.trigger_deactivate().name == "SUCCESS"
    try:
        bench.wait(lambda: bench.chunks[-1].horizon == 0)
        bench.wait(lambda: bench.status.state == PolicyStatus.INACTIVE)
    finally:
        assert bench.node.trigger_activate().name == "SUCCESS"
    last = bench.chunks[-1].sequence
    bench.stream(lambda: bench.chunks[-1].horizon)
    assert bench.chunks[-1].sequence > last  # a restart is not taken for old chunks



@pytest.mark.parametrize("arguments, words", [
    ([], "must be told its checkpoint"),
    (["vla.checkpoint:=/nowhere", "vla.tokenizer:=/none"], "/no"),
])
def test_a_checkpoint_that_is_not_there_is_named(ros, arguments, words):
    node = PolicyNode(given("vla", *arguments))
    try:
        with pytest.raises(Exception, match=words):
            node.configure()
    finally:
        node.destroy_node()


def test_a_server_that_is_not_there_is_waited_for(ros):
    node = PolicyNode(given("remote", "remote.url:=ws://127.0.0.1:1", "remote.connect_limit:=0.2"))
    try:
        node.configure()
        assert node.ladder.rungs[0].policy.link.status.sentence
    finally:
        node.cleanup()
        node.destroy_node()


def given(backend, *parameters):
    return ["--ros-args", *(word for entry in (f"policy:={backend}", *parameters) for word in ("-p", entry))]
