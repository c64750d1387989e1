"""Windows, the plan they follow, and how well."""

from __future__ import annotations

import numpy as np
import pytest
from hostile import along, quintic

from pi_policy_node.control import Row, Shaper, Timeline, Window
from pi_policy_node.control.limits import Limits, room


def window(robot, seed: int, blend: float = 0.1, tail: float = 0.35) -> Window:
    rng = np.random.default_rng(seed)
    start, aim = rng.normal(size=(2, 3, len(robot.action_names)))
    return Window(2.0, start, aim, blend, tail)


@pytest.mark.parametrize("blend", [0.1, 0.0])
def test_what_is_sent_is_what_was_checked(pi_mobile, blend):
    """A controller's quintics through the points are the curves that the limits were checked on."""
    one = window(pi_mobile, 1, blend)
    start = one.start if blend else one.aim
    times, states = one.points
    assert (np.diff(times) > 0).all() and times[0] >= 0.08 and not states[-1, 1:].any()
    checked, curves = one.samples()
    before, knots = [start, *states[:-1]], [0.0, *times[:-1]]
    for t0, t1, s0, s1 in zip(knots, times, before, states):
        inside = (checked > t0 + 1e-9) & (checked < t1 - 1e-9)
        assert along(quintic(s0, s1, t1 - t0), checked[inside] - t0) == pytest.approx(
            np.moveaxis(curves[:, inside], 0, 1), rel=1e-6, abs=1e-6 * np.abs(curves).max())


def test_a_window_is_smooth_and_ends_at_rest(pi_mobile):
    one = window(pi_mobile, 2)
    edge = one.time + one.blend
    assert one.state(edge - 1e-9) == pytest.approx(one.state(edge + 1e-9), abs=1e-3)
    assert one.state(one.end - 1e-9)[1:] == pytest.approx(0.0, abs=1e-3)
    assert not one.state(one.end + 1.0)[1:].any()
    assert np.array_equal(one.state(0.0), one.start)


def test_room_is_exact_for_joints():
    brake, wish = np.array([0.0, 0.5, 2.0, 2.0, 1.0]), np.array([2.0, 0.6, 3.0, 1.0, 1.0])
    assert room(brake, wish, np.array(-1.0), np.array(1.0)) == pytest.approx([0.5, 1.0, 0.0, 1.0, 1.0])


def test_the_check_refuses_each_kind_of_excess(pi_mobile):
    limits = Limits(pi_mobile)
    rest = np.stack([np.where(pi_mobile.is_base, 0.0, pi_mobile.home), np.zeros(18), np.zeros(18)])

    def broken(change, blend: float = 0.5) -> list[str]:
        aim = rest.copy()
        change(aim)
        return limits.broken(limits.motion(Window(0.0, rest, aim, blend, 0.5)))

    assert broken(lambda aim: None) == []
    assert "position" in broken(lambda aim: aim[0].__setitem__(6, 1.1))
    assert "velocity" in broken(lambda aim: aim[:2].__setitem__((slice(None), 5), [1.0, 3.3]))
    assert "acceleration" in broken(lambda aim: aim[0].__setitem__(5, 1.0))
    assert "jerk" in broken(lambda aim: aim[0].__setitem__(5, 0.01), 0.1)
    assert "tool_speed" in broken(lambda aim: aim[0].__setitem__(0, aim[0][0] - 0.5))
    assert "workspace" in broken(lambda aim: aim[0].__setitem__(slice(1, 3), [-1.2, -0.6]))
    assert "base_speed" in broken(lambda aim: aim[1].__setitem__(slice(15, 17), 0.29))
    assert set(broken(lambda aim: aim[0].__setitem__(0, np.nan))) >= {"position", "velocity", "tool_speed", "workspace"}


def follow(robot, motion, seconds: float = 3.0, *, noise: float = 0.0):
    """A chunk every 0.16 s, a window every 0.02 s; the errors [N, A], and the shaper."""
    shaper, timeline, rng = Shaper(robot), Timeline(robot), np.random.default_rng(0)
    shaper.start(0.0, robot.home)
    errors = []
    for tick in range(round(seconds / 0.02)):
        now = 0.02 * tick
        if tick % 8 == 0:
            times = now - 0.05 + 0.02 * np.arange(50)
            rows = np.stack([motion(t) for t in times]) + noise * rng.normal(size=(50, len(robot.home)))
            timeline.splice(times, np.clip(rows, robot.lower, robot.upper), dt=0.02, now=now, blind_after=now + 0.8)
        shaper.follow(now, timeline.aim(now + shaper.blend), timeline.aim(now))
        errors.append(shaper.command(now) - motion(now))
    return np.array(errors), shaper


def sine(robot, column: int, size: float, hertz: float):
    def motion(time: float) -> np.ndarray:
        row = robot.home.copy()
        row[column] += size * np.sin(2 * np.pi * hertz * max(time, 0.0))
        return row

    return motion


@pytest.mark.parametrize("column, size, hertz", [(0, 0.12, 0.4), (5, 0.8, 0.4), (5, 0.15, 0.8), (14, 0.05, 0.4), (15, 0.2, 0.4)])
def test_a_smooth_plan_is_followed_without_lag(pi_mobile, column, size, hertz):
    errors, shaper = follow(pi_mobile, sine(pi_mobile, column, size, hertz))
    assert np.abs(errors[75:]).max() < 0.002 * max(1.0, hertz / 0.4)
    assert shaper.counters["window_withheld"] == 0


def test_a_noisy_plan_is_followed_through_its_middle(pi_mobile):
    errors, shaper = follow(pi_mobile, sine(pi_mobile, 0, 0.12, 0.4), noise=0.003)
    assert np.abs(errors[75:]).max() < 0.006
    assert shaper.counters["window_withheld"] == 0


def test_a_step_is_caught_up_with_as_fast_as_allowed(pi_mobile):
    def step(time: float) -> np.ndarray:
        row = pi_mobile.home.copy()
        row[5] += 1.0 if time > 0.5 else 0.0
        return row

    errors, shaper = follow(pi_mobile, step)
    reached = np.flatnonzero(np.abs(errors[:, 5]) > 0.02)[-1] * 0.02
    assert reached < 1.6 and np.abs(errors[-1]).max() < 1e-3
    assert errors[:, 5].max() < 0.05  # neither early, beyond the smoothing of the rows, nor beyond it
    assert shaper.counters["limited_jerk"] > 0


def test_a_tool_is_slowed_to_its_speed(pi_mobile):
    errors, shaper = follow(pi_mobile, sine(pi_mobile, 0, 0.5, 0.4))
    assert shaper.counters["limited_tool_speed"] > 20
    assert np.abs(errors).max() > 0.1  # it could not follow, or the test would show nothing
    motion = shaper.limits.motion(shaper.window)
    assert 0.2 < motion.tool_speed.max() <= pi_mobile.tool_speed


def test_outside_of_the_workspace_it_goes_only_inwards(pi_mobile):
    shaper = Shaper(pi_mobile)
    place = pi_mobile.home.copy()
    place[1:3] = [-0.9, -0.2]  # the left tool behind the front of the box
    outside = shaper.limits.motion(Window.rest(0.0, place)).tools[0, 0]
    assert outside[0] < pi_mobile.workspace[0, 0]
    for target, goes in ((pi_mobile.home, True), (place + (place - pi_mobile.home), False)):
        shaper.start(0.0, place)
        aim = np.zeros((3, 18))
        aim[0, : 15] = target[:15]
        for tick in range(50):
            shaper.follow(0.02 * tick, aim, aim)
        moved = np.abs(shaper.command(1.1) - place).max()
        assert (moved > 0.05) if goes else (moved < 0.02)


def test_brakes_within_the_limits_from_full_speed(pi_mobile):
    shaper = Shaper(pi_mobile)
    shaper.start(0.0, pi_mobile.home)
    for tick in range(40):
        aim = np.zeros((3, 18))
        aim[0] = np.where(pi_mobile.is_base, [0.0] * 15 + [0.2, 0.1, 0.5], pi_mobile.home)
        aim[0, 5], aim[1, 5] = pi_mobile.home[5] + 2.5 * 0.02 * tick, 2.5
        shaper.follow(0.02 * tick, aim, aim)
    now = 0.8
    assert shaper.reference(now)[1, 5] > 1.5
    before = shaper.window.end
    brake = shaper.brake(now)
    assert brake is not None and brake.end < before
    assert not shaper.limits.broken(shaper.limits.motion(brake))
    assert not shaper.reference(brake.end + 1e-6)[1:].any()  # arms and base together


def test_a_plan_is_fitted_and_then_held(pi_mobile):
    timeline = Timeline(pi_mobile)
    times = 0.02 * np.arange(40)
    rows = np.tile(pi_mobile.home, (40, 1))
    rows[:, 0], rows[:, 15] = 0.5 * times**2, 0.2
    timeline.splice(times, rows, dt=0.02, now=0.0, blind_after=0.5)
    assert timeline.until == 0.5 and timeline.blind
    assert timeline.aim(0.3)[:, 0] == pytest.approx([0.045, 0.3, 1.0])
    after = timeline.aim(0.8)
    assert after[0, 0] == pytest.approx(0.125) and after[1:] == pytest.approx(0.0) and after[0, 15] == 0.0
    timeline.played(0.1, limited=False)
    timeline.played(0.2, limited=True)
    timeline.stop()
    fates = timeline.rows.fate.tolist()
    assert fates == [Row.EXECUTED] * 6 + [Row.LIMITED] * 5 + [Row.DISCARDED] * 29


def test_a_plan_of_one_row_can_be_fitted(pi_mobile):
    timeline = Timeline(pi_mobile)
    timeline.splice(np.array([0.01]), pi_mobile.home[None], dt=0.02, now=0.0, blind_after=1.0)
    for time in (-0.5, 0.0, 0.01, 0.1, 3.0):
        assert timeline.aim(time)[0] == pytest.approx(pi_mobile.home)
