"""What mini does next where its eyes and fingers know better than its words."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mini_world import ALL, BALL, BESIDE, BIN, HERE, ONE, PICK, ROBOT, THEN, observation, put_down

from pi_policy_node.policy.mini import HOLDS, STALE, MiniPolicy
from pi_policy_node.policy.mini_eyes import harmonics
from pi_policy_node.policy.mini_next import ASTRAY, BLIND, TIRES
from pi_policy_node.policy.mini_rows import hands
from pi_policy_node.robot import Kinematics


def test_what_is_next_is_chosen_once_the_answer_is_out(world):
    def look(stamp, prompt=ONE):
        return world.policy.infer(observation(prompt, stamp, 0.5)).subtask

    assert look(0.0) == PICK, "new words do not wait"
    world.says = THEN
    assert look(0.5) == PICK, "and an answer does not wait for them"
    world.policy.afterwards()
    world.says = BALL
    world.policy.afterwards()
    assert look(0.7) == THEN, "nothing was left to choose"
    assert look(1.2) == THEN
    assert look(1.4) == BALL, "the next answer does what nobody did"
    world.says = PICK
    assert look(1.9) == BALL
    assert look(2.1, ALL) != BALL, "what nobody asks for any more is not chosen"
    world.policy.reset()
    world.policy.afterwards()
    assert world.policy._asked.next.subtask == ""


@pytest.mark.parametrize("chosen", [True, False])
def test_after_a_gap_nothing_is_done_as_it_was_chosen_before(world, chosen):
    def look(stamp):
        return world.policy.infer(observation(ONE, stamp, 0.5)).subtask

    assert look(0.0) == PICK
    world.says = THEN
    assert look(0.5) == PICK
    if chosen:
        world.policy.afterwards()
    world.says = PICK
    assert look(0.5 + STALE) == PICK, "it looks anew"
    world.says = THEN
    assert look(0.1) == THEN, "and so it does where time begins again"


def test_what_is_in_a_hand_is_not_picked_up(world):
    put_down(world)
    world.places[PICK], world.opening = world.in_hand(), 0.5
    assert world.ask(PICK) == THEN
    world.places[PICK], world.sure[PICK] = HERE, 0.5
    assert world.ask(PICK) == THEN, "fingers know it better than eyes that are not sure"
    world.sure[PICK] = 0.9
    assert world.ask(PICK) == PICK, "it is seen elsewhere"
    put_down(world)
    world.places[PICK], world.opening = world.in_hand(), 1.0
    assert world.ask(PICK) == PICK, "the hand is open"


@pytest.mark.parametrize("prompt", [ONE, ALL])
def test_with_something_in_hand_it_picks_up_nothing_else(world, prompt):
    world.likely |= {PICK: -0.5, BALL: -3.0, "done": -12.0}
    world.seen |= {PICK: 0.8}
    assert world.ask(PICK, prompt) == PICK
    world.opening, world.seen, world.likely[BALL] = 0.5, {BALL: 0.9}, 0.0
    assert [world.ask(BALL, prompt), world.ask(BALL, prompt, after=TIRES + 1)] == [PICK] * 2
    for world.opening in (0.02, 0.9):
        world.policy.reset()
        world.ask(PICK, prompt)
        assert world.ask(BALL, prompt, after=TIRES + 1) == BALL, "it has nothing in hand"


def test_what_is_in_a_hand_is_driven_on_with(world):
    drive = "drive to the counter"
    assert [world.ask(says) for says in (PICK, drive)] == [PICK, drive]
    world.places[PICK], world.opening = world.in_hand(), 0.5
    assert [world.ask(PICK), world.ask("drive to the table")] == [drive] * 2
    world.opening = 1.0
    assert world.ask(PICK) == PICK, "it has lost it"


@pytest.mark.parametrize("nonsense", ["drive to the black", "pick up the black white block"])
def test_words_that_name_nothing_there_is_are_not_heard(world, nonsense):
    assert [world.ask(says) for says in (PICK, nonsense)] == [PICK, PICK]
    world.opening = 0.5
    assert [world.ask(says) for says in (THEN, nonsense)] == [THEN, THEN]


def test_one_of_many_things_in_hand_is_put_down_before_all_else(world):
    drive = "drive to the counter"
    world.likely |= {PICK: -0.5, "done": -12.0}
    world.seen |= {PICK: 0.8}
    put_down(world, ALL)
    world.places[PICK], world.opening = world.in_hand(), 0.5
    assert [world.ask(says, ALL) for says in (drive, "done", BALL)] == [THEN] * 3
    world.policy.reset()
    assert [world.ask(says, ALL) for says in (PICK, drive)] == [PICK] * 2, "nor before it is put down"
    assert world.ask(THEN, ALL) == THEN
    assert world.ask(drive, ONE) == drive, "other words: where one thing goes may be elsewhere"


def test_what_has_arrived_is_not_picked_up_again(world):
    put_down(world)
    world.places[PICK] = BESIDE
    assert world.ask(PICK) == "done"
    world.opening = 0.5
    assert world.ask(PICK) == PICK, "with something in a hand it is not done"
    world.opening, world.sure[THEN] = None, 0.5
    world.places[PICK] = world.in_hand()
    put_down(world)
    assert world.ask(THEN) == THEN
    world.opening = 1.0
    assert [world.ask(THEN), world.ask(PICK)] == [THEN, PICK], "nor where it has not seen the place"


def test_what_was_let_go_where_it_has_to_go_is_there_though_that_is_hidden(world):
    def play(thing, hidden):
        world.policy.reset()
        world.places |= {PICK: world.in_hand(), THEN: world.in_hand()}
        world.opening = 1.0
        assert world.ask(PICK) == PICK
        world.opening = 0.5
        assert [world.ask(THEN), world.ask(THEN)] == [THEN] * 2
        world.opening = 1.0
        assert world.ask(THEN) == THEN, "there it stands, about the thing"
        world.places |= {words: tuple(np.add(world.in_hand(), off)) for words, off in ((PICK, thing), (THEN, hidden))}
        return world.ask(PICK)

    assert play((0.01, 0.0, 0.0), (0.0, 0.07, 0.0)) == "done", "something else is taken for what it stands on"
    assert play((0.06, 0.0, 0.0), (0.0, 0.07, 0.0)) == PICK, "it has fallen beside it"
    assert play((0.12, 0.0, 0.0), (0.0, 0.0, 0.0)) == PICK
    assert play((0.01, 0.0, 0.0), (0.0, ASTRAY + 0.01, 0.0)) == PICK, "it was let go beside where it has to go"


@pytest.mark.parametrize("beside, says", [(0.02, "done"), (0.06, PICK)])
def test_an_empty_hand_does_not_stand_where_it_has_put_something_a_little_beside(world, beside, says):
    put_down(world)
    world.places[PICK], world.opening = (BIN[0], BIN[1] + beside, 0.74), 1.0
    assert world.ask(THEN) == says


@pytest.mark.parametrize("prompt", [ONE, ALL])
def test_hands_that_are_empty_have_nothing_to_put_down_whatever_the_network_says(world, prompt):
    world.likely |= {PICK: -0.5, "done": -4.0}
    world.seen |= {PICK: 0.8}
    put_down(world, prompt)
    world.opening = 1.0
    assert world.ask(THEN, prompt) == PICK, "that is where it was"
    if prompt == ONE:
        world.places[PICK] = BESIDE
    else:
        world.seen, world.sure[PICK] = {}, 0.0
    assert [world.ask(THEN, prompt) for _ in range(BLIND + 1)][-1] == "done"


def test_what_is_astray_is_picked_up_again_whatever_the_network_says(world):
    put_down(world)
    assert world.ask("done") == PICK
    world.places[PICK] = (BIN[0], BIN[1] + 0.06, 0.74)
    assert world.ask("done") == "done", "between the two the network is believed"


def test_next_to_something_is_on_the_side_where_there_is_room(world, others):
    beside, sides = "place it next to the blue bin", [f"place it to the {side} of the blue bin" for side in (
        "left", "right")]
    world.places |= dict(zip(sides, [(0.50, 0.20, 0.74), (0.50, 0.00, 0.74)]))
    for other, side in (((0.52, 0.22, 0.72), sides[1]), ((0.52, 0.02, 0.72), sides[0])):
        others[:] = [list(other)]
        world.policy.reset()
        world.ask(PICK)
        assert world.ask(beside) == side
        others.clear()
        assert world.ask(beside) == side, "and it stays with that"
    world.places[PICK] = (0.51, 0.21, 0.74)
    assert world.ask(PICK) == "done", "whose place is known"


def test_on_a_surface_a_thing_is_put_where_nothing_stands(world, told, others):
    onto, prompt = "place it on the counter", "bring the red block to the counter"
    world.places[onto] = BIN
    assert [world.ask(PICK, prompt), world.ask(onto, prompt)] == [PICK, onto]
    assert np.allclose(told[-1], BIN, atol=1e-6), "where eyes say, if nothing stands there"
    world.policy.reset()
    others[:] = [[BIN[0] + 0.02, BIN[1], 0.72], [BIN[0] + 0.02, BIN[1] + 0.12, 0.72]]
    assert [world.ask(PICK, prompt), world.ask(onto, prompt)] == [PICK, onto]
    spot = told[-1][:2]
    assert min(np.hypot(*(spot - other[:2])) for other in others) > 0.07 and np.hypot(*(spot - BIN[:2])) < 0.1
    others[:] = [[*spot, 0.72]]  # its hand, and what it holds, come down there
    assert world.ask(onto, prompt) == onto and np.allclose(told[-1][:2], spot), "and it stays with that"
    assert world.ask(THEN, prompt) == THEN and np.allclose(told[-1], BIN, atol=1e-6), "elsewhere eyes know"


@pytest.mark.parametrize("first", [0.05, 0.9])
def test_a_hand_comes_down_before_it_lets_go_where_eyes_are_sure(world, monkeypatch, first):
    """first: what the network would tell fingers at once; where nothing was told before, they hold what they hold."""
    fingers = ROBOT.group("left_gripper").columns.start
    at, sees = world.in_hand() - np.array([0, 0, 0.05]), {}
    monkeypatch.setattr(world.model, "place", lambda look, found: (
        torch.tensor(at[None], dtype=torch.float32), torch.zeros(1, 6), torch.tensor([sees["sure"]])))
    state = ROBOT.home.copy()
    state[ROBOT.is_gripper] = world.opening = 0.5
    opens = np.repeat(state[None, None], 11, 1)
    opens[..., ROBOT.is_gripper] = np.minimum(0.97, first + 0.2 * np.arange(11))[:, None]
    knots = torch.as_tensor(world.policy.scales.knots_in(opens, np.where(
        ROBOT.is_base | ROBOT.is_gripper, 0.0, state)[None]))
    monkeypatch.setattr(world.model, "act", lambda scene, noise, **_: knots)
    monkeypatch.setattr(world.policy.chooser, "_is_held", lambda *_: False)
    heights = {}
    counter = "place it on the counter"
    for says, sees["sure"], after in ((THEN, 0.9, 0.0), (THEN, 0.3, HOLDS), (PICK, 0.9, 0.0), (counter, 0.3, 0.0)):
        world.policy.reset()
        world.says, world._stamp = says, world._stamp + 9.0
        for stamp in np.arange(0.0, after + 0.01, 0.5):
            rows = world.policy.infer(observation(ONE, world._stamp + stamp, 0.5)).actions
            if stamp < after:
                assert rows[:, fingers].max() < 0.5, "for a while it holds what it sees no place for"
        lets_go = np.flatnonzero(rows[:, fingers] > 0.5)
        heights[says, sees["sure"]] = [
            world.policy._kinematics.tools(row)["left_arm"][2] - at[2] for row in rows[lets_go[:1]]]
    assert heights[THEN, 0.9][0] < 0.02 and heights[THEN, 0.3][0] > 0.04
    assert heights[counter, 0.3][0] > 0.04, "there anywhere will do"
    assert not heights[PICK, 0.9], "what it has picked up it holds"


def test_a_hand_closes_where_a_thing_was_seen_lowest(world, monkeypatch):
    """One that comes near hides half of it, and eyes then see it higher."""
    fingers = ROBOT.group("left_gripper").columns.start
    at, up = world.in_hand() - np.array([0, 0, 0.05]), [0.0]
    monkeypatch.setattr(world.model, "place", lambda look, found: (
        torch.tensor((at + [0, 0, up[0]])[None], dtype=torch.float32), torch.zeros(1, 6), torch.tensor([0.9])))
    closes = np.repeat(ROBOT.home[None, None], 11, 1)
    closes[..., ROBOT.is_gripper] = np.maximum(0.03, 1.0 - 0.2 * np.arange(11))[:, None]
    knots = torch.as_tensor(world.policy.scales.knots_in(closes, np.where(
        ROBOT.is_base | ROBOT.is_gripper, 0.0, ROBOT.home)[None]))
    monkeypatch.setattr(world.model, "act", lambda scene, noise, **_: knots)
    for stamp, up[0] in ((0.0, 0.0), (0.2, 0.03)):
        rows = world.policy.infer(observation(ONE, stamp)).actions
    closed = np.flatnonzero(rows[:, fingers] < 0.5)[0]
    assert world.policy._kinematics.tools(rows[closed])["left_arm"][2] - at[2] < 0.01


def test_a_hand_over_a_thing_that_it_sees_is_turned_to_it_to_pick_it_up(world, monkeypatch):
    at, wrist = world.in_hand() - np.array([0, 0, 0.05]), ROBOT.group("left_arm").columns.stop - 1
    sees = {"sure": 0.9}
    brick = torch.tensor([harmonics([directions_of_home() + 1.0])], dtype=torch.float32)
    monkeypatch.setattr(world.model, "place", lambda look, found: (
        torch.tensor(at[None], dtype=torch.float32), brick, torch.tensor([sees["sure"]])))
    stays = torch.as_tensor(world.policy.scales.knots_in(np.repeat(ROBOT.home[None, None], 11, 1), np.where(
        ROBOT.is_base | ROBOT.is_gripper, 0.0, ROBOT.home)[None]))
    monkeypatch.setattr(world.model, "act", lambda scene, noise, **_: stays)
    turns = {}
    for says, sees["sure"] in ((PICK, 0.9), (THEN, 0.9), (PICK, 0.3)):
        world.policy.reset()
        world.says, world._stamp = says, world._stamp + 9.0
        rows = world.policy.infer(observation(ONE, world._stamp)).actions
        turns[says, sees["sure"]] = abs(rows[-1, wrist] - ROBOT.home[wrist])
    assert turns[PICK, 0.9] > 0.5 and max(turns[THEN, 0.9], turns[PICK, 0.3]) < 0.05


def directions_of_home() -> float:
    """rad: along which the left hand's fingers open at home."""
    return float(hands(ROBOT, Kinematics(ROBOT), ROBOT.home[None])[1][0, 0])


def test_that_one_thing_is_where_it_belongs_is_doubted_less_once_it_was_put_down(monkeypatch):
    policy = MiniPolicy(ROBOT, seed=0)
    done, heard, say = policy.words.encode("done"), [], {}

    def speak(scene, *, doubt=None, begun=(), **_):
        if doubt is not None:
            heard.append(float(doubt[done[0]]))
            assert float(doubt.sum()) == heard[-1], "nothing else is"
        return [policy.words.encode(say["next"])]

    monkeypatch.setattr(policy.model, "speak", speak)
    monkeypatch.setattr(policy.model, "weigh", lambda scene, words, **_: (False, -9.0 if words == done else 0.0))
    for prompt, doubts in ((ONE, [4.0, 4.0, 1.0, 1.0]), ("put everything red in the blue bin", [4.0] * 4)):
        heard.clear()
        for k, say["next"] in enumerate((PICK, THEN, "done", "done")):
            monkeypatch.setattr(policy.chooser, "_stay", -99.0)  # whatever is said is done
            policy.infer(observation(prompt, 0.5 * k))
            policy.afterwards()
        assert heard == doubts
