"""What mini does next where its instruction names no single thing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from mini_world import ALL, BALL, BESIDE, BIN, HERE, ONE, PICK, ROBOT, THEN, World, observation, put_down

from pi_policy_node.policy.mini import AGAIN, MiniPolicy
from pi_policy_node.policy.mini_next import ASIDE, ASIDE_IN_BIN, BLIND, DIM, HIGHER, TIRES
from pi_policy_node.policy.mini_scene import BEGIN


def test_of_many_things_it_picks_up_one_that_it_sees(world):
    world.likely |= {PICK: -0.5, BALL: -3.0, "done": -12.0}
    world.seen |= {BALL: 0.8}
    assert world.ask(PICK, ALL) == BALL
    world.seen |= {PICK: 0.6}
    assert world.ask(PICK, ALL) == BALL, "and stays with it"
    assert world.ask(PICK, ALL, after=TIRES + 1) == PICK, "until it has not come to anything for long"


def test_of_many_things_it_goes_on_with_one_that_its_hand_hides_for_a_moment(world):
    world.likely |= {PICK: -0.5, BALL: -3.0, "done": -12.0}
    world.seen |= {PICK: 0.8, BALL: 0.6}
    world.sure[PICK] = 0.0
    assert world.ask(PICK, ALL) == PICK
    world.seen[PICK], world.likely[PICK] = 0.0, -6.0
    assert [world.ask(PICK, ALL) for _ in range(DIM)] == [PICK] * (DIM - 1) + [BALL]
    world.policy.reset()
    world.seen, world.likely[PICK] = {}, -0.5
    assert world.ask(PICK, ALL) == PICK, "there is nothing better"
    world.seen, world.likely[PICK] = {BALL: 0.6}, -6.0
    assert world.ask(PICK, ALL) == BALL, "what it never saw nothing hides"


def test_of_many_things_it_leaves_those_that_are_where_they_belong(world):
    world.likely |= {PICK: -0.5, BALL: -3.0, "done": -12.0}
    world.seen |= {PICK: 0.8, BALL: 0.8}
    put_down(world, ALL)
    world.places |= {PICK: BESIDE, BALL: HERE}
    assert world.ask(PICK, ALL) == BALL


@pytest.mark.parametrize("onto, first, second, third", [
    ("place it on the blue tray", (0, 0, 0), (-ASIDE, 0, 0), (ASIDE, 0, 0)),
    (THEN, (0, 0, 0), (-ASIDE_IN_BIN, 0, HIGHER), (ASIDE_IN_BIN, 0, HIGHER)),
    ("place it to the left of the blue tray", (0, 0, 0), (0, 0, 0), (0, 0, 0))])
def test_one_thing_after_another_goes_beside_those_that_are_there(world, told, onto, first, second, third):
    world.places[onto], world.then = BIN, onto
    for pick, aside in ((PICK, first), (BALL, second), (BALL, second), ("pick up the red brick", third), (PICK, first)):
        world.likely = {**dict.fromkeys((PICK, BALL, "done"), -30.0), pick: -0.5}
        world.seen = {pick: 0.8}
        world.places[pick] = HERE
        prompt = "put everything red where it belongs"
        assert [world.ask(pick, prompt, after=TIRES + 1), world.ask(onto, prompt)] == [pick, onto]
        assert np.allclose(told[-1] - BIN, aside, atol=1e-6)
    world.policy.reset()
    assert [world.ask(pick, ONE) for pick in (PICK, onto, BALL, onto)] == [PICK, onto, BALL, onto]
    assert np.allclose(told[-1], BIN, atol=1e-6), "one thing that is named goes in the middle, whatever it took first"


def test_where_one_of_many_things_goes_is_what_most_looks_say_at_what_is_in_hand(world):
    """Before, they cannot know which one it is; later a hand hides the container that it is over, and eyes then take
    another one for it."""
    tray = "place it on the blue tray"
    world.likely |= {PICK: -0.5, "done": -12.0}
    world.seen |= {PICK: 0.8}
    world.then = tray
    assert [world.ask(PICK, ALL) for _ in range(5)] == [PICK] * 5 and world.policy._asked.next.then == tray
    assert [world.ask(THEN, ALL) for _ in range(3)] == [THEN] * 3
    assert [world.ask(tray, ALL) for _ in range(3)] == [THEN] * 3, "three looks of six: it does not go to and fro"
    assert world.ask("place it on the table", ALL) == THEN and not world.policy._asked.next.spot, "nor to another spot"
    assert world.ask(tray, ALL) == tray, "four of eight, and of no other more"
    world.likely, world.places = {BALL: -0.5, "done": -12.0}, {**world.places, BALL: HERE, tray: BIN}
    world.seen, world.then = {BALL: 0.8}, tray
    assert world.ask(BALL, ALL, after=TIRES + 1) == BALL and world.ask(tray, ALL) == tray, "another thing, other looks"
    assert world.policy._asked.next.put == ((PICK, tray), (BALL, tray)), "what it thought of before is forgotten"
    world.policy.reset()
    assert [world.ask(says) for says in (PICK, PICK, tray)] == [PICK, PICK, tray], "where one thing goes is said"


def test_it_is_done_with_many_once_none_is_seen_for_a_while(world):
    world.likely |= {PICK: -0.5, BALL: -3.0, "done": -4.0}
    world.seen |= {PICK: 0.8}
    put_down(world, ALL)
    world.seen.clear()
    world.sure[PICK] = 0.0
    world.places[BALL] = HERE
    said = [world.ask(PICK, ALL) for _ in range(BLIND + 1)]
    assert "done" not in said[:-1] and said[-1] == "done"
    world.seen[BALL] = 0.8
    assert world.ask("done", ALL) == BALL, "unless there is one after all"


@pytest.mark.parametrize("arm", ["left_arm", "right_arm"])
def test_before_it_is_done_with_many_it_looks_again_with_its_hands_away(world, arm):
    world.arm = arm
    for turn, after in ((0.0, 0), (0.5, round(AGAIN / 0.5))):
        nothing_left(world)
        world.turn = turn
        said = [world.ask("done", ALL) for _ in range(after + 1)]
        assert said == [THEN] * after + ["done"], "but it does not wait for ever"
        assert world.policy._asked.next.subtask == "done", "meanwhile hands go home"
    nothing_left(world)
    world.turn = 0.5
    assert [world.ask("done", ALL), world.ask("done", ALL)] == [THEN, THEN]
    world.turn = 0.0
    assert world.ask("done", ALL) == "done", "at home they hide nothing"
    nothing_left(world)
    world.turn = 0.5
    assert [world.ask("done", ALL) for _ in range(3)] == [THEN] * 3
    world.seen[BALL], world.likely[BALL], world.places[BALL] = 0.8, 9.0, HERE
    assert world.ask("done", ALL) == BALL, "there is one after all"
    world.seen.clear(), world.likely.update({BALL: -30.0})
    assert [world.ask("done", ALL) for _ in range(3)] == [BALL] * 3, "and it waits as long again"


def test_what_nothing_can_be_hidden_for_is_done_at_once(world):
    world.turn = 0.5
    put_down(world, ONE)
    world.places[PICK] = BESIDE
    assert world.ask("done", ONE) == "done", "one thing is seen where it is put down"
    assert [world.ask(says, "open the drawer") for says in ("open the drawer", "done")] == ["open the drawer", "done"]


def test_what_a_person_said_to_put_down_may_not_be_the_last(world):
    world.turn, world.says = 0.5, "done"
    world.likely = {PICK: -30.0, "done": 0.0}
    world.policy.infer(replace(observation(ALL, 0.0, turn=0.5), subtask=THEN))
    assert world.ask("done", ALL) == THEN
    world.turn = 0.0
    assert world.ask("done", ALL) == "done"


def nothing_left(world: World) -> None:
    """One of many was put down, and no other is seen."""
    world.policy.reset()
    world.likely, world.turn = {PICK: -30.0, BALL: -30.0, "done": 0.0}, 0.0
    put_down(world, ALL)


def test_how_likely_phrases_are_is_found_out_together_as_each_by_itself():
    policy, seen = MiniPolicy(ROBOT, seed=0), {}
    see = policy.model.see
    policy.model.see = lambda *what, **how: seen.setdefault("scene", see(*what, **how))
    policy.infer(observation(ALL, 0.0))
    words, scene = policy.words, seen["scene"]
    phrases = [PICK, BALL, "pick up the black prism", "done", THEN]
    together = policy.model.likely(scene, words.rows(phrases))
    for phrase, found in zip(phrases, together.tolist()):
        tokens = torch.tensor([words.encode(phrase)])
        with torch.no_grad():
            logits = policy.model.say(scene, torch.cat((torch.tensor([[BEGIN]]), tokens[:, :-1]), 1))[0].log_softmax(-1)
        assert found == pytest.approx(float(logits.gather(2, tokens[..., None]).sum()), abs=1e-3)
