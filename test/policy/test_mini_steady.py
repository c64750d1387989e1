"""A thing lies where it lay, whatever one look makes of it, until several agree that it does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pi_policy_node.policy.mini_plans import (
    ABOVE,
    FURTHER,
    GRIPS,
    LEVEL,
    LIFTED,
    OPEN,
    OUTMOST,
    SHUT,
    TO_CLOSE,
    TO_OPEN,
    TURNS,
    docked,
    drawn,
    faced,
    lowered,
    pulled,
)
from pi_policy_node.policy.mini_rows import hands
from pi_policy_node.policy.mini_scene import placed, spotted
from pi_policy_node.policy.mini_steady import FORGETS, LOOKS, Steady
from pi_policy_node.policy.mini_words import PLACES
from pi_policy_node.robot import Kinematics, load_robot
from pi_policy_node.sim import world

ROBOT = load_robot("pi_mobile")
PICK, THEN = "pick up the red block", "place it in the blue bin"
HERE, THERE = np.array([0.45, 0.20, 0.72]), np.array([0.45, 0.10, 0.72])


class Looks:
    """Looks at one thing, 0.2 s apart."""

    def __init__(self) -> None:
        self.steady, self.stamp = Steady(), 0.0

    def at(self, place, sure=0.9, subtask=PICK, after=0.2):
        self.stamp += after
        return self.steady.take(subtask, np.asarray(place), sure, self.stamp)


@pytest.fixture
def looks():
    return Looks()


def test_one_look_that_says_otherwise_is_not_believed(looks):
    looks.at(HERE)
    assert np.array_equal(looks.at(THERE), HERE)
    assert np.array_equal(looks.at(HERE), HERE)
    assert [np.array_equal(looks.at(THERE), THERE) for _ in range(LOOKS)] == [False] * (LOOKS - 1) + [True], (
        "several in a row are")


def test_looks_that_say_this_and_that_do_not_agree(looks):
    looks.at(HERE)
    for k in range(2 * LOOKS):
        assert np.array_equal(looks.at(HERE + [0.0, 0.1 * (-1) ** k, 0.0]), HERE)


def test_small_differences_are_evened_out_but_not_how_high_it_is(looks):
    looks.at(HERE)
    assert looks.at(HERE + [0.02, 0.0, 0.05]) == pytest.approx(HERE + [0.01, 0.0, 0.05])


def test_who_is_not_sure_is_not_listened_to(looks):
    assert np.array_equal(looks.at(THERE, sure=0.2), THERE), "as long as there is nothing better"
    looks.at(HERE)
    assert all(np.array_equal(looks.at(THERE, sure=0.2), HERE) for _ in range(LOOKS + 1))
    assert np.array_equal(looks.at(THERE, sure=0.2, after=FORGETS), THERE), "it is forgotten"


def test_it_knows_where_something_is_once_it_has_seen_it_surely(looks):
    for sure, knows in ((0.2, False), (0.9, True), (0.2, True)):
        looks.at(HERE, sure=sure)
        assert looks.steady.knows == knows
    looks.at(HERE + [0.0, 0.0, 0.1], sure=0.2)
    assert looks.at(THERE + [0.0, 0.0, 0.1]) == pytest.approx(HERE), "how high it is, too"
    looks.at(HERE, sure=0.2, after=FORGETS)
    assert not looks.steady.knows


def test_it_keeps_how_high_something_lay_before_it_was_lifted(looks):
    for up in (0.01, 0.0, 0.03, 0.10):
        looks.at(HERE + [0, 0, up])
    assert looks.steady.lay == pytest.approx(HERE[2])
    for _ in range(LOOKS):
        looks.at(THERE + [0, 0, 0.10])
    assert looks.steady.lay == pytest.approx(HERE[2]), "though it is seen elsewhere, in a hand"
    looks.at(HERE, sure=0.2, after=FORGETS)
    looks.at(HERE + [0, 0, 0.10])
    assert looks.steady.lay == pytest.approx(HERE[2]), "nor is that forgotten"
    looks.at(HERE, subtask=THEN, sure=0.2)
    assert looks.steady.lay == np.inf, "of something else"


def test_it_says_since_when_it_does_not_know_any_more(looks):
    looks.at(HERE, sure=0.2)
    assert looks.steady.lost == -np.inf
    looks.at(HERE)
    looks.at(HERE, sure=0.2, after=FORGETS)
    assert looks.steady.lost == looks.stamp
    looks.at(HERE, sure=0.2)
    assert looks.steady.lost == looks.stamp - 0.2
    looks.at(HERE, sure=0.2, subtask=THEN)
    assert looks.steady.lost == -np.inf


def test_something_else_is_looked_for_anew(looks):
    looks.at(HERE)
    assert np.array_equal(looks.at(THERE, subtask=THEN), THERE)
    looks.stamp = 0.0
    assert np.array_equal(looks.at(HERE, subtask=THEN), HERE), "and so it is where time begins again"


def test_a_place_is_told_in_a_cameras_frame():
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    cameras = torch.cat((turn, torch.tensor([[0.1], [0.2], [1.1]])), 1)[None, None]
    spots = torch.tensor([[[0.3, -0.1, 0.8]]])
    assert torch.allclose(spotted(cameras, placed(cameras, spots)), spots, atol=1e-6)


@pytest.mark.parametrize("closes, start", [(True, TO_CLOSE), (False, TO_OPEN)])
def test_plans_that_come_near_the_place_are_drawn_to_it(closes, start):
    """From above alone, without turning the hand; and nothing that is far from it."""
    kinematics, columns = Kinematics(ROBOT), ROBOT.group("left_arm").columns
    knots = np.repeat(ROBOT.home[None], 11, axis=0)
    knots[:, columns.start] += np.linspace(0.6, 0.0, 11)  # the left hand swings in from the side
    place = kinematics.tools(ROBOT.home)["left_arm"] + [0.010, 0.010, -0.05]
    made = drawn(ROBOT, kinematics, knots, place, closes)
    before, after = (kinematics.tools(k)["left_arm"] for k in (knots, made))
    far, near = (np.hypot(*(tools - place)[:, :2].T) for tools in (before, after))
    assert far[-1] > 0.014 and near[-1] < 0.35 * far[-1] and (near <= far + 1e-4).all()
    assert np.array_equal(made[far > start], knots[far > start]) and (far > start).sum() >= 5
    assert np.abs(after[:, 2] - before[:, 2]).max() < 2e-3
    turn = [kinematics.link_pose(k[-1], "left_tool")[:3, :3] for k in (knots, made)]
    assert np.allclose(*turn, atol=0.01)
    others = np.delete(made, np.arange(columns.start, columns.stop), 1)
    assert np.array_equal(others, np.delete(knots, np.arange(columns.start, columns.stop), 1)), "the other hand is far"


def _hand(arm, heights, openings, now):
    """A state whose hand is open by `now`, and knots in which it goes straight up and down over `place` with these
    openings; and how to look at such knots: heights over the place, and openings."""
    kinematics, columns = Kinematics(ROBOT), ROBOT.group(arm).columns
    fingers = ROBOT.group(arm.replace("_arm", "_gripper")).columns.start
    state = ROBOT.home.copy()
    state[fingers] = now
    knots = np.repeat(state[None], 11, axis=0)
    knots[:, fingers] = openings
    place = kinematics.tools(state)[arm] + [0, 0, -0.05]
    for _ in range(4):  # a few steps of Newton's
        off = place[2] + heights - kinematics.tools(knots)[arm][:, 2]
        knots[:, columns] += kinematics.ways(knots)[arm][..., 2] * off[:, None]

    def seen(made):
        return kinematics.tools(made)[arm][:, 2] - place[2], made[:, fingers]

    return kinematics, state, knots, place, seen


MOVES = np.array([0.03, 0.1, 0.35, 0.55, 0.75, 0.9, 0.97, 0.97, 0.97, 0.97, 0.97])  # fingers that let go, from now on


@pytest.mark.parametrize("closes", [True, False])
@pytest.mark.parametrize("arm", ["left_arm", "right_arm"])
def test_a_hand_comes_down_to_a_place_before_its_fingers_move_and_rises_when_they_have(arm, closes):
    """Played on by a robot that goes two knots of each plan, whose network stops 4 cm too high, and rises at once."""
    high, moved = 0.040, [0.03]
    for _ in range(12):
        begins = moved[-1] <= SHUT
        heights = high + (np.r_[[0.0] * 3, np.linspace(0.01, 0.08, 8)] if begins else np.linspace(0.0, 0.1, 11))
        moves = MOVES.copy() if begins else np.minimum(0.97, moved[-1] + 0.2 * np.arange(11))
        moves[0] = moved[-1]
        now = max(0.03 if closes else 0.5, moves[0] - 0.1)  # fingers lag behind
        told = (lambda done: 1 - done) if closes else (lambda done: done)
        kinematics, state, knots, place, seen = _hand(arm, heights, told(moves), told(now))
        after, openings = seen(lowered(ROBOT, kinematics, knots, state, place, closes, True, True))
        assert np.diff(after).min() > -0.02 and np.diff(told(openings)).min() >= -1e-9
        for done, there in zip(told(openings)[1:3], after[1:3]):
            moved.append(done)
            if SHUT < done < OPEN:
                assert abs(there - ABOVE) < LEVEL + 3e-3, "fingers move where the thing is, or is to lie, and it stays"
        high = after[2]
        if moved[-1] >= OPEN:
            break
    assert moved[-1] >= OPEN and len(moved) <= 18, "and they do move"


@pytest.mark.parametrize("closes", [True, False])
@pytest.mark.parametrize("arm", ["left_arm", "right_arm"])
def test_hands_whose_fingers_do_not_begin_to_move_here_go_where_the_network_sends_them(arm, closes):
    rests, rises = np.full(11, 0.03), 0.04 + np.linspace(0.0, 0.07, 11)
    told = (lambda done: 1 - done) if closes else (lambda done: done)
    cases = ((rests, 0.5, 0.0), (MOVES, 0.97, 0.0), (MOVES, 0.03, 0.08), (np.full(11, 0.97), 0.5, 0.0),
             (np.linspace(0.6, 0.03, 11), 0.65, 0.0))  # it rests; has moved them already; is elsewhere; has; turns back
    for moves, now, aside in cases:
        kinematics, state, knots, place, _ = _hand(arm, rises, told(moves), told(now))
        made = lowered(ROBOT, kinematics, knots, state, place + [aside, 0, 0], closes, True, True)
        if aside and not closes:
            knots[1:, ROBOT.group(arm.replace("_arm", "_gripper")).columns] = GRIPS  # it holds it
        assert np.array_equal(made, knots)
    if not closes:
        kinematics, state, knots, place, seen = _hand(arm, rises, MOVES + 0.4, 0.48)
        openings = seen(lowered(ROBOT, kinematics, knots, state, place + [0.08, 0, 0], False, True, True))[1]
        assert (openings[1:] == GRIPS).all(), "and what is about to slip out of it, it grips"
    if closes:
        kinematics, state, knots, place, _ = _hand(arm, rises, np.full(11, 0.65), 0.65)
        made = lowered(ROBOT, kinematics, knots, state, place, True, True, True)
        assert np.array_equal(made, knots), "it comes half open, for something stands beside it"
    kinematics, state, knots, place, seen = _hand(arm, rises, told(np.r_[0.68, np.linspace(0.2, 0.9, 10)]), told(0.6))
    openings = seen(lowered(ROBOT, kinematics, knots, state, place, closes, True, True))[1]
    assert (told(openings)[6:] >= OPEN).all(), "what has begun comes to its end"
    assert np.diff(told(openings)).min() >= 0, "what it lets go it does not grip, and the other way round"


def test_a_hand_that_does_not_know_where_a_thing_goes_holds_it_and_does_not_come_down_to_another():
    for closes, held in ((False, True), (True, False)):
        told = (lambda done: 1 - done) if closes else (lambda done: done)
        kinematics, state, knots, place, seen = _hand("left_arm", np.full(11, 0.04), told(MOVES), told(0.03))
        heights, openings = seen(lowered(ROBOT, kinematics, knots, state, place, closes, False, True))
        assert heights == pytest.approx(np.full(11, 0.04), abs=1e-3)
        assert (openings[1:] == GRIPS).all() if held else np.array_equal(openings, told(MOVES))


def test_what_a_hand_has_gripped_it_does_not_drop_but_what_it_did_not_lift_it_may_try_again():
    drops, closed, fingers = np.linspace(0.03, 0.9, 11), 0.5, ROBOT.group("left_gripper").columns.start
    lifted, lies = LIFTED + 0.01, LIFTED - 0.01
    for height, now, kept in ((lifted, closed, True), (lies, closed, False), (lifted, 0.02, False)):
        kinematics, state, knots, place, _ = _hand("left_arm", np.full(11, height), drops, now)
        made = lowered(ROBOT, kinematics, knots, state, place, True, True, True)
        assert np.array_equal(np.delete(made, fingers, 1), np.delete(knots, fingers, 1))
        assert (made[:, fingers].max() <= 0.03) == kept
        made = lowered(ROBOT, kinematics, knots, state, place, True, True, False)
        assert np.array_equal(made, knots), "nor for ever"
    opens = np.linspace(closed + 0.05, 0.9, 11)
    kinematics, state, knots, place, _ = _hand("left_arm", np.full(11, 0.05), opens, closed)
    assert np.array_equal(lowered(ROBOT, kinematics, knots, state, place, True, True, True), knots), (
        "fingers that just open have nothing between them")


def test_a_hand_that_has_nothing_to_put_down_does_not_close():
    kinematics, state, knots, place, seen = _hand("left_arm", np.full(11, 0.05), np.linspace(0.97, 0.03, 11), 0.95)
    assert seen(lowered(ROBOT, kinematics, knots, state, place, False, True, True))[1].min() == 0.97


@pytest.mark.parametrize("arm", ["left_arm", "right_arm"])
def test_a_hand_over_a_thing_turns_to_it_and_never_to_the_wrists_stop(arm):
    """Wherever its wrist is: a network that had turned past one direction went on to the next one, and to the stop."""
    kinematics, columns = Kinematics(ROBOT), ROBOT.group(arm).columns
    which, wrist = ("left_arm", "right_arm").index(arm), columns.stop - 1
    place = kinematics.tools(ROBOT.home)[arm] - [0, 0, 0.05]

    def yaw(row):
        return float(hands(ROBOT, kinematics, row[None])[1][0, which])

    def goes(angle, ways, place=place, opening=1.0):
        state = ROBOT.home.copy()
        state[wrist], state[ROBOT.is_gripper] = angle, opening
        return state, faced(ROBOT, kinematics, np.repeat(state[None], 11, axis=0), state, place, ways)

    for angle in np.linspace(-3.0, 3.0, 13):
        for way in np.linspace(0.0, 3.1, 8):
            state, knots = goes(angle, [way])
            for _ in range(4):
                state, knots = goes(knots[-1, wrist], [way])
            assert abs(state[wrist]) < OUTMOST + 0.4
            assert abs((yaw(state) - way + np.pi / 2) % np.pi - np.pi / 2) < 0.4, "a little the network may be off"
            assert np.abs(np.diff(knots[:, wrist])).max() < 0.3
    state, knots = goes(0.0, [yaw(ROBOT.home) + 0.1])
    assert np.array_equal(knots[-1], state)
    state, knots = goes(1.5, [yaw(ROBOT.home), yaw(ROBOT.home) + np.pi / 2])
    assert np.array_equal(knots[-1], state), "of two directions it is in one already"
    for change in ({"place": place + [0.2, 0.0, 0.0]}, {"place": place + [0.0, 0.0, 0.035]}, {"opening": 0.4}):
        state, knots = goes(-2.6, [yaw(ROBOT.home)], **change)
        assert np.array_equal(knots[-1], state)
    state, knots = goes(-2.6, [])
    assert np.array_equal(knots[-1], state)


@pytest.mark.parametrize("arm", ["left_arm", "right_arm"])
def test_how_a_hand_is_turned_while_it_moves_and_closes(arm):
    kinematics, columns = Kinematics(ROBOT), ROBOT.group(arm).columns
    wrist, fingers = columns.stop - 1, ROBOT.group(arm.replace("_arm", "_gripper")).columns.start
    state, place = ROBOT.home.copy(), kinematics.tools(ROBOT.home)[arm] - [0, 0, 0.05]
    way = [float(hands(ROBOT, kinematics, state[None])[1][0, ("left_arm", "right_arm").index(arm)])]
    knots = np.repeat(state[None], 11, axis=0)
    knots[:, wrist] += np.linspace(-0.15, 0.15, 11)
    assert np.array_equal(faced(ROBOT, kinematics, knots, state, place, way), knots), "across the direction and on"
    if (about := way[0] - np.pi) > -OUTMOST:  # where the hand's angle jumps from pi to -pi
        there = state.copy()
        there[wrist] += about
        crossing = knots + (there - state)
        assert np.array_equal(faced(ROBOT, kinematics, crossing, there, place, [np.pi - 1e-3]), crossing)
        assert arm == "left_arm", "the right one's wrist does not reach that"
    knots[:, wrist] = state[wrist] + 1.0
    knots[:, columns.start] += np.linspace(0.3, 0.0, 11)  # it swings in from the side
    made = (faced(ROBOT, kinematics, knots, state, place, way) - knots)[:, wrist]
    assert made[0] == 0 and np.abs(np.diff(made)).max() <= TURNS + 1e-9 and abs(made[-1]) > 0.5
    knots[:, columns.start] = state[columns.start]
    knots[3:, fingers] = 0.3
    made = (faced(ROBOT, kinematics, knots, state, place, way) - knots)[:, wrist]
    assert made[2] != 0 and (made[3:] == made[2]).all(), "fingers that close do not turn"


def test_a_hand_that_pulls_goes_on_a_little_and_an_open_one_does_not():
    kinematics, state = Kinematics(ROBOT), ROBOT.home.copy()
    knots = np.repeat(state[None], 11, axis=0)
    knots[:, ROBOT.group("left_arm").columns.start] -= np.linspace(0.0, 0.2, 11)  # 5 cm
    fingers = ROBOT.group("left_gripper").columns.start
    assert np.array_equal(pulled(ROBOT, kinematics, knots, state), knots)
    state[fingers] = 0.1
    before, after = (kinematics.tools(k)["left_arm"] for k in (knots, pulled(ROBOT, kinematics, knots, state)))
    way = (before[-1] - before[0]) / np.linalg.norm(before[-1] - before[0])
    assert (after - before)[-1] @ way == pytest.approx(FURTHER, rel=0.1) and np.array_equal(after[0], before[0])
    still = np.repeat(state[None], 11, axis=0)
    assert np.array_equal(pulled(ROBOT, kinematics, still, state), still)


def test_a_base_that_is_about_to_arrive_comes_to_stand_at_the_place():
    base, every = np.flatnonzero(ROBOT.is_base), 0.1
    knots = np.repeat(ROBOT.home[None], 11, axis=0)
    knots[:, base] = [0.01, 0.0, 0.0]  # it creeps on

    def left(x, y, turn):
        """m and rad to go after three seconds of chunks, each looked at anew."""
        for _ in range(30):
            vx, vy, wz = docked(ROBOT, knots, every, np.array([x, y, np.cos(turn), np.sin(turn)]))[0, base]
            c, s, dx, dy = np.cos(wz * every), np.sin(wz * every), x - vx * every, y - vy * every
            x, y, turn = c * dx + s * dy, c * dy - s * dx, turn - wz * every
        return np.hypot(x, y), abs(turn)

    assert max(left(-0.07, 0.05, 0.1)) < 0.02 and max(left(0.0, 0.0, 0.0)) < 0.01
    for far in ((0.3, 0.0, 0.0), (0.0, 0.0, 1.0)):
        stand = np.array([*far[:2], np.cos(far[2]), np.sin(far[2])])
        assert np.array_equal(docked(ROBOT, knots, every, stand), knots), "while it is far the network drives"


def test_the_places_are_those_of_the_room_in_their_order():
    assert PLACES == tuple(world.PLACES)
