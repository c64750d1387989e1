"""When a policy is asked, and what of its answers is played meanwhile, in each mode."""

from __future__ import annotations

import numpy as np
import pytest

from pi_policy_node.learn.evaluate_modes import Ensemble, Rtc, Sync
from pi_policy_node.robot import load_robot

ROBOT = load_robot("pi_mobile")
HOME = np.r_[0.0, ROBOT.home[1:]]  # its first column counts from here


def chunk(start: float, count: int = 50) -> np.ndarray:
    """Rows whose first column counts on from `start`."""
    rows = np.tile(HOME, (count, 1))
    rows[:, 0] = start + 0.001 * np.arange(count)
    return rows


def test_rtc_gives_the_rows_that_run_meanwhile_and_plays_on():
    feed = Rtc(ROBOT, replan=10, delay=0.1)
    assert feed.due(0, resting=True) and feed.ask(0, HOME) is None
    first = feed.answer(5, chunk(0.0))
    assert first.stamp == pytest.approx(0.1) and first.observed == 0.0, "due when it is there"
    assert not feed.due(9, resting=False) and feed.due(10, resting=False)
    prefix = feed.ask(10, chunk(0.0)[5])
    assert prefix.rows[:, 0] == pytest.approx(0.005 + 0.001 * np.arange(6))  # 5 of delay, one of transport
    second = feed.answer(15, chunk(0.5))
    assert second.stamp == pytest.approx(0.2), "its row 0 was due at the look"


def test_rtc_asks_at_once_where_nothing_is_left_to_be_played():
    feed = Rtc(ROBOT, replan=1000, delay=0.0)
    feed.ask(0, HOME)
    feed.answer(0, chunk(0.0, 20))
    assert not feed.due(19, resting=False) and feed.due(20, resting=False)
    feed.ask(20, HOME)
    feed.answer(20, chunk(0.0))
    seen = round(ROBOT.max_blind / ROBOT.dt)
    assert not feed.due(20 + seen, resting=False) and feed.due(21 + seen, resting=False), "no eyes for so long"


def test_a_longer_delay_than_before_is_learnt():
    feed = Rtc(ROBOT, replan=5, delay=0.0)
    lengths = []
    for n in (0, 10, 20, 30):
        prefix = feed.ask(n, HOME)
        lengths.append(0 if prefix is None else len(prefix.rows))
        feed.answer(n + 8, chunk(0.0))
    assert lengths[1:] == [9, 9, 9]


def test_sync_stands_still_until_the_answer_is_there():
    feed = Sync(ROBOT, replan=4, delay=0.1)
    assert feed.due(0, resting=True) and feed.ask(0, HOME) is None
    played = feed.answer(5, chunk(0.0))
    assert played.stamp == pytest.approx(0.1) and played.observed == 0.0
    assert played.rows[:, 0] == pytest.approx([0.0, 0.001, 0.002, 0.003])
    assert not feed.due(8, resting=False) and not feed.due(9, resting=False) and feed.due(12, resting=True)


def test_ensemble_averages_what_was_said_of_a_row():
    feed = Ensemble(ROBOT, replan=5, delay=0.0)
    feed.ask(0, HOME)
    feed.answer(0, chunk(0.0))
    feed.ask(5, HOME)
    mean = feed.answer(5, chunk(0.105))  # says 0.1 more of each row than the one before did
    assert mean.rows[1, 0] == pytest.approx(0.006 + 0.05, abs=0.001)
