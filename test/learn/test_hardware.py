"""Lockstep's way from a policy's chunks to the simulated controllers: through the hardware bridge."""

from __future__ import annotations

import numpy as np
import pytest

from pi_policy_node.control.modes import Mode
from pi_policy_node.learn.hardware import TASK, Hardware
from pi_policy_node.policy.ahead import Chunk
from pi_policy_node.robot import load_robot
from pi_policy_node.sim import Simulator

ROBOT = load_robot("pi_mobile")
DT, WRIST, FORWARDS = ROBOT.dt, 5, ROBOT.action_names.index("base_vx")


@pytest.fixture(scope="module")
def sim():
    made = Simulator(ROBOT, "empty", cameras=())
    yield made
    made.close()


@pytest.fixture()
def hardware(sim):
    sim.reset(0)
    return Hardware(ROBOT, sim, ROBOT.home)


def chunk(n: int = 0, *, column: int = WRIST, start: float = 0.0, slope: float = 0.0, count: int = 50) -> Chunk:
    """Seen and due at row n: one column counts on from `start` by so much per s."""
    rows = np.tile(ROBOT.home, (count, 1))
    rows[:, column] += start + slope * DT * np.arange(count)
    return Chunk(n * DT, rows, TASK, n * DT)


def play(hardware: Hardware, sim: Simulator, first: int, count: int, *, stuck: bool = False) -> np.ndarray:
    """[count, A] rows that the controllers come to. stuck: the robot does not move."""
    rows = []
    for n in range(first, first + count):
        hardware.hear(n)
        rows.append(hardware.row())
        sim.step(ROBOT.home if stuck else rows[-1])
    return np.array(rows)


def test_a_plan_within_the_limits_is_played_as_it_is(hardware, sim):
    hardware.hear(0)
    plan = chunk()
    plan.rows[:, WRIST] += 0.2 * (1 - np.cos(np.arange(50) * DT * 2.0))
    assert hardware.take(plan) == ""
    rows = play(hardware, sim, 0, 30)
    assert np.abs(rows[:, WRIST] - plan.rows[1:31, WRIST]).max() < 0.005
    assert (hardware.limited, hardware.held, hardware.refused) == (0, 0, 0)
    assert sim.state()[WRIST] == pytest.approx(rows[-1, WRIST], abs=0.02)


def test_a_plan_that_jumps_is_followed_as_fast_as_the_limits_allow(hardware, sim):
    hardware.hear(0)
    plan = chunk()
    plan.rows[10:, WRIST] += 1.0
    hardware.take(plan)
    path = np.concatenate([[ROBOT.home], play(hardware, sim, 0, 40)])[:, WRIST]
    assert np.abs(np.diff(path, 2)).max() <= ROBOT.acceleration[WRIST] * DT**2
    assert path[12] < 0.5 and path[-1] == pytest.approx(1.0, abs=0.05) and hardware.limited > 5


def test_a_plan_that_begins_elsewhere_is_refused_and_counted(hardware, sim):
    hardware.hear(0)
    assert hardware.take(chunk(slope=0.1)) == ""
    play(hardware, sim, 0, 10)
    hardware.hear(10)
    assert "left_joint6 would start 0.4" in hardware.take(chunk(10, start=0.45))
    assert hardware.refused == 1 and hardware.status.mode == Mode.RUNNING, "the one before goes on"


def test_without_a_newer_plan_it_comes_to_rest_once_it_has_been_blind_too_long(hardware, sim):
    hardware.hear(0)
    hardware.take(chunk(column=FORWARDS, start=0.1))
    rows = play(hardware, sim, 0, 90)
    last = round(ROBOT.max_blind / DT)
    assert rows[last - 10, FORWARDS] == pytest.approx(0.1, abs=0.01) and rows[-1, FORWARDS] == 0.0
    assert hardware.resting and hardware.held == pytest.approx(90 - last, abs=2)
    assert "no newer plan" in hardware.status.cause


def test_a_robot_that_does_not_follow_is_held(hardware, sim):
    hardware.hear(0)
    hardware.take(chunk(slope=1.0))
    play(hardware, sim, 0, 40, stuck=True)
    assert hardware.status.latched and "left_joint6 is" in hardware.status.cause
    assert "held" in hardware.take(chunk(40))
