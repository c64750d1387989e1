"""The fallback ladder: down within one chunk, up again when it is healthy, without a jump, and every failure named."""

import math
import threading
import time

import numpy as np
import pytest
from remote_helpers import Echo

from pi_policy_node.policy.base import DeadlineExceeded, Observation, PolicyError, Prefix, Result
from pi_policy_node.policy.ladder import CLIMB_ANSWERS, Answer, Ladder, Question, Rung, Task
from pi_policy_node.policy.loop import PolicyLoop
from pi_policy_node.policy.registry import split
from pi_policy_node.policy.remote.client import RemotePolicy
from pi_policy_node.policy.remote.server import Server, ServerThread
from pi_policy_node.policy.status import Code, State
from pi_policy_node.robot import load_robot

ROBOT = load_robot("pi_mobile")
CLIMB = 0.4  # s, here
RATE = 0.02  # s between observations


class Straight:
    """Goes on from the last committed row at a speed of its own; fails as `failure` says."""

    dt, horizon = ROBOT.dt, ROBOT.horizon

    def __init__(self, speed):
        self.speed = speed
        self.failure = None  # called before every answer
        self.seen = []

    def warm_up(self):
        pass

    def infer(self, obs, *, prefix: Prefix | None = None, deadline=None, cancel=None):
        self.seen.append((obs, prefix))
        if self.failure is not None:
            self.failure()
        fixed = np.asarray(obs.state)[None] if prefix is None else prefix.rows
        steps = np.arange(1, self.horizon - len(fixed) + 1)[:, None]
        rows = np.concatenate([fixed, fixed[-1] + self.speed * steps * ~ROBOT.is_base])
        return Result(rows, subtask=f"at {self.speed:g}", progress=0.5)


class Bench:
    """A ladder that is observed at 50 Hz by a robot that does exactly what it is told."""

    def __init__(self, *policies, patience=0.15, climb=CLIMB):
        self.ladder = Ladder(list(policies), ROBOT, step_down=patience, climb_after=climb)
        self.chunks, self.statuses = [], []
        self.loop = PolicyLoop(self.ladder, ROBOT, send=self.chunks.append, now=time.monotonic,
                               changed=lambda: self.statuses.append(self.loop.status))
        self.played = []  # (time, row)
        self.loop.start()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._observe, daemon=True)
        self._thread.start()

    def _observe(self):
        while not self._done.wait(RATE):
            now = time.monotonic()
            state = self.row(now)
            self.played.append((now, state))
            self.loop.observe(Observation({}, state, "", now), 0.0)
            self.loop.tick()

    def row(self, when):
        """What is commanded at a time: the newest chunk that has begun by then."""
        for chunk in reversed(self.chunks):
            if len(chunk.rows) and chunk.stamp <= when:
                return chunk.rows[min(int((when - chunk.stamp) / ROBOT.dt), len(chunk.rows) - 1)]
        return ROBOT.home.copy()

    def instruct(self, prompt="go", task="one"):
        self.loop.instruct(Task(task, prompt, time.monotonic() + 60))

    def wait(self, condition, limit=8.0, what=""):
        end = time.monotonic() + limit
        while not condition():
            assert time.monotonic() < end, f"{what} not within {limit} s: {self.loop.status}"
            time.sleep(0.005)

    def on(self, name, limit=8.0):
        self.wait(lambda: self.loop.status.source == name and self.loop.status.state == State.RUNNING, limit, name)

    def close(self):
        self._done.set()
        self._thread.join()
        self.loop.close()
        self.ladder.close()


@pytest.fixture
def make():
    benches = []

    def start(*policies, **options):
        benches.append(Bench(*policies, **options))
        return benches[-1]

    yield start
    for bench in benches:
        bench.close()


def raises(error):
    def failure():
        raise error
    return failure


def no_jump(bench):
    """Rows of consecutive chunks agree where the second is committed; nothing that is played jumps."""
    good = [chunk for chunk in bench.chunks if len(chunk.rows)]
    for old, new in zip(good, good[1:]):
        k = round((new.stamp - old.stamp) / ROBOT.dt)
        assert new.fixed > 0 and k >= 0
        count = min(new.fixed, len(old.rows) - k)
        np.testing.assert_allclose(new.rows[:count], old.rows[k: k + count], atol=1e-9)
    rows = np.array([row for _, row in bench.played])
    assert np.abs(np.diff(rows, axis=0)).max() < 0.05  # a change of rungs from elsewhere would be 1


@pytest.mark.parametrize("error, code, words", [
    (ValueError("odd"), Code.EXCEPTION, "odd"), (MemoryError("full"), Code.OUT_OF_MEMORY, "full"),
    (DeadlineExceeded("too slow"), Code.DEADLINE_MISSED, "too slow"),
    (ConnectionError("cut"), Code.LINK_DOWN, "cut"),
])  # fmt: skip
def test_a_failure_hands_over_at_once_and_is_named(make, error, code, words):
    above, below = Straight(0.0005), Straight(0.001)
    bench = make(("above", above), ("below", below))
    bench.instruct()
    bench.on("above")
    above.failure = raises(error)
    bench.on("below")
    status = bench.loop.status
    assert (status.rung, status.code) == (1, code) and words in status.cause and status.failures >= 1
    assert all(len(chunk.rows) for chunk in bench.chunks)  # nobody was asked to rest
    above.failure = None
    bench.on("above")
    assert (bench.loop.status.rung, bench.loop.status.code) == (0, Code.OK)
    bench.wait(lambda: bench.chunks[-1].source == "above")
    no_jump(bench)


def test_not_finite_rows_hand_over(make):
    above, below = Straight(0.0005), Straight(0.001)
    bench = make(("above", above), ("below", below))
    bench.instruct()
    bench.on("above")
    above.speed = math.nan
    bench.on("below")
    assert bench.loop.status.code == Code.NOT_FINITE


def test_a_stall_hands_over_within_the_plan_in_force(make):
    above, below = Straight(0.0005), Straight(0.001)
    bench = make(("above", above), ("below", below))
    bench.instruct()
    bench.on("above")
    bench.wait(lambda: len(bench.chunks) > 5)
    gate = threading.Event()
    above.failure = lambda: gate.wait(10)
    bench.on("below")
    first = next(chunk for chunk in bench.chunks if chunk.source == "below")
    last = [chunk for chunk in bench.chunks if chunk.source == "above"][-1]
    assert first.observed < last.observed + ROBOT.max_blind, "the plan had run out"
    assert first.fixed > 0
    asked = len(above.seen)
    bench.wait(lambda: sum(chunk.source == "below" for chunk in bench.chunks) > 10)
    assert len(above.seen) == asked  # who hangs is not asked again
    gate.set()
    bench.on("above")
    no_jump(bench)


def test_it_climbs_only_when_it_has_been_well_for_a_while(make):
    above, below = Straight(0.0005), Straight(0.001)
    bench = make(("above", above), ("below", below), climb=1.0)
    bench.instruct()
    bench.on("above")
    above.failure = raises(ValueError("odd"))
    bench.on("below")
    above.failure = None
    well = time.monotonic()
    asked = len(above.seen)
    bench.on("above")
    assert time.monotonic() - well > 1.0 and len(above.seen) - asked >= CLIMB_ANSWERS


def test_answers_that_are_late_on_the_side_do_not_count(make):
    above, below = Straight(0.0005), Straight(0.001)
    above.failure = lambda: time.sleep(0.3)
    bench = make(("above", above), ("below", below), climb=0.1)
    bench.instruct()
    bench.on("below")
    asked = len(above.seen)
    bench.wait(lambda: len(above.seen) >= asked + 3, limit=15)
    assert all(chunk.source == "below" for chunk in bench.chunks)


def test_below_the_last_rung_it_holds_and_says_so(make):
    above, below = Straight(0.0005), Straight(0.001)
    bench = make(("above", above), ("below", below))
    above.failure = below.failure = raises(ValueError("odd"))
    bench.instruct()
    bench.wait(lambda: bench.loop.status.state == State.FAILED)
    status = bench.loop.status
    assert (status.source, status.rung, status.code) == ("hold", 2, Code.EXCEPTION) and not bench.chunks
    below.failure = None
    bench.on("below")
    above.failure = None
    bench.on("above")


def test_another_task_begins_at_the_top(make):
    above, below = Straight(0.0005), Straight(0.001)
    bench = make(("above", above), ("below", below), climb=600.0)
    above.failure = raises(ValueError("odd"))
    bench.instruct()
    bench.on("below")
    above.failure = None
    bench.instruct(task="two")
    bench.on("above")


def test_words_that_only_the_lower_rung_knows(make):
    above, below = Straight(0.0005), Straight(0.001)
    above.unknown = lambda text: tuple(text.split()) if "zorp" in text else ()
    bench = make(("above", above), ("below", below), climb=0.1)
    bench.instruct("zorp it")
    bench.on("below")
    bench.wait(lambda: len(bench.chunks) > 20)
    assert not above.seen and bench.loop.status.code == Code.WORDS_UNKNOWN
    bench.instruct("go on")
    bench.on("above")


def test_every_rung_forgets_the_task_before(make):
    above, below = Straight(0.0005), Straight(0.001)
    resets = {"above": 0, "below": 0}
    above.reset = lambda: resets.__setitem__("above", resets["above"] + 1)
    below.reset = lambda: resets.__setitem__("below", resets["below"] + 1)
    bench = make(("above", above), ("below", below))
    bench.instruct()
    bench.on("above")
    above.failure = raises(ValueError("odd"))
    bench.on("below")
    assert resets == {"above": 1, "below": 1}


@pytest.mark.parametrize("fails", [False, True])
def test_what_can_wait_is_done_once_the_answer_is_out(fails):
    policy, order, done = Straight(0.1), [], threading.Semaphore(0)

    def afterwards():
        order.append("waits")
        done.release()
        if fails:
            raise RuntimeError("the next answer meets it")

    policy.afterwards = afterwards
    rung = Rung("only", policy, ROBOT, 1.0)
    look = Observation({}, ROBOT.home, "", time.monotonic())
    for n in range(3):
        answer = Answer()
        rung.ask(Question(Task("one", "go", time.monotonic() + 60), look, None, time.monotonic() + 5), answer,
                 lambda answer: order.append("out"))
        assert done.acquire(timeout=5) and answer.error is None and answer.result.progress == 0.5
    assert order == ["out", "waits"] * 3 and rung.close(5)


def test_a_link_that_is_cut_and_healed(make):
    echo = Echo()
    echo.infer = Straight(0.0005).infer
    server = Server(echo, ROBOT, host="127.0.0.1", port=0)
    thread = ServerThread(server)
    port = thread.__enter__()
    remote = RemotePolicy(ROBOT, url=f"ws://127.0.0.1:{port}")
    try:
        remote.warm_up()
        bench = make(("remote", remote), ("below", Straight(0.001)))
        bench.instruct()
        bench.on("remote")
        thread.__exit__()
        bench.on("below")
        assert bench.loop.status.rung == 1
        bench.wait(lambda: bench.loop.status.code in (Code.LINK_DOWN, Code.DEADLINE_MISSED))
        thread = ServerThread(Server(echo, ROBOT, host="127.0.0.1", port=port))
        thread.__enter__()
        bench.on("remote", limit=20)
        no_jump(bench)
    finally:
        remote.close()
        thread.__exit__()


@pytest.mark.parametrize("names", ["", "mini,", "scripted,scripted", "sing", "remote,sing"])
def test_names_that_make_no_ladder(names):
    with pytest.raises(PolicyError):
        split(names)


def test_names_that_make_one():
    assert split("remote, scripted") == ["remote", "scripted"]
