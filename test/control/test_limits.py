"""No stream of chunks, however hostile, makes the spline that a controller follows exceed a limit, jump or not rest."""

from __future__ import annotations

import numpy as np
import pytest
from hostile import Event, Record, make_case, play, shrink

from pi_policy_node.robot import Kinematics, Robot, load_robot

BLOCK = 125  # cases in one test, so that a runner can spread and name them
SLACK = 1e-5


@pytest.fixture(scope="module", params=["pi_mobile", "single_arm"])
def robot(request) -> Robot:
    return load_robot(request.param)


@pytest.fixture(scope="module")
def kinematics(robot) -> Kinematics:
    return Kinematics(robot)


def excesses(robot: Robot, kinematics: Kinematics, record: Record, *, over: dict[str, float] | None = None) -> list[str]:
    """Everything that is wrong with a record, in words. `over`: by how much a limit may be exceeded, as a factor."""
    if not record.curves:
        return []
    factor = {"velocity": 1.0, "acceleration": 1.0, "jerk": 1.0, "tool": 1.0} | (over or {})
    found = []
    curve = np.concatenate(record.curves)  # [N, 4, A]
    position = ~robot.is_base
    low = np.minimum(robot.lower, record.start)[position]
    high = np.maximum(robot.upper, record.start)[position]
    p, v, a, j = np.moveaxis(curve[:, :, position], 1, 0)
    room = SLACK + (0.01 if over else 0.0)
    if (p < low - room).any() or (p > high + room).any():
        found.append(f"position by {max((low - p).max(), (p - high).max()):.2g}")
    for name, value, limit in (("velocity", v, robot.velocity), ("acceleration", a, robot.acceleration), ("jerk", j, robot.jerk)):
        worst = (np.abs(value) / limit[position]).max()
        if not worst <= factor[name] + SLACK:
            found.append(f"{name} {worst:.4f} of the limit")
    places = kinematics.tools(curve[:, 0])
    first = kinematics.tools(record.start)
    ends = np.cumsum([len(t) for t in record.times])[:-1]
    for arm, path in places.items():
        out = np.maximum(path - np.maximum(robot.workspace[1], first[arm]), np.minimum(robot.workspace[0], first[arm]) - path)
        if not out.max() <= 1e-4 + (0.003 if over else 0.0):
            found.append(f"{arm} {out.max():.2g} m out of the workspace")
        for times, piece in zip(record.times, np.split(path, ends)):
            step = np.diff(times)
            speed = np.linalg.norm(np.diff(piece, axis=0), axis=1)[step > 0] / step[step > 0]
            if not speed.max() <= robot.tool_speed * factor["tool"] + 1e-4:
                found.append(f"{arm} moves at {speed.max():.3f} m/s")
                break
    for piece in record.curves:
        if np.abs(piece[-1, 1:3][:, position]).max() > 1e-9:
            found.append("a message that does not end at rest")
    for at, (before, after) in record.reference:
        if np.abs(before - after)[:2][:, position].max() > 1e-9:
            found.append(f"a jump at {at:.3f}")
    return found + base_excesses(robot, record)


def base_excesses(robot: Robot, record: Record) -> list[str]:
    """The base follows the stream of twists."""
    base = robot.is_base
    if not base.any():
        return []
    times = np.array([t for t, _ in record.actions])
    twist = np.stack([action[base] for _, action in record.actions])
    found = []
    if (np.abs(twist) > robot.upper[base] + SLACK).any() or np.linalg.norm(twist[:, :2], axis=1).max() > robot.base_speed + SLACK:
        found.append("base too fast")
    step = np.diff(times)
    rate = np.abs(np.diff(twist, axis=0))
    if (rate > robot.acceleration[base] * step[:, None] + SLACK).any():
        found.append("base accelerates too much")
    return found


def check(robot, kinematics, seeds, **options) -> int:
    over = options.pop("over", None)
    moved = 0
    for seed in seeds:
        place, events = make_case(robot, seed)

        def wrong(events: list[Event], place=place) -> list[str]:
            return excesses(robot, kinematics, play(robot, kinematics, place, events, **options), over=over)

        record = play(robot, kinematics, place, events, **options)
        moved += len(record.curves) > 1
        found = excesses(robot, kinematics, record, over=over)
        if found:
            fewest = shrink(events, lambda fewer: bool(wrong(fewer)))
            lines = "\n".join(map(str, fewest))
            pytest.fail(f"seed {seed}: {'; '.join(found)}\nfewest events that do this ({'; '.join(wrong(fewest))}):\n{lines}")
    return moved


@pytest.mark.parametrize("block", range(8))
def test_nothing_makes_the_spline_exceed_a_limit(robot, kinematics, block):
    seeds = range(block * BLOCK, (block + 1) * BLOCK)
    moved = check(robot, kinematics, seeds)
    assert moved > BLOCK / 2  # or the test would show nothing


def test_messages_some_milliseconds_late_make_no_jump_and_little_else(robot, kinematics):
    """A stamp of 0 starts a window when it arrives: 0 to 5 ms late, each by another time. Only the jerk shows it."""
    check(robot, kinematics, range(10_000, 10_000 + BLOCK), delay=0.005,
          over={"velocity": 1.0, "acceleration": 1.02, "jerk": 2.0, "tool": 1.01})
