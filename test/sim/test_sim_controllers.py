"""The emulated controllers against what ros2_controllers' sources do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_policy_node.sim.controllers import (GripperActionController, Point, PositionController, Refused,
                                            TrajectoryController, TwistController)

DT = 0.002


def trajectory(start=(0.0, 0.0)) -> TrajectoryController:
    return TrajectoryController("arm", ["a", "b"], start, period=DT)


def run(controller, start: float, seconds: float):
    return controller.advance(start + DT * np.arange(1, round(seconds / DT) + 1))


def test_positions_alone_are_joined_by_straight_lines():
    c = trajectory()
    c.command(["a", "b"], [Point(0.1, [1.0, 0.0]), Point(0.2, [1.0, 2.0])], now=5.0)
    r = run(c, 5.0, 0.3)
    at = lambda t: np.argmin(abs(r.time - (5.0 + t)))  # noqa: E731
    # The first segment starts one update earlier than the command's time 0, as in the real one.
    assert r.position[at(0.05), 0] == pytest.approx((0.05 + DT) / (0.1 + DT), abs=1e-9)
    assert r.position[at(0.15)] == pytest.approx([1.0, 1.0])
    assert r.velocity[at(0.15)] == pytest.approx([0.0, 20.0])
    assert r.position[-1] == pytest.approx([1.0, 2.0]) and r.velocity[-1] == pytest.approx([0, 0])


def test_velocities_make_it_cubic_and_accelerations_quintic():
    """Each spline reproduces a polynomial of its degree from its values at the points."""
    for degree in (3, 5):
        curve = np.polynomial.Polynomial([0.3, -0.2, 0.8, -1.1, 0.7, 0.4][:degree + 1])
        times = np.array([0.1, 0.25, 0.5])
        fields = [[curve.deriv(k)(t) if k else curve(t) for t in times] for k in range(3)]
        fields[1][-1] = 0.0  # the end must be at rest: compare only before the last segment
        c = TrajectoryController("arm", ["a"], [0.0], period=DT)
        points = [Point(t, [p], [v], [a] if degree == 5 else ()) for t, p, v, a in zip(times, *fields)]
        c.command(["a"], points, now=1.0)
        r = run(c, 1.0, 0.25)
        inside = (r.time >= 1.1) & (r.time < 1.25)
        assert inside.sum() > 70
        assert r.position[inside, 0] == pytest.approx(curve(r.time[inside] - 1.0), abs=1e-9)
        assert r.velocity[inside, 0] == pytest.approx(curve.deriv()(r.time[inside] - 1.0), abs=1e-7)
        assert r.acceleration[inside, 0] == pytest.approx(curve.deriv(2)(r.time[inside] - 1.0), abs=1e-5)


def test_joints_are_mapped_by_name():
    c = trajectory()
    c.command(["b", "a"], [Point(0.01, [2.0, 1.0])], now=1.0)
    assert run(c, 1.0, 0.1).position[-1] == pytest.approx([1.0, 2.0])


def test_a_new_trajectory_replaces_the_old_one_from_the_reference_without_a_jump():
    c = TrajectoryController("arm", ["a"], [0.0], period=DT)
    c.command(["a"], [Point(1.0, [1.0], [0.0], [0.0])], now=1.0)
    first = run(c, 1.0, 0.4)
    c.command(["a"], [Point(0.5, [-1.0], [0.0], [0.0])], now=1.4)
    second = run(c, 1.4, 0.6)
    # The real one dates its last command one update too early, so the first step is two updates long.
    step = second.position[0, 0] - first.position[-1, 0]
    assert step == pytest.approx(2 * DT * first.velocity[-1, 0], rel=0.02)
    assert second.velocity[0, 0] == pytest.approx(first.velocity[-1, 0], rel=0.05)
    assert np.abs(np.diff(second.position[:, 0])).max() < 1.1 * DT * np.abs(second.velocity).max()
    assert second.position[-1, 0] == -1.0


def test_a_stamp_says_when_and_a_point_that_is_due_is_jumped_to():
    late = TrajectoryController("arm", ["a"], [0.0], period=DT)
    late.command(["a"], [Point(0.0, [1.0]), Point(1.0, [2.0])], stamp=4.5, now=5.0)
    assert run(late, 5.0, DT).position[0, 0] == pytest.approx(1.5 + DT)
    early = TrajectoryController("arm", ["a"], [0.0], period=DT)
    early.command(["a"], [Point(0.0, [1.0])], stamp=6.0, now=5.0)
    assert run(early, 5.0, 0.5).position[-1, 0] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("names, points, stamp, words", [
    (["a"], [Point(1.0, [0.0])], 0.0, "1 joints in the trajectory, 2"),
    (["a", "x"], [Point(1.0, [0.0, 0.0])], 0.0, "'x'"),
    (["a", "a"], [Point(1.0, [0.0, 0.0])], 0.0, "twice"),
    (["a", "b"], [], 0.0, "no points"),
    (["a", "b"], [Point(1.0, [0, 0]), Point(1.0, [0, 0])], 0.0, "does not increase"),
    (["a", "b"], [Point(1.0, [0, 0], [0, 1e-3])], 0.0, "velocity of b at the last point"),
    (["a", "b"], [Point(1.0, [0, 0])], 3.9, "ended 0.100 s ago"),
    (["a", "b"], [Point(1.0, [0])], 0.0, "1 positions for 2"),
    (["a", "b"], [Point(1.0, [0, 0], [0])], 0.0, "1 velocities for 2"),
    (["a", "b"], [Point(1.0, [0, 0], [], [0])], 0.0, "1 accelerations for 2"),
    (["a", "b"], [Point(1.0, [0, 0], [], [], [1, 1])], 0.0, "effort"),
])
def test_bad_trajectories_are_refused_and_change_nothing(names, points, stamp, words):
    c = trajectory()
    c.command(["a", "b"], [Point(0.5, [1.0, 1.0])], now=5.0)
    run(c, 5.0, 0.1)
    with pytest.raises(Refused, match=words):
        c.command(names, points, stamp=stamp, now=5.0)
    assert c.counters == {"accepted": 1, "refused": 1}
    assert run(c, 5.1, 0.6).position[-1] == pytest.approx([1.0, 1.0])  # the old one is played to its end


def test_nan_is_taken_as_the_real_one_takes_it_and_counted():
    c = trajectory()
    c.command(["a", "b"], [Point(0.1, [math.nan, 1.0])], now=1.0)
    assert c.counters["accepted_nan"] == 1
    assert math.isnan(run(c, 1.0, 0.2).position[-1, 0])


def test_it_holds_at_the_end_and_after_a_reset():
    c = trajectory()
    c.command(["a", "b"], [Point(0.1, [1.0, 1.0])], now=1.0)
    assert run(c, 1.0, 60.0).position[-1] == pytest.approx([1.0, 1.0])
    c.command(["a", "b"], [Point(0.1, [9.0, 9.0])], now=61.0)
    c.hold([0.5, 0.5])
    assert run(c, 61.0, 1.0).position == pytest.approx(0.5)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.integers(1, 7), min_size=1, max_size=10), seed=st.integers(0, 999))
def test_how_the_time_is_cut_into_updates_makes_no_difference(steps, seed):
    rng = np.random.default_rng(seed)
    points = [Point(0.004 * (k + 1), rng.normal(size=2), rng.normal(size=2) * (k < 4), rng.normal(size=2))
              for k in range(5)]
    one, many = trajectory(), trajectory()
    for c in (one, many):
        c.command(["a", "b"], points, now=1.0)
    n = sum(steps)
    whole = one.advance(1.0 + DT * np.arange(1, n + 1))
    done = 0
    for k in steps:
        many.advance(1.0 + DT * np.arange(done + 1, done + k + 1))
        done += k
    pieces = many.history.read()
    for a, b in zip(whole, pieces):
        assert a == pytest.approx(b, abs=1e-12)


@pytest.mark.parametrize("by", [-3.0, 3.0])
def test_what_is_under_way_goes_on_when_the_clock_leaps(by):
    arm, base = trajectory(), TwistController("base", timeout=0.15)
    arm.command(["a", "b"], [Point(1.0, [1.0, 2.0], [0.0, 0.0])], now=5.0)
    base.command([0.2, 0.0, 0.0], stamp=5.3, now=5.3)
    first = run(arm, 5.0, 0.4)
    for one in (arm, base):
        one.leap(by)
    second = run(arm, 5.4 + by, 0.6)
    steps = np.diff(np.r_[first.position, second.position], axis=0)
    assert np.abs(steps).max() < 1.1 * DT * max(np.abs(first.velocity).max(), np.abs(second.velocity).max())
    assert second.position[-1] == pytest.approx([1.0, 2.0])
    twist = run(base, 5.4 + by, 0.1)
    assert twist.velocity[0, 0] == 0.2 and twist.velocity[-1, 0] == 0.0, "0.15 s after it was given, by any clock"


def test_history_keeps_the_newest_in_order():
    c = trajectory()
    run(c, 0.0, 11.0)
    c.command(["a", "b"], [Point(0.1, [1.0, 1.0])], now=11.0)
    run(c, 11.0, 1.0)
    kept = c.history.read()
    assert len(kept.time) == 5000 and (np.diff(kept.time) > 0).all() and kept.position[-1] == pytest.approx([1, 1])
    assert c.history.read(since=11.9).time[0] == pytest.approx(11.902)


def test_forward_commands_have_no_timeout():
    c = PositionController("arm", ["a", "b"], [0.0, 0.0])
    c.command([1.0, 2.0])
    assert run(c, 0.0, 100.0).position[-1] == pytest.approx([1.0, 2.0])
    with pytest.raises(Refused, match="3 values for 2 joints"):
        c.command([1, 2, 3])


def test_a_twist_ends_after_its_timeout_and_an_old_one_is_refused():
    c = TwistController("base", timeout=0.15)
    c.command([0.3, 0.0, 0.1], stamp=9.95, now=10.0)
    r = run(c, 10.0, 0.3)
    moving = r.time[np.abs(r.velocity).sum(axis=1) > 0]
    assert moving[-1] == pytest.approx(10.1, abs=DT)
    with pytest.raises(Refused, match="0.200 s old"):
        c.command([0.3, 0.0, 0.1], stamp=9.8, now=10.0)
    c.command([0.3, 0.0, 0.1], stamp=0.0, now=20.0)
    assert run(c, 20.0, 0.1).velocity[-1] == pytest.approx([0.3, 0.0, 0.1])


def test_a_gripper_goal_ends_by_arrival_or_by_stalling():
    c = GripperActionController("gripper", ["finger"], [0.04])
    assert c.check(0.04, 0.0, now=0.0) is None  # no goal
    c.goal(0.0, now=1.0)
    assert run(c, 1.0, 0.01).position[-1] == 0.0
    assert c.check(0.03, -0.1, now=1.1) is None
    assert c.check(0.02, 0.0, now=1.5) is None
    blocked = c.check(0.02, 0.0, now=2.2)
    assert blocked.stalled and not blocked.reached_goal
    assert run(c, 2.2, 1.0).position[-1] == 0.0  # and goes on squeezing
    c.goal(0.04, now=5.0)
    arrived = c.check(0.0395, 0.01, now=5.1)
    assert arrived.reached_goal and not arrived.stalled
