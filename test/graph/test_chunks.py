"""Chunks and leases that are wrong in one thing: refused with a word, or ending motion as the design says. The tests
play commander and policy themselves."""

import time

import numpy as np
import pytest
from harness import ATTEMPTS, SLACK
from player import PERIOD
from std_srvs.srv import Trigger

from pi_msgs.msg import BridgeStatus
from pi_policy_node.robot import Kinematics

BRAKE = 0.3
HORIZON_LEFT = 0.8  # s: max_blind, beyond which no plan is played


@pytest.fixture
def running(robot, player):
    """The robot, following the player."""
    for _ in range(ATTEMPTS):
        player.end()
        robot.recover()
        player.begin()
        try:
            robot.wait(lambda: robot.bridge.mode == BridgeStatus.RUNNING and robot.moving(), 5, "motion")
            break
        except AssertionError:
            continue
    assert robot.bridge.mode == BridgeStatus.RUNNING, robot.tell()
    yield robot
    player.end()


def refused(robot, word, act):
    """That an act makes the bridge count one more refusal of this kind."""
    before = robot.count(f"refused_{word}")
    repeatedly(robot, act, lambda: robot.count(f"refused_{word}") > before, f"a refusal as {word}")


def repeatedly(robot, act, condition, what):
    """Acts until the condition holds: the topic has a depth of 1, and the stream's next chunk can replace ours unread."""
    robot.wait(lambda: condition() or act() and condition(), 3, what, step=0.05)


WRONG = {
    "from_the_future": lambda p, r: p.chunk(stamp=r.now() + 2.0),
    "late": lambda p, r: p.chunk(stamp=r.now() - 5.0, observed=r.now()),
    "too_blind": lambda p, r: p.chunk(observed=r.now() - 2.0),
    "duplicate": lambda p, r: p.chunk(sequence=p._sequence),
    "out_of_order": lambda p, r: p.chunk(sequence=p._sequence - 5),
    "other_instruction": lambda p, r: p.chunk(instruction_id="somebody else's"),
}


@pytest.mark.parametrize("word", WRONG)
def test_a_wrong_chunk_is_refused_and_the_plan_goes_on(running, player, word):
    refused(running, word, lambda: WRONG[word](player, running))
    assert running.bridge.mode == BridgeStatus.RUNNING, running.tell()


@pytest.mark.parametrize("fields", [
    {"names": ["left_joint1"]}, {"horizon": 49}, {"data": [0.0] * 17}, {"dt": 0.0}, {"dt": -0.02}, {"dt": float("nan")},
    {"horizon": 4_000_000_000},
], ids=lambda fields: next(iter(fields)) + "=" + str(next(iter(fields.values())))[:12])  # fmt: skip
def test_a_malformed_chunk_is_refused_and_the_plan_goes_on(running, player, fields):
    def refusals():
        return sum(n for name, n in zip(running.bridge.counters, running.bridge.counts) if name.startswith("refused_"))
    before = refusals()
    repeatedly(running, lambda: player.chunk(**fields), lambda: refusals() > before, "a refusal")
    assert running.bridge.mode == BridgeStatus.RUNNING, running.tell()


def test_columns_in_another_order_are_refused(running, player):
    names = list(running.robot.action_names)
    before = sum(running.bridge.counts)
    repeatedly(running, lambda: player.chunk(names=names[::-1]), lambda: sum(running.bridge.counts) > before, "a refusal")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_chunk_that_is_not_finite_latches(running, player, bad):
    rows = player.swing(running.now() + 0.02 * np.arange(50))
    rows[20, 3] = bad
    since = time.monotonic()
    repeatedly(running, lambda: player.chunk(rows=rows),
               lambda: running.bridge.code == BridgeStatus.CHUNK_NOT_FINITE, "the fault")
    status = running.bridge
    assert status.mode == BridgeStatus.FAULT and status.latched and "left_joint4" in status.cause
    running.rest(since, BRAKE)


def test_a_first_row_far_away_is_refused_at_rest(robot, player):
    player.end()
    robot.recover()
    player.begin(lambda times: player.swing(times) + 0.6 * (np.arange(18) == 1))
    refused(robot, "far_first_row", lambda: None)
    robot.stays_at_rest(0.5)
    player.end()


def test_a_jump_in_the_stream_is_refused_and_nothing_jumps(running, player):
    player.rows = lambda times: player.swing(times) + 0.6 * (np.arange(18) == 1)
    before = running.count("refused_far_first_row")
    running.wait(lambda: running.count("refused_far_first_row") > before, 3, "a refusal")
    running.rest(time.monotonic(), HORIZON_LEFT + BRAKE)  # the old plan runs out, and nothing else is played


def test_a_stream_that_ends_is_a_hold_that_clears(running, player):
    player.chunking = False
    since = time.monotonic()
    status = running.wait_cause({BridgeStatus.NO_CHUNK, BridgeStatus.TOO_BLIND}, 3)
    assert status.mode == BridgeStatus.HOLD and not status.latched
    running.rest(since, PERIOD + HORIZON_LEFT + BRAKE)
    player.home, player.start, player.chunking = player.place(), running.now(), True
    running.wait(lambda: running.bridge.mode == BridgeStatus.RUNNING and running.moving(), 4, "motion again")


def test_an_empty_chunk_is_a_hold_that_clears(running, player):
    player.chunking = False
    time.sleep(2 * PERIOD)  # the stream's last chunk is on its way
    since = time.monotonic()
    player.chunk(rows=np.empty((0, 18)))
    status = running.wait_cause(BridgeStatus.EMPTY_CHUNK, 1)
    assert status.mode == BridgeStatus.HOLD and not status.latched
    running.rest(since, BRAKE)
    player.home, player.start, player.chunking = player.place(), running.now(), True
    running.wait(lambda: running.bridge.mode == BridgeStatus.RUNNING and running.moving(), 4, "motion again")


def test_a_lease_that_is_not_renewed_ends_within_its_second(running, player):
    player._alive.clear()
    player._thread.join()
    since = time.monotonic()
    status = running.wait_cause({BridgeStatus.NO_INSTRUCTION, BridgeStatus.TOO_BLIND, BridgeStatus.NO_CHUNK}, 3)
    assert status.mode == BridgeStatus.HOLD
    running.rest(since, 1.0 + BRAKE)
    running.wait_cause(BridgeStatus.NO_INSTRUCTION, 2)


def test_stop_latches_while_a_policy_streams_and_the_resume_moves_nothing(running, player):
    since = time.monotonic()
    running.stop()
    running.rest(since, BRAKE)
    refused(running, "latched", lambda: None)  # it streams on
    assert running.call(Trigger, "resume").success
    running.wait_cause({BridgeStatus.AWAITING_RESUMED_TASK, BridgeStatus.NO_INSTRUCTION}, 2)
    running.stays_at_rest(1.0)
    player.begin()  # a task given since
    running.wait(lambda: running.bridge.mode == BridgeStatus.RUNNING and running.moving(), 4, "motion of the new task")


# -------------------------------------------------------------------------------------------------------- violations


def reference(robot, name, since):
    """What a controller was asked for since a time: stamps, positions, velocities, accelerations."""
    rows = [entry for entry in list(robot.references[name]) if entry[0] >= since]
    return tuple(np.array([entry[k] for entry in rows]) for k in (1, 2, 3, 4))


GREEDY = {
    "position": lambda t: 4.0 * (1 - np.exp(-t)),
    "velocity": lambda t: np.minimum(0.15 + 20.0 * t, 2.5) * (t > 0.1),
    "acceleration": lambda t: 0.15 * np.sign(np.sin(9.0 * t)),
}


def play_greedily(running, player, rows, seconds):
    """Plays rows(t [n], home [A]) -> [n, A] for some seconds from a fresh start; what the left arm was asked for."""
    player.end()
    running.recover()
    player.begin(lambda times: np.repeat(player.home[None], len(times), axis=0))
    running.wait(lambda: running.bridge.mode == BridgeStatus.RUNNING, 5, "the bridge to run")
    begin, since = running.now(), time.monotonic()
    player.rows = lambda times: rows(np.maximum(times - begin, 0.0), player.home)
    running.wait(lambda: running.now() - begin > seconds, 4 * seconds, "some seconds of it")
    player.end()
    running.rest(time.monotonic(), 1.0)
    return reference(running, "left_arm_controller", since)


def keeps(check):
    """A check that holds in one of three trials: where the machine is so short of time that windows come late, the
    controller has braked by its tail meanwhile, and its way from there to the next window is not the bridge's."""
    for trial in range(3):
        try:
            return check()
        except AssertionError:
            if trial == 2:
                raise


@pytest.mark.parametrize("what", GREEDY)
def test_no_chunk_takes_a_controller_over_a_limit(running, player, what):
    robot = running.robot
    arm = robot.group("left_arm").columns

    def rows(t, home):
        wanted = np.repeat(home[None], len(t), axis=0)
        wanted[:, 0] += GREEDY[what](t)
        return wanted

    def check():
        stamps, position, velocity, acceleration = play_greedily(running, player, rows, 2.0)
        assert len(stamps) > 50
        assert np.all(position >= robot.lower[arm] - 1e-6) and np.all(position <= robot.upper[arm] + 1e-6)
        assert np.abs(velocity).max() <= robot.velocity[arm].max() * 1.001
        assert np.abs(acceleration).max() <= robot.acceleration[arm].max() * 1.01
        steps = np.abs(np.diff(position, axis=0)) / np.maximum(np.diff(stamps), 1e-3)[:, None]
        assert np.all(steps <= robot.velocity[arm] * 1.05 + 0.05), "no jump between two references"

    keeps(check)
    assert any(name.startswith(("limited_", "refused_far")) for name in running.bridge.counters), "and it was counted"


def test_no_chunk_takes_a_tool_out_of_the_workspace_or_over_its_speed(running, player):
    robot = running.robot
    arm, kinematics = robot.group("left_arm").columns, Kinematics(robot)

    def rows(t, home):  # down onto the floor, fast
        wanted = np.repeat(home[None], len(t), axis=0)
        wanted[:, 1] += np.minimum(1.5 * t, 1.6)
        return wanted

    def check():
        stamps, position, _, _ = play_greedily(running, player, rows, 2.5)
        state = np.repeat(player.home[None], len(position), axis=0)
        state[:, arm] = position
        tool = kinematics.tools(state)["left_arm"]
        assert np.all(tool >= robot.workspace[0] - 0.005) and np.all(tool <= robot.workspace[1] + 0.005)
        later = np.diff(stamps) > 1e-4
        speed = np.linalg.norm(np.diff(tool, axis=0), axis=1)[later] / np.diff(stamps)[later]
        assert np.percentile(speed, 99) <= robot.tool_speed * 1.05
        assert running.count("limited_tool_speed") or running.count("limited_workspace")

    keeps(check)


# ---------------------------------------------------------------------------------------------------------- takeover


def test_a_person_takes_over_and_hands_back_without_a_jump(running, player):
    home, begin, since = player.place(), running.now(), time.monotonic()

    def hand(times):
        rows = np.repeat(running.state()[None] * ~running.robot.is_base, len(times), axis=0)
        rows[:, 0] += 0.1 * np.sin(np.maximum(times - begin, 0.0))
        return rows

    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        now = running.now()
        player.chunk(rows=hand(now + 0.02 * np.arange(25)), person=True)
        time.sleep(PERIOD)
    assert running.bridge.mode == BridgeStatus.TAKEOVER, running.tell()
    refused(running, "takeover", lambda: None)  # the policy streams on, in vain
    player.chunk(rows=np.empty((0, 18)), person=True)
    running.wait(lambda: running.bridge.mode != BridgeStatus.TAKEOVER, 2, "the hand-over")
    player.home, player.start = player.place(), running.now()
    running.wait(lambda: running.bridge.mode == BridgeStatus.RUNNING, 4, "the policy to go on")
    stamps, position, velocity, _ = reference(running, "left_arm_controller", since)
    assert np.abs(np.diff(position, axis=0)).max() < 0.05 + SLACK and home is not None
    assert np.all(np.abs(velocity) <= running.robot.velocity[running.robot.group("left_arm").columns] * 1.001)
