"""Each way in which a task can end, and that it ends once."""

import math

import pytest

from pi_policy_node.task import Brain, Bridge, Refused, Report, State
from pi_policy_node.task.brain import BRIDGE_PATIENCE, POLICY_PATIENCE, STEP_DONE, SURE, SURE_FOR


class Bench:
    """A brain whose bridge and policy are well unless told otherwise; time moves by `pass_time`."""

    def __init__(self, limit=60.0, **options):
        self.now = 100.0
        self.said = []
        self.brain = Brain(time_limit=limit, changed=self.said.append, **options)
        self.mode, self.cause = Bridge.HOLD, "no instruction"
        self.well, self.progress, self.subtask = True, math.nan, "wave"
        self.answers, self.unknown = 0, False
        self.bridge_alive = self.policy_alive = True
        self.hear()

    def hear(self):
        if self.bridge_alive:
            self.brain.on_bridge(self.mode, self.cause, now=self.now)
        if self.policy_alive:
            task = self.brain.lease.id if self.brain.lease else ""
            self.answers += self.well
            report = Report(task, self.well, "answering" if self.well else "it broke", self.subtask, self.progress, 0.02,
                            self.answers, self.unknown)
            self.brain.on_policy(report, now=self.now)
        self.brain.tick(self.now)

    def pass_time(self, seconds):
        for _ in range(round(seconds / 0.1)):
            self.now += 0.1
            self.hear()

    def begin(self, text="wave", **options):
        return self.brain.begin(text, now=self.now, stamp=int(self.now * 1e9), **options)

    @property
    def state(self):
        return self.brain.outcome.state


@pytest.fixture
def bench():
    return Bench()


def test_a_task_runs_until_the_policy_says_it_is_done(bench):
    task = bench.begin("  put the block  away ")
    assert bench.brain.lease.id == task and bench.brain.lease.text == "put the block away" and bench.state == State.RUNNING
    bench.pass_time(3)
    bench.subtask, bench.progress = "place it", 0.9
    bench.pass_time(1)
    assert bench.state == State.RUNNING
    bench.subtask = "done"
    bench.pass_time(SURE_FOR)
    assert bench.state == State.RUNNING  # that may be a slip of the tongue
    bench.pass_time(0.2)
    assert bench.brain.lease is None and bench.state == State.SUCCEEDED
    assert bench.brain.outcome.subtasks == ("wave", "place it")
    assert bench.brain.outcome.elapsed == pytest.approx(4.9, abs=0.15)
    ended = len(bench.said)
    bench.pass_time(5)
    assert len(bench.said) == ended and bench.state == State.SUCCEEDED  # it ends once


def test_progress_of_another_task_is_not_ours(bench):
    bench.begin()
    bench.brain.on_policy(Report("another", True, "", "done", 1.0, 0.0, 99), now=bench.now)
    assert bench.state == State.RUNNING


def test_a_policy_that_does_not_know_its_progress_runs_into_the_limit(bench):
    bench.progress = math.nan
    bench.begin(limit=2.0)
    bench.pass_time(1.9)
    assert bench.state == State.RUNNING
    bench.pass_time(0.3)
    assert bench.state == State.TIMED_OUT and "2 s" in bench.brain.outcome.reason and bench.brain.lease is None


def test_the_default_limit_holds():
    bench = Bench(limit=1.0)
    bench.begin()
    bench.pass_time(1.2)
    assert bench.state == State.TIMED_OUT


def test_a_new_command_replaces_the_old_one(bench):
    first = bench.begin("wave")
    second = bench.begin("reach left")
    assert first != second and bench.brain.lease.text == "reach left" and bench.state == State.RUNNING
    ended = next(o for o in bench.said if o.id == first and o.state == State.CANCELLED)
    assert "reach left" in ended.reason


@pytest.mark.parametrize("mode, state", [(Bridge.STOPPED, State.STOPPED), (Bridge.FAULT, State.FAILED)])
def test_a_latched_bridge_ends_the_task_and_refuses_the_next(bench, mode, state):
    bench.begin()
    bench.mode, bench.cause = mode, "the joint states are stale"
    bench.pass_time(0.1)
    assert bench.state == state and bench.cause in bench.brain.outcome.reason and bench.brain.lease is None
    with pytest.raises(Refused, match="resume"):
        bench.begin()
    bench.mode = Bridge.HOLD
    bench.pass_time(0.1)
    assert bench.brain.lease is None  # a resume brings nothing back
    bench.begin()


@pytest.mark.parametrize("mode", [Bridge.HOLD, Bridge.RUNNING, Bridge.TAKEOVER])
def test_other_modes_do_not_end_it(bench, mode):
    bench.begin()
    bench.mode = mode
    bench.pass_time(10)
    assert bench.state == State.RUNNING


def test_a_failing_policy_is_given_some_time_and_then_given_up(bench):
    bench.begin()
    bench.well = False
    bench.pass_time(POLICY_PATIENCE - 1)
    assert bench.state == State.RUNNING
    bench.well = True
    bench.pass_time(0.1)
    bench.well = False
    bench.pass_time(POLICY_PATIENCE - 0.5)
    assert bench.state == State.RUNNING
    bench.pass_time(1)
    assert bench.state == State.FAILED and "it broke" in bench.brain.outcome.reason


def test_a_dead_policy_is_noticed(bench):
    bench.begin()
    bench.policy_alive = False
    bench.pass_time(POLICY_PATIENCE + 0.5)
    assert bench.state == State.FAILED and "did not answer" in bench.brain.outcome.reason


def test_a_dead_bridge_is_noticed(bench):
    bench.begin()
    bench.bridge_alive = False
    bench.pass_time(BRIDGE_PATIENCE + 0.5)
    assert bench.state == State.FAILED and "silent" in bench.brain.outcome.reason
    with pytest.raises(Refused, match="silent"):
        bench.begin()


def test_no_bridge_from_the_beginning():
    brain = Brain(time_limit=1.0, changed=lambda _: None)
    with pytest.raises(Refused, match="silent"):
        brain.begin("wave", now=1.0, stamp=1)


def test_what_is_refused_leaves_the_task_in_hand_alone(bench):
    task = bench.begin("wave")
    with pytest.raises(Refused):
        bench.begin("")
    bench.brain.refuse("", "the command is empty")
    assert bench.brain.lease.id == task and bench.state == State.RUNNING
    assert [outcome.state for outcome in bench.said[-2:]] == [State.REFUSED, State.RUNNING]


def test_refusals_are_shown_when_nothing_is_in_hand(bench):
    bench.brain.refuse("\x07" * 1000, "unprintable")
    assert bench.state == State.REFUSED and bench.brain.outcome.text.isprintable()
    assert len(bench.brain.outcome.text) < 500


@pytest.mark.parametrize("limit", [-1.0, math.nan, math.inf, 1e9])
def test_bad_time_limits(bench, limit):
    with pytest.raises(Refused, match="time limit"):
        bench.begin(limit=limit)


def test_a_clock_that_has_not_started(bench):
    with pytest.raises(Refused, match="clock"):
        bench.brain.begin("wave", now=bench.now, stamp=0)


def test_done_must_be_said_several_times_in_a_row(bench):
    bench.begin()
    for _ in range(5):
        bench.subtask = "done"
        bench.pass_time(SURE_FOR)
        bench.subtask = "place it"
        bench.pass_time(0.1)
    assert bench.state == State.RUNNING


def test_the_same_answer_heard_twice_counts_once(bench):
    task = bench.begin()
    for _ in range(10):
        bench.now += SURE_FOR
        bench.brain.on_policy(Report(task, True, "", "done", 1.0, 0.0, 7), now=bench.now)
    assert bench.state == State.RUNNING


def test_a_policy_that_names_no_steps_is_done_with_its_progress(bench):
    bench.begin()
    bench.subtask, bench.progress = "", STEP_DONE + 0.01
    bench.pass_time(SURE_FOR + 0.2)
    assert bench.state == State.SUCCEEDED


# --------------------------------------------------------------------------------------------------- getting on


def test_without_progress_it_tries_again_and_then_gives_up():
    bench = Bench(stall=3.0, retries=2)
    bench.progress = 0.4
    bench.begin("put the block in the bin")
    attempts = []
    for _ in range(120):
        bench.pass_time(0.1)
        if bench.brain.lease is None:
            break
        attempts.append(bench.brain.lease.attempt)
    outcome = bench.brain.outcome
    assert sorted(set(attempts)) == [0, 1, 2] and outcome.retries == 2 and outcome.state == State.FAILED
    assert "no progress for 3 s at 'wave', which was 40% done" in outcome.reason and "2 times" in outcome.reason
    assert 9.0 <= outcome.elapsed < 10.0


def test_progress_and_new_steps_keep_it_going_but_going_in_circles_does_not():
    bench = Bench(stall=3.0, retries=0)
    bench.begin()
    for k in range(60):
        bench.progress = k / 100
        bench.pass_time(0.1)
    for step in ("pick up the red block", "place it", "pick up the blue block", "place it"):
        bench.subtask, bench.progress = step, 0.5
        bench.pass_time(2.5)
    assert bench.state == State.RUNNING
    for k in range(10):
        bench.subtask, bench.progress = ("pick up the blue block", "place it")[k % 2], 0.3
        bench.pass_time(1.0)
    assert bench.state == State.FAILED and "no progress" in bench.brain.outcome.reason


def test_nobody_is_hurried_while_a_person_has_the_robot():
    bench = Bench(stall=2.0, retries=0)
    bench.progress = 0.3
    bench.begin()
    bench.mode = Bridge.TAKEOVER
    bench.pass_time(10)
    assert bench.state == State.RUNNING


# --------------------------------------------------------------------------------------------------- steps, words


def test_a_step_that_a_person_says_takes_effect_at_once_and_the_policy_goes_on_afterwards(bench):
    task = bench.begin("clear the table")
    bench.pass_time(1)
    bench.brain.step("pick up  the blue block", now=bench.now, stamp=1)
    assert bench.brain.lease.subtask == "pick up the blue block" and bench.brain.lease.id == task
    assert "pick up the blue block" in bench.said[-1].reason
    bench.progress = 0.5
    bench.pass_time(1)
    bench.progress = 0.97
    bench.pass_time(SURE_FOR + 0.2)
    assert bench.state == State.RUNNING and bench.brain.lease.subtask == ""
    bench.brain.step("wave", now=bench.now, stamp=1)
    bench.brain.step("", now=bench.now, stamp=1)
    assert bench.brain.lease.subtask == ""


def test_a_step_without_a_task_is_one(bench):
    bench.brain.step("pick up the blue block", now=bench.now, stamp=1)
    assert bench.brain.lease.subtask == bench.brain.lease.text == "pick up the blue block"
    with pytest.raises(Refused, match="single step"):
        bench.brain.step("", now=bench.now, stamp=1)
    bench.progress = 0.97
    bench.pass_time(SURE_FOR + 0.2)
    assert bench.state == State.SUCCEEDED
    with pytest.raises(Refused, match="no task"):
        bench.brain.step("", now=bench.now, stamp=1)


@pytest.mark.parametrize("words", ["", "wa\u202eve", "x" * 501])
def test_a_step_that_is_none_is_refused(bench, words):
    bench.begin("clear the table")
    if words:
        with pytest.raises(Refused):
            bench.brain.step(words, now=bench.now, stamp=1)
    assert bench.state == State.RUNNING and bench.brain.lease.subtask == ""


def test_words_that_the_policy_does_not_know_end_the_task(bench):
    bench.well, bench.unknown = False, True
    bench.begin("zorp")
    bench.pass_time(0.1)
    assert bench.state == State.REFUSED and bench.brain.outcome.reason == "it broke" and bench.brain.lease is None


def test_an_unknown_step_is_refused_and_the_task_goes_on(bench):
    task = bench.begin("clear the table")
    bench.pass_time(1)
    bench.brain.step("zorp", now=bench.now, stamp=1)
    bench.well, bench.unknown = False, True
    bench.pass_time(0.1)
    assert bench.brain.lease.id == task and bench.brain.lease.subtask == ""
    refused = next(outcome for outcome in bench.said if outcome.state == State.REFUSED)
    assert refused.text == "zorp" and bench.said[-1].state == State.RUNNING
    bench.pass_time(0.3)  # what the policy said about it comes late
    bench.well, bench.unknown = True, False
    bench.pass_time(1)
    assert bench.state == State.RUNNING


def test_direct_words_are_the_step(bench):
    bench.begin("pick up the block", direct=True)
    assert bench.brain.lease.subtask == "pick up the block"
    bench.begin("clear the table")
    assert bench.brain.lease.subtask == ""
