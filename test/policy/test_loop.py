"""The loop around a policy: time lines, committed rows, blindness, failures, changes of mind."""

import threading
import time

import numpy as np
import pytest

from pi_policy_node.policy.ahead import Chunk, committed, cut
from pi_policy_node.policy.base import DeadlineExceeded, Observation, Result
from pi_policy_node.policy.ladder import Ladder, Task
from pi_policy_node.policy.loop import FRESH, TRANSPORT, PolicyLoop
from pi_policy_node.policy.status import Code, State
from pi_policy_node.robot import load_robot

ROBOT = load_robot("pi_mobile")
A = len(ROBOT.action_names)


def ramp(start=0.0, speed=0.001, rows=50):
    """Rows that creep away from home: row k is home + start + k speed on every column."""
    return ROBOT.home + start + speed * np.arange(rows)[:, None]


class FakePolicy:
    """Answers with what `answer` returns or raises."""

    name, dt, horizon = "fake", ROBOT.dt, ROBOT.horizon

    def __init__(self):
        self.answer = lambda obs, prefix, cancel: ramp()
        self.requests = []
        self.resets = 0

    def warm_up(self):
        pass

    def reset(self):
        self.resets += 1

    def infer(self, obs, *, prefix=None, deadline=None, cancel=None):
        self.requests.append((obs, prefix))
        return Result(np.array(self.answer(obs, prefix, cancel), float), "creep", 0.5)


class Bench:
    """A loop on a node's clock that is the steady one here, ticked by a thread as the node's timer would."""

    def __init__(self, replan=0.0, **options):
        self.policy = FakePolicy()
        self.chunks = []
        self.changes = []
        self.ladder = Ladder([("fake", self.policy)], ROBOT, **options)
        self.loop = PolicyLoop(self.ladder, ROBOT, send=self.chunks.append, now=time.monotonic, replan=replan,
                               changed=lambda: self.changes.append(self.loop.status))
        self.loop.start()
        self._done = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)
        self._ticker.start()

    def _tick(self):
        while not self._done.wait(0.01):
            self.loop.tick()

    def close(self):
        self._done.set()
        self._ticker.join()
        return self.loop.close()

    def instruct(self, task="one", prompt="creep", lease=30.0, **more):
        self.loop.instruct(Task(task, prompt, time.monotonic() + lease, **more))

    def observe(self, state=None, age=0.0):
        stamp = time.monotonic() - age
        self.loop.observe(Observation({}, ROBOT.home if state is None else state, "", stamp), age)
        return stamp

    def wait(self, condition, limit=3.0):
        end = time.monotonic() + limit
        while not condition():
            assert time.monotonic() < end, f"not within {limit} s; status: {self.loop.status}"
            time.sleep(0.002)

    def next_chunk(self):
        count = len(self.chunks)
        stamp = self.observe()
        self.wait(lambda: len(self.chunks) > count)
        return stamp, self.chunks[count]


@pytest.fixture
def bench():
    made = []

    def make(**options):
        made.append(Bench(**options))
        return made[-1]

    yield make
    for one in made:
        one.close()


# ---------------------------------------------------------------------------------------------------- committed rows


def commit(chunk, stamp, until, state, task="one"):
    return committed(chunk, task, stamp=stamp, until=until, state=state, robot=ROBOT)


def last(stamp=10.0, observed=10.0, rows=None):
    return Chunk(stamp, ramp() if rows is None else rows, "one", observed)


def test_nothing_is_committed_without_a_last_chunk():
    assert commit(None, 10.0, 10.1, ROBOT.home) is None
    assert commit(last(rows=np.empty((0, A))), 10.0, 10.1, ROBOT.home) is None


def test_committed_rows_are_those_of_the_last_chunk_on_its_own_time_grid():
    stamp, prefix = commit(last(), 10.105, 10.19, ROBOT.home)
    assert stamp == pytest.approx(10.12)  # the first row at or after the observation
    np.testing.assert_array_equal(prefix.rows, ramp()[6:10])  # until 10.19: rows due at .12 .14 .16 .18


def test_a_chunk_that_is_yet_to_begin_is_gone_on_from():
    stamp, prefix = commit(last(stamp=10.12), 10.02, 10.08, ROBOT.home)
    assert stamp == 10.12 and len(prefix.rows) == 1


def test_rows_beyond_max_blind_are_not_committed():
    stamp, prefix = commit(last(), 10.75, 10.95, ramp()[37])
    assert stamp == pytest.approx(10.76) and len(prefix.rows) == 3  # 10.76, 10.78, 10.80


def test_another_task_commits_nothing():
    assert commit(last(), 10.1, 10.2, ROBOT.home, task="two") is None


def test_a_plan_that_has_run_out_commits_nothing():
    assert commit(last(), 11.5, 11.6, ROBOT.home) is None


def test_a_clock_that_jumped_back_commits_nothing():
    assert commit(last(), 5.0, 5.1, ROBOT.home) is None


def test_a_robot_that_does_not_follow_is_planned_for_from_where_it_is():
    fast = ramp(speed=0.02)  # after 30 rows 0.6 rad away
    assert commit(last(rows=fast), 10.6, 10.7, ROBOT.home) is None
    lagging = fast[24]  # 0.12 s behind
    _, prefix = commit(last(rows=fast), 10.6, 10.7, np.where(ROBOT.is_base, 0.0, lagging))
    assert prefix is not None


def test_a_gripper_on_a_block_does_not_count_as_not_following():
    state = ROBOT.home - 0.9 * ROBOT.is_gripper
    assert commit(last(), 10.1, 10.2, state) is not None


# ----------------------------------------------------------------------------------------------------------- the loop


def test_the_first_chunk_begins_when_it_is_there_and_the_next_goes_on_from_it(bench):
    bench = bench()
    bench.instruct()
    stamp, first = bench.next_chunk()
    assert (first.observed, first.task, first.fixed) == (stamp, "one", 0)
    assert TRANSPORT <= first.stamp - stamp < 0.1
    bench.wait(lambda: time.monotonic() > first.stamp)
    bench.policy.answer = lambda obs, prefix, cancel: ramp(start=0.05)
    stamp, second = bench.next_chunk()
    shift = (second.stamp - first.stamp) / ROBOT.dt
    assert shift == pytest.approx(round(shift), abs=1e-6) and 0 <= second.stamp - stamp < ROBOT.dt + 1e-6
    assert second.fixed > 0 and second.sequence > first.sequence
    k = round(shift)
    np.testing.assert_array_equal(second.rows[: second.fixed], first.rows[k : k + second.fixed])
    np.testing.assert_array_equal(second.rows[second.fixed :], ramp(start=0.05)[second.fixed :])
    assert bench.loop.status.state == State.RUNNING and bench.loop.status.subtask == "creep"


def test_a_first_chunk_is_due_when_it_is_there_however_long_that_took(bench):
    bench = bench()
    bench.policy.answer = lambda *_: time.sleep(0.25) or ramp()
    bench.instruct()
    stamp, first = bench.next_chunk()
    assert first.observed == stamp and 0.25 < first.stamp - stamp < 0.45, "the robot rests: it is to miss no row"


def test_the_newest_observation_wins(bench):
    bench = bench()
    gate = threading.Event()
    bench.policy.answer = lambda *_: gate.wait(3) and ramp()
    bench.instruct()
    bench.observe()
    bench.wait(lambda: len(bench.policy.requests) == 1)
    bench.observe()
    newest = bench.observe()
    gate.set()
    bench.wait(lambda: len(bench.chunks) == 2)
    assert [request[0].stamp for request in bench.policy.requests[1:]] == [newest]


def test_it_is_asked_no_sooner_than_told_but_for_other_words_or_after_a_failure(bench):
    b = bench(replan=0.3)
    b.instruct()
    first, _ = b.next_chunk()
    begun = time.monotonic()
    while len(b.policy.requests) == 1:  # observations come all the time
        assert time.monotonic() - begun < 3.0
        b.observe()
        time.sleep(0.02)
    second = b.policy.requests[1][0].stamp
    assert 0.25 < second - first
    asked = len(b.policy.requests)
    b.instruct(prompt="creep back")
    b.wait(lambda: len(b.policy.requests) > asked, 0.2)
    asked, b.policy.answer = len(b.policy.requests), lambda *_: 1 / 0
    time.sleep(0.31)
    b.observe()
    b.wait(lambda: len(b.policy.requests) > asked, 0.2)
    b.observe()
    b.wait(lambda: len(b.policy.requests) > asked + 1, 0.2)


def test_nothing_is_thought_without_an_instruction(bench):
    bench = bench()
    bench.observe()
    bench.instruct()
    bench.wait(lambda: bench.chunks)  # the observation is fresh: it serves
    bench.loop.instruct(None)
    count = len(bench.policy.requests)
    bench.observe()
    assert bench.loop.status.state == State.IDLE and bench.loop.status.code == Code.NO_INSTRUCTION
    assert len(bench.policy.requests) == count


def test_an_instruction_that_is_not_renewed_ends(bench):
    bench = bench()
    bench.instruct(lease=0.05)
    bench.wait(lambda: bench.loop.status.code == Code.NO_INSTRUCTION and "not renewed" in bench.loop.status.cause)


def test_blind_means_empty_chunks_and_the_cause(bench):
    bench = bench()
    bench.instruct()
    bench.next_chunk()
    seen = time.monotonic()
    bench.loop.lack(Code.CAMERA_INVALID, "front_camera: frozen")
    bench.wait(lambda: len(bench.chunks[-1].rows) == 0, limit=1.0)
    assert FRESH - 0.02 < time.monotonic() - seen < FRESH + 0.1
    status = bench.loop.status
    assert (status.state, status.code) == (State.BLIND, Code.CAMERA_INVALID) and "frozen" in status.cause
    assert bench.chunks[-1].task == "one"
    bench.next_chunk()
    assert bench.loop.status.state == State.RUNNING and bench.chunks[-1].fixed == 0  # sight is back: from rest


def test_an_observation_that_arrives_old_is_none(bench):
    bench = bench()
    bench.instruct()
    bench.observe(age=0.5)
    bench.wait(lambda: bench.loop.status.state == State.BLIND)
    assert not bench.policy.requests


def test_what_was_thought_out_while_the_eyes_died_is_not_sent_after_the_request_to_rest(bench):
    bench = bench()
    begun, go = threading.Event(), threading.Event()

    def slow(*_):
        begun.set()
        assert go.wait(3)
        return ramp()

    bench.policy.answer = slow
    bench.instruct()
    bench.observe()
    assert begun.wait(3)
    bench.wait(lambda: bench.loop.status.state == State.BLIND)
    go.set()
    bench.wait(lambda: not bench.ladder.rungs[0].busy)
    assert bench.chunks and not any(len(chunk.rows) for chunk in bench.chunks)
    bench.policy.answer = lambda *_: ramp()
    bench.observe()
    bench.wait(lambda: len(bench.chunks[-1].rows))


def test_a_policy_that_cannot_forget_fails_and_is_asked_again(bench):
    bench = bench()
    forget = bench.policy.reset

    def fail():
        raise RuntimeError("no memory to lose")

    bench.policy.reset = fail
    bench.instruct()
    bench.observe()
    bench.wait(lambda: bench.loop.status.state == State.FAILED)
    assert "no memory to lose" in bench.loop.status.cause and not bench.policy.requests
    bench.policy.reset = forget
    bench.next_chunk()
    assert bench.policy.resets == 1


def test_a_new_instruction_discards_what_is_being_thought_out(bench):
    bench = bench()
    begun, cancelled = threading.Event(), threading.Event()

    def slow(obs, prefix, cancel):
        if obs.prompt == "old":
            begun.set()
            assert cancel.wait(3)
            cancelled.set()
        return ramp()

    bench.policy.answer = slow
    bench.instruct("one", "old")
    bench.observe()
    assert begun.wait(3)
    bench.instruct("two", "new")
    bench.observe()
    bench.wait(lambda: bench.chunks)
    assert cancelled.is_set() and [chunk.task for chunk in bench.chunks] == ["two"]
    assert bench.policy.resets == 2  # one for each task


def test_another_task_begins_from_rest(bench):
    bench = bench()
    bench.instruct("one", "some words")
    bench.next_chunk()
    bench.instruct("two", "other words")
    _, chunk = bench.next_chunk()
    assert chunk.task == "two" and chunk.fixed == 0 and bench.policy.resets == 2


@pytest.mark.parametrize("change, resets", [({"prompt": "other words"}, 1), ({"subtask": "the next step"}, 1),
                                            ({"attempt": 1}, 2)])
def test_another_step_discards_the_old_chunk_beyond_its_committed_rows(bench, change, resets):
    bench = bench()
    bench.instruct()
    _, first = bench.next_chunk()
    gate = threading.Event()
    bench.policy.answer = lambda *_: gate.wait(3) and ramp()
    bench.instruct(**change)
    bench.wait(lambda: len(bench.chunks) == 2)  # at once, whatever the policy does
    shorter = bench.chunks[1]
    assert shorter.stamp == first.stamp and shorter.sequence > first.sequence and shorter.task == "one"
    assert 0 < len(shorter.rows) < 20
    np.testing.assert_array_equal(shorter.rows, first.rows[: len(shorter.rows)])
    gate.set()
    bench.wait(lambda: len(bench.chunks) == 3)  # without a new observation: the newest one is thought about again
    obs, prefix = bench.policy.requests[-1]
    assert (obs.prompt, obs.subtask) == (change.get("subtask") or change.get("prompt", "creep"), change.get("subtask", ""))
    assert prefix is not None and len(prefix.planned) <= 2 and bench.policy.resets == resets  # the stamps differ
    third = bench.chunks[2]
    k = round((third.stamp - first.stamp) / ROBOT.dt)
    np.testing.assert_array_equal(third.rows[: third.fixed], first.rows[k: k + third.fixed])


def test_a_policy_that_takes_steps_gets_both(bench):
    bench = bench()
    bench.policy.takes_subtask = True
    bench.instruct(prompt="clear the table", subtask="pick up the red block")
    bench.next_chunk()
    obs, _ = bench.policy.requests[-1]
    assert (obs.prompt, obs.subtask) == ("clear the table", "pick up the red block")


def test_a_renewal_changes_nothing(bench):
    bench = bench()
    bench.instruct()
    bench.next_chunk()
    bench.instruct()
    bench.next_chunk()
    assert len(bench.chunks) == 2 and bench.policy.resets == 1


def test_cutting_a_chunk_short():
    chunk = last()
    assert len(cut(chunk, 10.1, ROBOT.dt).rows) == 5
    assert cut(chunk, 9.9, ROBOT.dt) is None and cut(chunk, 20.0, ROBOT.dt) is None


def test_words_that_the_policy_does_not_know_are_refused(bench):
    bench = bench()
    bench.policy.unknown = lambda text: tuple(word for word in text.split() if word == "zorp")
    bench.policy.understood = "creep and crawl"
    bench.instruct(prompt="zorp the creep")
    bench.observe()
    bench.wait(lambda: bench.loop.status.code == Code.WORDS_UNKNOWN)
    status = bench.loop.status
    assert status.state == State.FAILED and status.task == "one" and "'zorp'" in status.cause
    assert "creep and crawl" in status.cause and not bench.policy.requests
    bench.instruct(subtask="zorp")
    bench.observe()
    bench.instruct("two")
    bench.next_chunk()
    assert bench.loop.status.state == State.RUNNING and not any(chunk.task == "one" for chunk in bench.chunks)


def test_the_delay_is_that_of_rows_really_consumed(bench):
    bench = bench()
    bench.policy.answer = lambda *_: time.sleep(0.1) or ramp()
    bench.instruct()
    for _ in range(6):
        bench.next_chunk()
    assert 5 <= bench.ladder.rungs[0].delays.estimate() <= 12  # 0.1 s of thinking; a busy machine adds to it
    assert bench.chunks[-1].fixed >= 5
    bench.policy.answer = lambda *_: ramp()
    for _ in range(20):
        bench.next_chunk()
    assert bench.ladder.rungs[0].delays.estimate() <= 3  # forgotten


@pytest.mark.parametrize("error, code", [
    (ValueError("odd shape"), Code.EXCEPTION), (DeadlineExceeded("too slow"), Code.DEADLINE_MISSED),
    (MemoryError(), Code.OUT_OF_MEMORY), (ConnectionError("reset by peer"), Code.LINK_DOWN),
])  # fmt: skip
def test_failures_are_named_and_survived(bench, error, code):
    bench = bench()

    def fail(*_):
        raise error

    bench.policy.answer = fail
    bench.instruct()
    bench.observe()
    bench.wait(lambda: bench.loop.status.state == State.FAILED)
    assert bench.loop.status.code == code and bench.loop.status.failures == 1 and bench.loop.status.cause
    assert (bench.loop.status.source, bench.loop.status.rung) == ("hold", 1)
    assert not bench.chunks
    bench.policy.answer = lambda *_: ramp()
    bench.next_chunk()
    assert bench.loop.status.state == State.RUNNING


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_never_sent(bench, bad):
    bench = bench()
    rows = ramp()
    rows[17, 3] = bad
    bench.policy.answer = lambda *_: rows
    bench.instruct()
    bench.observe()
    bench.wait(lambda: bench.loop.status.code == Code.NOT_FINITE)
    assert not bench.chunks


def test_a_wrong_shape_is_never_sent(bench):
    bench = bench()
    bench.policy.answer = lambda *_: np.zeros((50, A + 1))
    bench.instruct()
    bench.observe()
    bench.wait(lambda: bench.loop.status.code == Code.EXCEPTION)
    assert not bench.chunks


def test_a_policy_that_hangs_is_named_while_it_hangs(bench):
    bench = bench(deadline=0.1)
    gate = threading.Event()
    bench.policy.answer = lambda *_: gate.wait(3) and ramp()
    bench.instruct()
    bench.observe()
    bench.wait(lambda: bench.loop.status.code == Code.DEADLINE_MISSED, limit=1.0)
    gate.set()
    bench.next_chunk()
    assert len(bench.chunks) == 1  # the late one went nowhere


def test_closing_asks_for_rest(bench):
    bench = bench()
    bench.instruct()
    bench.next_chunk()
    assert bench.close()
    assert len(bench.chunks[-1].rows) == 0


def test_closing_waits_for_no_policy(bench):
    bench = bench(deadline=60.0)
    gate = threading.Event()
    bench.policy.answer = lambda *_: gate.wait(10) and ramp()
    bench.instruct()
    bench.observe()
    bench.wait(lambda: bench.policy.requests)
    begin = time.monotonic()
    assert not bench.close()
    assert time.monotonic() - begin < 1.0 and len(bench.chunks[-1].rows) == 0
    gate.set()
    assert bench.ladder.close() == []
