"""The scripted expert: it does what the words say, in every family, within what the bridge lets through."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from pi_policy_node.control.shaper import Shaper
from pi_policy_node.control.timeline import Timeline
from pi_policy_node.environment import checkout
from pi_policy_node.robot import Kinematics, load_robot
from pi_policy_node.sim import Simulator
from pi_policy_node.sim.expert import Expert
from pi_policy_node.sim.expert.arms import ReachError
from pi_policy_node.sim.expert.follow import TOOL, Follower
from pi_policy_node.sim.expert.rows import usage
from pi_policy_node.sim.expert.skills import Pick, grip_yaws
from pi_policy_node.sim.physics import Thing
from pi_policy_node.sim.tasks import FAMILIES, draw, look

ROBOT = load_robot("pi_mobile")
KINEMATICS = Kinematics(ROBOT)
# What a motion may use of each limit, a little less than where the bridge begins to slow it down (control/limits.py).
ALLOWED = {"position": 0.0, "velocity": 0.94, "acceleration": 0.84, "jerk": 0.8, "base acceleration": 0.84,
           "base jerk": 0.8, "base speed": 0.94, "tool speed": 0.92, "workspace": 0.0}


@pytest.fixture(scope="module")
def sim():
    simulator = Simulator(ROBOT, "empty", cameras=())
    yield simulator
    simulator.close()


@pytest.fixture(scope="module")
def expert():
    return Expert(ROBOT, KINEMATICS)


def play(sim, expert, task, *, seconds: float | None = None, start: np.ndarray | None = None, meddle=None):
    """Until the expert says it is done: rows [N, A] and the subtasks in words, in their order."""
    sim.reset(0, task.scene)
    expert.reset(ROBOT.home if start is None else start)
    rows, words = [], []
    for k in range(round((seconds or task.seconds) / ROBOT.dt)):
        view = look(sim)
        if meddle:
            meddle(k, view)
        act = expert.act(view, task)
        rows.append(act.row)
        if not words or words[-1] != act.subtask.words:
            words.append(act.subtask.words)
        sim.step(act.row)
        if act.subtask.kind == "done" and act.finished:
            break
    return np.array(rows), words


@pytest.mark.parametrize("name", FAMILIES)
def test_it_does_every_family_within_the_limits(sim, expert, name):
    for seed in (501, 502) if FAMILIES[name].seconds < 100 else (503,):
        task = draw(name, seed)
        rows, words = play(sim, expert, task)
        assert task.success(look(sim)), task.instruction
        assert words[-1] == "done" and len(words) >= 1 + len(task.goals)
        used = usage(ROBOT, KINEMATICS, np.concatenate([[ROBOT.home] * 3, rows]))
        assert all(used[limit] <= part for limit, part in ALLOWED.items()), used


def test_the_bridge_limits_none_of_its_rows(sim, expert):
    start = np.where(ROBOT.is_gripper, 0.97, ROBOT.home)  # not at the end of their range, where the bridge rounds
    rows, _ = play(sim, expert, draw("bring", 7), seconds=6.0, start=start)
    rows = np.concatenate([np.tile(start, (5, 1)), rows])
    shaper, plan, dt = Shaper(ROBOT, kinematics=KINEMATICS), Timeline(ROBOT), ROBOT.dt
    shaper.start(0.0, start)
    times = 0.1 + dt * np.arange(len(rows))
    plan.splice(times, rows, dt=dt, now=0.0, blind_after=np.inf)
    for k in range(len(rows) - 10):  # the last rows are cut off in mid-motion
        assert shaper.follow(k * dt, plan.aim(k * dt + shaper.blend), plan.aim(k * dt)) is not None
        assert not shaper.limited, f"row {k}"
    assert shaper.command(times[-20]) == pytest.approx(rows[-20], abs=5e-3)


def test_closed_form_and_numbers_agree_and_what_is_out_of_reach_is_said(expert):
    rng = np.random.default_rng(0)
    for arm in expert.arms.values():
        for _ in range(30):
            point = arm.home + rng.uniform([-0.03, -0.1, -0.1], [0.12, 0.1, 0.1])
            yaw = arm.natural_yaw(point) + rng.uniform(-1.5, 1.5)
            row = ROBOT.home.copy()
            row[arm.columns] = arm.joints(point, yaw, row[arm.lift])
            assert KINEMATICS.tools(row)[arm.name] == pytest.approx(point, abs=1e-9)
            pose = KINEMATICS.link_pose(row, arm.name.replace("arm", "tool"))
            assert pose[:3, 0] == pytest.approx([0, 0, -1], abs=1e-9)
            assert abs(pose[:2, 1] @ [np.cos(yaw), np.sin(yaw)]) == pytest.approx(1.0, abs=1e-9)
        with pytest.raises(ReachError, match="not 0.177 to 0.572"):
            arm.joints(arm.home + [0.5, 0, 0], 0.0, 0.25)


def test_a_follower_never_overshoots_nor_breaks_its_pace():
    follower = Follower(np.zeros(3), TOOL, 0.02)
    path = np.array([follower.step([0.4, 0.1, -0.2]) for _ in range(300)])
    assert path[-1] == pytest.approx([0.4, 0.1, -0.2], abs=1e-4)
    assert (path[:, 0] < 0.401).all()
    speed = np.linalg.norm(np.diff(path, axis=0), axis=1) / 0.02
    assert speed.max() <= TOOL.speed + 1e-9


def test_a_nudged_thing_is_followed(sim, expert):
    task = draw("put", 11)
    goal, = task.goals
    nudged = []

    def meddle(k, view):
        if not nudged and any(np.linalg.norm(t - view.things[goal.thing].position) < 0.06 for t in view.tools.values()):
            sim.physics.push(goal.thing, [-0.3, 0.2, 0.0])
            nudged.append(k)

    play(sim, expert, task, meddle=meddle)
    assert nudged and task.success(look(sim))


def test_what_slips_is_picked_up_again(sim, expert):
    task = draw("put", 12)
    goal, = task.goals
    dropped = []

    def meddle(k, view):
        if not dropped and goal.thing in view.held().values() and view.things[goal.thing].position[2] > 0.815:
            position = view.things[goal.thing].position
            sim.physics.place(goal.thing, [position[0], position[1] + 0.03, 0.70])
            dropped.append(k)

    _, words = play(sim, expert, task, meddle=meddle)
    assert dropped and task.success(look(sim))
    assert words.count(words[0]) == 2  # "pick up ..." twice


def test_it_takes_over_from_any_pose(sim, expert):
    """As in corrections: the arms are somewhere, pointing anywhere; the first rows go on from there without a jump."""
    rng = np.random.default_rng(3)
    task = draw("put", 13)
    start = ROBOT.home.copy()
    start[:6] += rng.uniform(-0.3, 0.3, 6)
    start[7:13] += rng.uniform(-0.3, 0.3, 6)
    sim.reset(0, task.scene)
    for u in np.linspace(0, 1, 60):
        sim.step(ROBOT.home + (start - ROBOT.home) * u * u * (3 - 2 * u))
    expert.reset(start)
    before, finished = start, False
    for _ in range(1500):
        act = expert.act(look(sim), task)
        assert (np.abs(act.row - before)[:15] <= ROBOT.velocity[:15] * ROBOT.dt).all()
        before = act.row
        sim.step(act.row)
        finished = finished or (act.subtask.kind == "done" and act.finished)
        if finished:
            break
    assert task.success(look(sim))


def test_the_example_in_the_docs_runs(capsys):
    page = (checkout() / "docs" / "tasks.md").read_text()
    exec(compile(page.split("```python\n")[1].split("```")[0], "docs/tasks.md", "exec"), {})
    assert capsys.readouterr().out == "move the black cylinder to the green tray True\n"


@pytest.mark.parametrize("kind", ["block", "brick", "cylinder", "prism", "ball"])
def test_there_is_a_way_to_grip_whatever_way_a_thing_leans(kind):
    rng = np.random.default_rng(0)
    turns = rng.normal(size=(300, 4))
    turns = [*(turns / np.linalg.norm(turns, axis=1, keepdims=True)), np.array([np.cos(np.pi / 8), 0, np.sin(np.pi / 8), 0])]
    for quaternion in turns:
        yaws = grip_yaws(Thing(kind, "red", np.zeros(3), quaternion, np.zeros(3)))
        assert yaws and np.isfinite(yaws).all(), quaternion


def test_a_hand_turns_for_what_is_round_only_where_something_is_in_its_way(sim, expert):
    sim.reset(0, draw("put", 0).scene)
    view = look(sim)
    thing = next(iter(view.things.values()))
    ball = thing._replace(kind="ball", position=np.array([0.0, 0.0, 0.72]))
    at = view.to_base(ball.position)

    def chosen(now, *others):
        things = {"ball": ball} | {str(k): ball._replace(position=ball.position + off) for k, off in enumerate(others)}
        pick = Pick("ball", expert.arms["left_arm"])
        for turned in (now, now + 0.1):  # on the way it stays with what it chose
            hand = SimpleNamespace(yaw=SimpleNamespace(position=[turned]))
            pick._choose(replace(view, things=things), at, hand)
        return pick._yaw

    for now in expert.arms["left_arm"].natural_yaw(at) + np.array([-0.3, 0.0, 0.17]):
        assert np.isclose(chosen(now), now)
        finger = 0.05 * np.array([np.cos(now), np.sin(now), 0.0])
        assert abs(chosen(now, finger, -finger) - now) > 0.3


def test_of_arms_that_reach_the_one_whose_hand_is_nearest_picks_up(sim, expert):
    expert.reset(ROBOT.home)
    free = bound = 0
    for seed in range(40):
        task = draw("put", seed)
        sim.reset(0, task.scene)
        view, goal = look(sim), task.goals[0]
        thing, arms = view.things[goal.thing].position, ("left_arm", "right_arm")
        chosen = [expert._choose(replace(view, tools={a: thing + [0, 0, 0.1 if a == near else 0.2] + (
            [0.1, 0, 0] if a != near else [0, 0, 0]) for a in arms}), task, goal.thing) for near in arms]
        free, bound = free + (chosen == list(arms)), bound + (chosen[0] == chosen[1])
    assert free + bound == 40 and free > 3 and bound > 3, "where one alone reaches, it is that one"
