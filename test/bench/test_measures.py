"""The arithmetic of the benches, on data whose figures are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pi_policy_node.bench import measures

TIMES = np.arange(0, 4, 0.004)
POSITIONS = np.stack([np.sin(TIMES), 0.3 * np.cos(2 * TIMES)], axis=1)
VELOCITIES = np.stack([np.cos(TIMES), -0.6 * np.sin(2 * TIMES)], axis=1)
LIMIT = np.array([2.0, 2.0])


def test_percentiles():
    got = measures.percentiles(range(101), scale=0.1)
    assert got == {"n": 101, "p50": pytest.approx(5.0), "p99": pytest.approx(9.9), "max": pytest.approx(10.0)}
    nothing = measures.percentiles([])
    assert nothing["n"] == 0 and math.isnan(nothing["p99"])


def test_a_set_is_complete_when_every_camera_has_it_and_arrives_with_its_last_image():
    arrivals = {"a": {1: 10, 2: 20, 3: 30}, "b": {1: 11, 3: 29, 4: 41}}
    assert measures.complete_sets(arrivals) == {1: 11, 3: 30}
    assert measures.complete_sets({}) == {}


def test_the_last_arrival_of_a_set_that_was_not_seen_whole_is_unknown():
    arrivals = {"a": {1: 10, 2: 20}, "b": {1: 12}}
    used = [{"a": 1, "b": 1}, {"a": 2, "b": 1}, {"a": 2, "b": 2}, {"a": 2}, {}]
    assert measures.last_arrivals(arrivals, used) == [12, 20, None, 20, None]


def test_what_comes_next_after_each_event():
    assert measures.next_after([5, 10, 11, 40], [1, 10, 15, 30]) == [5, 0, 4]


def test_how_long_a_picture_takes_to_become_a_command():
    chunks = [(100, 30), (200, 52), (300, 55), (400, 90)]  # planned from what, sent when
    assert measures.answers({100: 20, 300: 41, 400: 80}, chunks, [10, 31, 56, 60]) == [11, 15], (
        "not of what nobody saw, nor of what nothing followed")
    assert measures.answers({100: 20}, chunks, []) == []


def test_a_smooth_reference_has_no_jumps():
    assert len(measures.jumps(TIMES, POSITIONS, VELOCITIES, LIMIT, period=0.0)) == 0
    assert len(measures.velocity_jumps(TIMES, VELOCITIES, LIMIT)) == 0


@pytest.mark.parametrize("size", [0.001, -0.1])
def test_a_step_in_position_is_a_jump(size):
    positions = POSITIONS.copy()
    positions[500:, 1] += size
    assert len(measures.jumps(TIMES, positions, VELOCITIES, LIMIT, period=0.0)) == 1


@pytest.mark.parametrize("periods, jumps", [(1.0, 0), (2.0, 1)])
def test_a_new_trajectory_may_begin_one_update_late_but_not_two(periods, jumps):
    fast = 100 + int(np.argmax(np.abs(VELOCITIES[100:, 0])))
    positions = POSITIONS.copy()
    positions[fast:] += periods * 0.002 * VELOCITIES[fast]
    assert len(measures.jumps(TIMES, positions, VELOCITIES, LIMIT, period=0.002)) == jumps


def test_a_step_in_velocity_is_a_jump_unless_it_is_what_a_held_command_brings():
    velocities = VELOCITIES.copy()
    velocities[500:, 0] += 0.03  # at 2 rad/s² that takes 15 ms
    assert len(measures.velocity_jumps(TIMES, velocities, LIMIT)) == 1
    assert len(measures.velocity_jumps(TIMES, velocities, LIMIT, held=0.02)) == 0


def test_a_sample_that_came_twice_is_no_jump():
    times = np.insert(TIMES, 500, TIMES[500])
    assert len(measures.jumps(times, np.insert(POSITIONS, 500, POSITIONS[500], axis=0),
                          np.insert(VELOCITIES, 500, VELOCITIES[500], axis=0), LIMIT, period=0.0)) == 0


def test_the_rate_of_a_clock():
    assert measures.rate([1.0, 2.0, 3.0], [100.0, 101.0, 104.0]) == pytest.approx(0.5)
    assert math.isnan(measures.rate([], [])) and math.isnan(measures.rate([1.0], [1.0]))


def test_a_hold_counts_once_and_only_inside_a_task():
    tasks = [[10.0, 20.0], [30.0, math.inf]]
    modes = [(5.0, False, "no task"), (10.2, False, "not begun"), (10.6, True, ""), (15.0, False, "late"),
             (15.2, False, "late"), (15.4, True, ""), (19.8, False, "the plan is over"), (25.0, False, "no task"),
             (31.0, False, "stale"), (32.0, True, ""), (33.0, False, "late")]
    assert measures.holds(modes, tasks) == ["late", "stale", "late"]
