"""The expert goes on in the middle of what somebody else does, and what is only tried does not happen."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from pi_policy_node.robot import Kinematics, load_robot
from pi_policy_node.sim.expert import Expert
from pi_policy_node.sim.expert.follow import HAND, TOOL, YAW, Follower
from pi_policy_node.sim.expert.skills import Pick
from pi_policy_node.sim.expert.spots import spot
from pi_policy_node.sim.expert.under_way import gripping
from pi_policy_node.sim.physics import PhysicsError
from pi_policy_node.sim.simulator import Simulator
from pi_policy_node.sim.tasks import draw, look

ROBOT = load_robot("pi_mobile")
ROWS = 51


@pytest.fixture(scope="module")
def sim():
    return Simulator(ROBOT, "empty", cameras=())


@pytest.mark.parametrize("family, seed", [("put", 0), ("drawer", 1), ("drive", 1), ("stack", 0)])
def test_from_anywhere_on_its_own_way_it_would_do_what_it_does(sim, family, seed):
    """An expert that knows nothing of what came before, but the last row, goes the same way as one that does it all."""
    task, actor, other = draw(family, seed), Expert(ROBOT), Expert(ROBOT)
    sim.steps = 0
    sim.reset(0, task.scene)
    actor.reset(ROBOT.home)
    row = before = ROBOT.home.copy()
    rows, doing, said, last = [], [], [], None
    for n in range(round(task.seconds / ROBOT.dt)):
        view = look(sim)
        if n % 10 == 0:
            with sim.tried():
                last = other.join(view, task, row, before, last)
                branch, seen = [], view
                for _ in range(ROWS):
                    branch.append(other.act(seen, task).row)
                    sim.step(branch[-1])
                    seen = look(sim)
                said.append((n, last.words, np.array(branch)))
        act = actor.act(view, task)
        before, row = row, act.row.copy()
        rows.append(row)
        doing.append(act.subtask.words)
        sim.step(row)
        if act.subtask.kind == "done" and act.finished:
            break
    assert task.success(look(sim))
    rows, kinematics = np.array(rows), Kinematics(ROBOT)
    off, wrong = [], 0
    for n, words, branch in said:
        count = min(ROWS, len(rows) - n)
        a, b = kinematics.tools(rows[n : n + count]), kinematics.tools(branch[:count])
        drive = np.abs(rows[n : n + count] - branch[:count])[:, ROBOT.is_base].max()
        off.append(max(drive, *(float(np.abs(a[arm] - b[arm]).max()) for arm in a)))  # m, or m/s
        wrong += words != doing[n]
    assert np.median(off) < 0.003 and np.quantile(off, 0.9) < 0.03, np.round(off, 3)
    assert wrong <= 0.15 * len(said), "it knows what is under way; only when that is over it may see sooner"


def test_a_hand_that_stands_where_it_should_let_go_lets_go(sim):
    """What is carried may touch something, and come no lower. Somebody who joins in has not seen for how long."""
    task, actor, other = draw("put", 0), Expert(ROBOT), Expert(ROBOT)
    sim.steps = 0
    sim.reset(0, task.scene)
    actor.reset(ROBOT.home)
    for _ in range(round(task.seconds / ROBOT.dt)):
        view = look(sim)
        act = actor.act(view, task)
        arm = gripping(view, task.target)
        if act.subtask.kind == "place" and arm:
            goal = spot(view, act.subtask.goal, actor.arms[arm], None)
            if np.linalg.norm((view.things[task.target].position - goal)[:2]) < 0.012:
                break
        sim.step(act.row)
    row = np.where(ROBOT.is_base, 0.0, act.row)
    for _ in range(40):
        sim.step(row)
    other.join(look(sim), task, row, row, act.subtask)
    hand = ROBOT.group(arm.replace("arm", "gripper")).columns
    rows = [other.act(look(sim), task).row[hand].item() for _ in range(8)]
    assert rows[-1] > row[hand].item() + 0.05, "it need not be as low as the expert would have it"


def test_what_is_tried_does_not_happen(sim):
    task = draw("put", 1)
    ways = []
    for tries in (False, True):
        sim.steps = 0
        sim.reset(0, task.scene)
        row = ROBOT.home.copy()
        row[ROBOT.group("right_arm").columns] += 0.05
        for _ in range(5):
            sim.step(row)
        if tries:
            time = sim.time
            with sim.tried():
                for _ in range(40):
                    sim.step(ROBOT.home)
            assert sim.time == time
            with sim.tried():
                raise PhysicsError("came apart")
        for _ in range(20):
            sim.step(row)
        ways.append(np.r_[sim.physics.data.qpos, sim.physics.data.qvel, sim.state()])
    assert np.array_equal(*ways)


def test_a_hand_is_sent_up_the_more_gradually_the_farther_it_is_off(sim):
    """Somebody who sees to some millimetres and degrees cannot tell where a step is, and would go neither up nor down."""
    task = draw("put", 0)
    sim.reset(0, task.scene)
    view, expert = look(sim), Expert(ROBOT)
    thing, arm = task.goals[0].thing, expert.arms[expert._choose(view, task, task.goals[0].thing)]
    at = view.to_base(view.things[thing].position)
    yaw = wished(view, thing, arm, at, arm.natural_yaw(at))[1]

    def height(beside=0.0, turned=0.0):
        """Above the thing, of where it is sent that stands so far off; and whether it closes."""
        (way, *_), closes = wished(view, thing, arm, at + [0, beside, 0], yaw + turned, yaw)[::2]
        return way[2] - at[2], closes

    assert [height(beside)[1] for beside in (0.0, 0.007, 0.009)] == [True, True, False]
    assert [height(turned=turned)[1] for turned in (0.14, -0.14, 0.16)] == [True, True, False]
    for heights in (np.array([height(turned=x)[0] for x in np.linspace(0, 0.6, 61)]),
                    np.array([height(beside=x)[0] for x in np.linspace(0, 0.025, 51)])):
        steps = np.diff(heights)
        assert heights[0] < 0.002 and heights[-1] > 0.03
        assert (steps >= -1e-9).all() and steps.max() < 0.003


def wished(view, thing, arm, tool, now, yaw=None):
    """Where a hand at `tool`, turned `now`, is sent that has chosen `yaw`; the yaw it has then; whether it closes."""
    pick, hand = Pick(thing, arm), SimpleNamespace(
        tool=Follower(tool, TOOL, ROBOT.dt), yaw=Follower(now, YAW, ROBOT.dt), grip=Follower(0.97, HAND, ROBOT.dt))
    pick._yaw = yaw
    wish = pick.act(view, hand).hands[arm.name]
    return wish, pick._yaw, bool(pick._closing)
