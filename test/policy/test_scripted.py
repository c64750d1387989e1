"""The scripted motions: feasible from anywhere, and continued exactly over chunks."""

import threading

import numpy as np
import pytest

from pi_policy_node.policy.base import Cancelled, InputError, Observation, PolicyError, Prefix
from pi_policy_node.policy.registry import make_policy
from pi_policy_node.robot import Kinematics, load_robot

PROMPTS = ["wave", "reach left", "reach right", "drive forward", "drive back", "go left", "turn right", "raise the lift",
           "lower the lift", "open the gripper", "close the left gripper", "go home", "sing me a song"]  # fmt: skip


@pytest.fixture(scope="module", params=["pi_mobile", "single_arm"])
def robot(request):
    return load_robot(request.param)


@pytest.fixture
def policy(robot):
    return make_policy("scripted", robot)


def look(robot, prompt="wave", stamp=100.0, state=None):
    return Observation({}, robot.home if state is None else state, prompt, stamp)


def play(policy, robot, prompt, *, every=5, latency=3, limit=2500):
    """All rows of one task, replanned every few rows with the rows in between fixed."""
    result = policy.infer(look(robot, prompt))
    rows = [result.actions]
    played, chunk = [], result.actions
    while result.progress < 1 and len(played) < limit:
        played.extend(chunk[:every])
        prefix = Prefix(chunk[every : every + latency])
        stamp = 100.0 + len(played) * robot.dt + 0.003
        result = policy.infer(look(robot, prompt, stamp, played[-1]), prefix=prefix)
        np.testing.assert_array_equal(result.actions[:latency], prefix.rows)
        chunk = result.actions
        rows.append(chunk)
    assert result.progress == 1, "it ends"
    return np.array(played + list(chunk))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_motions_keep_within_every_limit(robot, policy, prompt):
    rows = play(policy, robot, prompt)
    np.testing.assert_allclose(rows[0], robot.home, atol=1e-9)  # it begins where the robot is
    assert np.all(rows >= robot.lower - 1e-9) and np.all(rows <= robot.upper + 1e-9)
    rates = [np.abs(np.diff(rows, n=n, axis=0)).max(axis=0) / robot.dt**n for n in (1, 2, 3)]
    base = robot.is_base
    for rate, limit in zip(rates, (robot.velocity, robot.acceleration, robot.jerk)):
        assert np.all(rate[~base] <= limit[~base])
    for rate, limit in zip(rates, (robot.acceleration, robot.jerk)):
        assert np.all(rate[base] <= limit[base])
    assert np.all(np.linalg.norm(rows[:, base][:, :2], axis=1) <= robot.base_speed + 1e-9)
    still = np.where(base, 0, rows)
    for points in Kinematics(robot).tools(still).values():
        assert np.linalg.norm(np.diff(points, axis=0), axis=1).max() / robot.dt <= robot.tool_speed
        assert np.all(points >= robot.workspace[0]) and np.all(points <= robot.workspace[1])
    assert np.abs(rows[-1] - rows[-2]).max() < 1e-6, "it ends at rest"


def test_a_motion_that_is_kept_up_goes_on_without_a_seam():
    robot = load_robot("pi_mobile")
    policy = make_policy("scripted", robot)
    chunk = policy.infer(look(robot, "keep waving"))
    rows = [chunk.actions[:10]]
    for k in range(1, 100):  # 20 s: several waves
        chunk = policy.infer(look(robot, "keep waving", 100 + 0.2 * k), prefix=Prefix(chunk.actions[10:15]))
        rows.append(chunk.actions[:10])
    rows = np.concatenate(rows)
    assert np.isnan(chunk.progress) and chunk.subtask == "wave"
    assert np.abs(np.diff(rows[-300:], axis=0)).max() > 1e-3, "still moving"
    base = robot.is_base
    assert np.all(np.abs(np.diff(rows, axis=0))[:, ~base] <= robot.velocity[~base] * robot.dt)
    assert np.all(np.abs(np.diff(rows, axis=0, n=2))[:, ~base] <= robot.acceleration[~base] * robot.dt**2)


def test_a_wave_moves_everything():
    robot = load_robot("pi_mobile")
    rows = play(make_policy("scripted", robot), robot, "wave")
    for group in robot.groups:
        assert np.ptp(rows[:, group.columns], axis=0).max() > 0.03, group.name


@pytest.mark.parametrize("side, other", [("left", "right"), ("right", "left")])
def test_words_choose_the_side(side, other):
    robot = load_robot("pi_mobile")
    rows = play(make_policy("scripted", robot), robot, f"reach {side}")
    assert np.ptp(rows[:, robot.group(f"{side}_arm").columns], axis=0).max() > 0.1
    assert np.ptp(rows[:, robot.group(f"{other}_arm").columns], axis=0).max() == 0


def test_a_change_of_words_in_full_motion_is_smooth(robot, policy):
    chunk = policy.infer(look(robot, "wave")).actions
    for k in range(1, 30):  # into the wave
        chunk = policy.infer(look(robot, "wave", 100 + k * 0.1), prefix=Prefix(chunk[5:8])).actions
    before, fixed = chunk[:5], chunk[5:9]
    after = policy.infer(look(robot, "go home", 103.0), prefix=Prefix(fixed)).actions
    rows = np.concatenate([before, after])
    arm = ~(robot.is_base | robot.is_gripper)
    for n, limit in ((1, robot.velocity), (2, robot.acceleration)):
        rate = np.abs(np.diff(rows, n=n, axis=0)).max(axis=0) / robot.dt**n
        assert np.all(rate[arm] <= limit[arm])


def test_a_squeeze_survives_a_hold(robot, policy):
    column = int(np.flatnonzero(robot.is_gripper)[0])
    policy.infer(look(robot, "close the gripper"))
    held = robot.home.copy()
    held[column] = 0.4  # something is in between
    again = policy.infer(look(robot, "close the gripper", 105.0, held))
    assert np.all(again.actions[:, column] <= 0.01)


def test_it_says_when_it_is_done_and_which_words_it_does_not_know(robot, policy):
    assert policy.infer(look(robot)).subtask == "wave"
    begun = policy.infer(look(robot))
    over = policy.infer(look(robot, stamp=200.0), prefix=Prefix(policy._rows[-1:]))
    assert begun.progress < 1 and over.subtask == "done" and over.progress == 1
    assert policy.unknown("please Wave, robot!") == ()
    assert policy.unknown("put the red block in the bin") == ("put", "the", "red", "block", "in", "the", "bin")


def test_rows_of_another_policy_are_gone_on_from_without_a_jump(robot, policy):
    policy.infer(look(robot))
    middle = policy.infer(look(robot, stamp=102.0), prefix=Prefix(policy._rows[100:103])).actions
    stray = middle[:5] + np.where(robot.is_base | robot.is_gripper, 0.0, 0.1)
    answer = policy.infer(look(robot, stamp=102.1, state=stray[0]), prefix=Prefix(stray))
    assert answer.progress < 0.1 and np.abs(np.diff(answer.actions, axis=0)).max() < 0.05


def test_reset_starts_over(robot, policy):
    policy.infer(look(robot))
    assert policy.infer(look(robot, stamp=105.0), prefix=Prefix(policy._rows[250:253])).progress > 0.3
    policy.reset()
    assert policy.infer(look(robot, stamp=110.0)).progress == 0


def test_bad_requests(robot, policy):
    with pytest.raises(InputError):
        policy.infer(look(robot, state=np.full(len(robot.home), np.nan)))
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        policy.infer(look(robot), cancel=cancel)
    with pytest.raises(PolicyError, match="scripted"):
        make_policy("scribbled", robot)
    with pytest.raises(PolicyError, match="speed"):
        make_policy("scripted", robot, speed=3)


def test_a_motion_that_began_later_than_its_look_goes_on_as_it_was_planned(robot, policy):
    """A first chunk is played when it is there: here twelve rows after the look that it was made from."""
    first = policy.infer(look(robot, "reach left")).actions
    for since in (4, 14, 24):  # rows since it began
        stamp = 100.0 + (12 + since) * robot.dt
        later = policy.infer(look(robot, "reach left", stamp, first[since]), prefix=Prefix(first[since : since + 4])).actions
        np.testing.assert_allclose(later[: 50 - since], first[since:], atol=1e-9)
