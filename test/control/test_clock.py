"""The time line that neither stops nor jumps, and the judgement of other people's stamps."""

from __future__ import annotations

import numpy as np
import pytest

from pi_policy_node.control.clock import LEAD, MotionClock, StampWatch

SECOND = 1_000_000_000
EPOCH = 1_700_000_000 * SECOND


def test_time_goes_with_the_nodes_clock_and_starts_with_it():
    clock = MotionClock()
    assert clock.advance(0, 5.0) == "" and not clock.started
    clock.advance(EPOCH, 6.0)
    assert clock.advance(EPOCH + SECOND // 2, 6.5) == "" and clock.time == pytest.approx(0.5)
    assert clock.at(EPOCH + 2 * SECOND) == pytest.approx(2.0)


@pytest.mark.parametrize("jump, word", [(-3.0, "back"), (7.0, "ahead")])
def test_a_jump_is_named_and_bridged_with_the_steady_clock(jump, word):
    clock = MotionClock()
    clock.advance(EPOCH, 0.0)
    clock.advance(EPOCH + SECOND, 1.0)
    assert word in clock.advance(EPOCH + round((1.02 + jump) * SECOND), 1.02)
    assert clock.time == pytest.approx(1.02)
    assert clock.advance(EPOCH + round((1.04 + jump) * SECOND), 1.04) == ""
    assert clock.time == pytest.approx(1.04)
    assert clock.at(EPOCH + round((1.04 + jump) * SECOND)) == pytest.approx(1.04)


def test_a_clock_that_stands_is_named_and_time_goes_on():
    clock = MotionClock()
    for tick in range(50):
        problem = clock.advance(EPOCH, 0.02 * tick)
        assert bool(problem) == (0.02 * tick > 0.5)
    assert 0.4 < clock.time < 0.55 and clock.stopped
    clock.advance(EPOCH + SECOND // 100, 1.0)
    assert not clock.stopped


def test_small_corrections_backwards_are_no_jump_and_time_never_goes_back():
    clock = MotionClock()
    clock.advance(EPOCH, 0.0)
    clock.advance(EPOCH + SECOND, 1.0)
    assert clock.advance(EPOCH + SECOND - 5_000_000, 1.001) == "" and 1.0 <= clock.time < 1.001


def test_between_the_words_of_a_simulated_clock_time_goes_on_evenly():
    """100 words a second, each 1 to 9 ms late: the time line is even to 1 ms, and on the earliest ones."""
    random = np.random.default_rng(0)
    words = [(0.01 * k + random.uniform(0.001, 0.009), 0.01 * k) for k in range(1, 300)]  # (arrival, what it says)
    clock, errors, said = MotionClock(), [], 0.0
    clock.advance(EPOCH, 0.0)
    for tick in range(1, 1400):
        steady = 0.002 * tick
        said = max([said, *(value for arrival, value in words if steady - 0.002 < arrival <= steady)])
        assert clock.advance(EPOCH + round(said * SECOND), steady) == ""
        errors.append(clock.time - steady)
    late = np.array(errors[400:])
    assert np.ptp(late) < 0.004 and np.diff(late).std() < 2e-4 and -0.005 < late.mean() < 0.0


def test_a_clock_that_pauses_does_not_run_away():
    clock = MotionClock()
    clock.advance(EPOCH, 0.0)
    clock.advance(EPOCH + SECOND, 1.0)
    for tick in range(20):
        clock.advance(EPOCH + SECOND, 1.0 + 0.02 * tick)
    assert clock.time == pytest.approx(1.0 + LEAD)
    clock.advance(EPOCH + SECOND + 20_000_000, 1.4)
    assert 1.0 + LEAD <= clock.time <= 1.02 + LEAD  # never back


@pytest.mark.parametrize("ages, disagreement", [
    ([0.001] * 100, None), ([0.03] * 100, 0.03), ([-0.03] * 100, -0.03), ([0.5] * 99 + [0.01], None), ([0.03] * 5, None),
])
def test_stamps_are_judged_by_the_best_of_a_while(ages, disagreement):
    watch = StampWatch(0.02)
    for tick, age in enumerate(ages):
        watch.add(age, 0.01 * tick)
    assert watch.disagreement() == disagreement
