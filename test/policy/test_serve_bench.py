"""The server's bench: the policy it serves, the bad requests it sends, and what it lets pass."""

import threading

import pytest
from remote_helpers import ROBOT, BatchEcho, observation

from pi_policy_node.bench.malformed import Vandal
from pi_policy_node.bench.serve import Tally, _passed
from pi_policy_node.bench.served import untrained_mini
from pi_policy_node.policy.remote.batcher import Batcher, Request, warm_batches
from pi_policy_node.policy.remote.server import Server, ServerThread


def test_every_malformed_request_is_answered_as_the_protocol_has_it():
    vandal, policy = Vandal(ROBOT, 0), BatchEcho()
    with ServerThread(Server(policy, ROBOT, port=0)) as port:
        vandal._port = port
        vandal.run(33, threading.Event())
    assert vandal.unanswered == 0 and sum(vandal.outcomes.values()) == 33
    assert vandal.outcomes["error frame"] >= 15 and vandal.outcomes["gone"] == 6


def test_a_server_that_is_not_there_is_no_answer():
    vandal = Vandal(ROBOT, 1)
    vandal.run(5, threading.Event())
    assert vandal.unanswered == 5


def test_an_untrained_mini_answers_a_batch():
    policy = untrained_mini(ROBOT)
    answers = policy.infer_batch([Request(observation()), Request(observation())])
    assert all(answer.actions.shape[1] == len(ROBOT.action_names) for answer in answers)


def test_a_policy_for_batches_gets_one_request_alone_as_well_and_late_ones_are_told_so():
    """`infer` may remember the robot before: a robot alone is a batch of one."""
    policy = BatchEcho()
    batcher = Batcher(policy, largest=4)
    late = Request(observation(), deadline=0.0)
    answers = batcher._infer([Request(observation()), late])
    assert policy.batches == [2] and type(answers[1]).__name__ == "DeadlineExceeded"
    batcher._infer([Request(observation())])
    assert policy.batches == [2, 1] and policy.resets == 0


def test_batches_are_warmed_up_to_the_largest_unless_they_take_too_long():
    quick, slow = BatchEcho(), BatchEcho(seconds=0.05)
    warm_batches(quick, ROBOT, largest=5)
    warm_batches(slow, ROBOT, largest=5, patience=0.01)
    assert quick.batches == [1, 2, 3, 4, 5] and slow.batches == [1]


GOOD = {"robots": 2, "paced": {"errors": 0, "wrong": 0}, "restart": {"robots_back": 2}}


@pytest.mark.parametrize("spoil", [
    {"paced": {"errors": 1, "wrong": 0}},
    {"paced": {"errors": 0, "wrong": 1}},
    {"restart": {"robots_back": 1}},
    {"soak": {"growth_bytes": 1 << 30}},
    {"soak": {"unanswered": 1}},
    {"soak": {"errors": 1}},
])
def test_a_broken_promise_fails_the_bench(spoil):
    assert _passed(GOOD) and not _passed(GOOD | spoil)
    assert Tally().row(1.0)["answers"] == 0
