"""What mini does next where its eyes and fingers know better than its words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pi_policy_node.policy import mini_next
from pi_policy_node.policy.base import Observation
from pi_policy_node.policy.mini import AGAIN, MiniPolicy
from pi_policy_node.policy.mini_eyes import harmonics
from pi_policy_node.policy.mini_next import ASIDE, ASIDE_IN_BIN, BLIND, DIM, HIGHER, TIRES
from pi_policy_node.policy.mini_rows import hands
from pi_policy_node.policy.mini_scene import BEGIN
from pi_policy_node.robot import Kinematics, load_robot

ROBOT = load_robot("pi_mobile")
ONE, ALL = "put the red block in the blue bin", "put everything red in the blue bin"
PICK, BALL, THEN = "pick up the red block", "pick up the red ball", "place it in the blue bin"
HERE, BIN, BESIDE = (0.45, 0.25, 0.72), (0.50, 0.10, 0.80), (0.515, 0.11, 0.74)


def observation(prompt: str, stamp: float, opening: float = 1.0, turn: float = 0.0,
                arm: str = "left_arm") -> Observation:
    """turn: rad by which an arm is beside its home."""
    state = ROBOT.home.copy()
    state[ROBOT.group(arm).columns.start] += turn
    state[ROBOT.is_gripper] = opening
    blank = {name: np.full((72, 96, 3), 90, np.uint8) for name in ("front_camera", "left_wrist_camera")}
    return Observation(blank, state, prompt, stamp)


class World:
    """What eyes and network would make of it, and a policy that believes that."""

    def __init__(self, monkeypatch) -> None:
        self.policy = MiniPolicy(ROBOT, seed=0)
        words, self.model = self.policy.words, self.policy.model
        self.says, self.opening, self.turn, self.arm, self._stamp = PICK, 1.0, 0.0, "left_arm", 0.0
        self.then = THEN
        self.places, self.sure, self.seen, self.likely = {PICK: HERE, THEN: BIN}, {}, {}, {}
        monkeypatch.setattr(self.model, "speak", self._speak)
        monkeypatch.setattr(self.model, "weigh", lambda scene, tokens, **_: (words.decode(tokens) == self.says, -9.0))
        monkeypatch.setattr(self.model, "where", self._where)
        monkeypatch.setattr(self.model, "likely", lambda scene, phrases: torch.tensor(
            [self.likely.get(words.decode(row.tolist()), -30.0) for row in phrases]))
        monkeypatch.setattr(self.policy.chooser, "_notices", lambda _: np.array(
            [self.seen.get(pick, 0.0) for pick in self.policy.chooser._picks]))
        monkeypatch.setattr(self.policy.chooser, "_stay", -99.0)  # whatever the network says is heard

    def ask(self, says: str, prompt: str = ONE, after: float = 0.5) -> str:
        """The next subtask."""
        self.says, self._stamp = says, self._stamp + after
        look = observation(prompt, self._stamp, self.opening, self.turn, self.arm)
        self.policy.infer(look)
        self.policy.afterwards()
        return self.policy.infer(look).subtask

    def in_hand(self) -> tuple[float, ...]:
        return tuple(self.policy._kinematics.tools(ROBOT.home[None])["left_arm"][0])

    def _speak(self, scene, *, begun=(), **_):
        return [self.policy.words.encode(self.then if begun else self.says)]

    def _where(self, look, seen, asked):
        named = [[self.policy.words.decode(words.tolist()) for words in row] for row in asked]
        places = [[self.places.get(words, (2.0, 2.0, 0.7)) for words in row] for row in named]
        return torch.tensor(places), torch.tensor([[self.sure.get(words, 0.9) for words in row] for row in named])


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


def noticing(found, pointing):
    """With everything that stands out being a thing."""
    return replace(found, noticed=torch.cat((found.noticed[..., :-1], torch.ones_like(found.noticed[..., -1:])), -1)), (
        pointing)


def put_down(world: World, prompt: str = ONE) -> None:
    """It has picked the red block up and let go of it somewhere."""
    assert [world.ask(PICK, prompt), world.ask(THEN, prompt)] == [PICK, THEN]


def test_what_is_next_is_chosen_once_the_answer_is_out(world):
    def look(stamp, prompt=ONE):
        return world.policy.infer(observation(prompt, stamp)).subtask

    assert look(0.0) == PICK, "new words do not wait"
    world.says = THEN
    assert look(1.0) == PICK, "and an answer does not wait for them"
    world.policy.afterwards()
    world.says = BALL
    world.policy.afterwards()
    assert look(1.2) == THEN, "nothing was left to choose"
    assert look(2.0) == THEN
    assert look(2.2) == BALL, "the next answer does what nobody did"
    world.says = PICK
    assert look(3.0) == BALL
    assert look(3.2, ALL) != BALL, "what nobody asks for any more is not chosen"
    world.policy.reset()
    world.policy.afterwards()
    assert world.policy._asked.next.subtask == ""


def test_what_is_in_a_hand_is_not_picked_up(world):
    put_down(world)
    world.places[PICK], world.opening = world.in_hand(), 0.5
    assert world.ask(PICK) == THEN
    world.places[PICK], world.sure[PICK] = HERE, 0.5
    assert world.ask(PICK) == THEN, "fingers know it better than eyes that are not sure"
    world.sure[PICK] = 0.9
    assert world.ask(PICK) == PICK, "it is seen elsewhere"
    world.opening = 1.0
    put_down(world)
    world.places[PICK] = world.in_hand()
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


def test_what_has_arrived_is_not_picked_up_again(world):
    put_down(world)
    world.places[PICK] = BESIDE
    assert world.ask(PICK) == "done"
    world.opening = 0.5
    assert world.ask(PICK) == PICK, "with something in a hand it is not done"
    world.opening, world.sure[THEN] = 1.0, 0.5
    put_down(world)
    assert world.ask(PICK) == PICK, "nor where it does not see the place"


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


def test_what_is_astray_is_picked_up_again_whatever_the_network_says(world):
    put_down(world)
    assert world.ask("done") == PICK
    world.places[PICK] = (BIN[0], BIN[1] + 0.06, 0.74)
    assert world.ask("done") == "done", "between the two the network is believed"


@pytest.fixture
def others(world, monkeypatch):
    """[3] where the front eye notices things."""
    others, find = [], world.model.find
    monkeypatch.setattr(mini_next, "placed", lambda *_: torch.tensor([[*others, *[[9.0, 9.0, 0.7]] * 9][:8]])[None][0])
    monkeypatch.setattr(world.model, "find", lambda *what, **how: noticing(*find(*what, **how)))
    return others


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


def test_a_hand_comes_down_before_it_lets_go_where_eyes_are_sure(world, monkeypatch):
    fingers = ROBOT.group("left_gripper").columns.start
    at, sees = world.in_hand() - np.array([0, 0, 0.05]), {}
    monkeypatch.setattr(world.model, "place", lambda look, found: (
        torch.tensor(at[None], dtype=torch.float32), torch.zeros(1, 6), torch.tensor([sees["sure"]])))
    state = ROBOT.home.copy()
    state[ROBOT.is_gripper] = world.opening = 0.5
    opens = np.repeat(state[None, None], 11, 1)
    opens[..., ROBOT.is_gripper] = np.minimum(0.97, 0.05 + 0.2 * np.arange(11))[:, None]
    knots = torch.as_tensor(world.policy.scales.knots_in(opens, np.where(
        ROBOT.is_base | ROBOT.is_gripper, 0.0, state)[None]))
    monkeypatch.setattr(world.model, "act", lambda scene, noise, **_: knots)
    monkeypatch.setattr(world.policy.chooser, "_is_held", lambda *_: False)
    heights = {}
    for says, sees["sure"] in ((THEN, 0.9), (THEN, 0.3), (PICK, 0.9)):
        world.policy.reset()
        world.says, world._stamp = says, world._stamp + 9.0
        rows = world.policy.infer(observation(ONE, world._stamp, 0.5)).actions
        lets_go = rows[:, fingers] > 0.5
        tools = world.policy._kinematics.tools(rows[lets_go.argmax()])
        heights[says, sees["sure"]] = tools["left_arm"][2] - at[2]
    assert heights[THEN, 0.9] < 0.02 and min(heights[THEN, 0.3], heights[PICK, 0.9]) > 0.04


def test_where_one_of_many_things_goes_is_what_most_looks_say(world):
    """A hand hides the container that it is over, and eyes then take another one for it."""
    tray = "place it on the blue tray"
    world.likely |= {PICK: -0.5, "done": -12.0}
    world.seen |= {PICK: 0.8}
    assert [world.ask(PICK, ALL) for _ in range(3)] == [PICK] * 3
    assert [world.ask(tray, ALL) for _ in range(3)] == [THEN] * 3
    assert world.ask(tray, ALL) == tray, "four looks of seven"
    world.likely, world.places = {BALL: -0.5, "done": -12.0}, {**world.places, BALL: HERE, tray: BIN}
    world.seen, world.then = {BALL: 0.8}, tray
    assert world.ask(BALL, ALL, after=TIRES + 1) == BALL and world.ask(tray, ALL) == tray, "another thing, other looks"
    world.policy.reset()
    assert [world.ask(says) for says in (PICK, PICK, tray)] == [PICK, PICK, tray], "where one thing goes is said"


@pytest.fixture
def told(world, monkeypatch):
    """[3] where hands were told to go, and everything goes to the bin."""
    places, take = [], world.policy._steady.take
    monkeypatch.setattr(type(world.policy._steady), "take", lambda _, words, place, *rest: (
        places.append(place.copy()), take(words, place, *rest))[1])
    monkeypatch.setattr(world.model, "place", lambda look, found: (
        torch.tensor([BIN]), torch.zeros(1, 6), torch.tensor([0.9])))
    return places


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
