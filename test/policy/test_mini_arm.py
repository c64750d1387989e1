"""Which arm mini takes, and that the weights that ship know what they are asked. How often it succeeds `eval` says."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pi_policy_node.policy.base import Observation
from pi_policy_node.policy.mini import MiniPolicy
from pi_policy_node.policy.mini_next import REACHED, Next
from pi_policy_node.robot import load_robot
from pi_policy_node.sim.simulator import Simulator
from pi_policy_node.sim.tasks import KEPT_SEEDS, draw, look

ROBOT = load_robot("pi_mobile")
WORDS, PICK, THEN = "put the red block in the blue bin", "pick up the red block", "place it in the blue bin"
LEFT, RIGHT = 0, 1


@pytest.fixture
def policy():
    return MiniPolicy(ROBOT, seed=0)


def observation(prompt=WORDS, stamp=0.0, subtask="", images=None, state=ROBOT.home):
    blank = {name: np.full((72, 96, 3), 90, np.uint8) for name in ("front_camera", "left_wrist_camera")}
    return Observation(images or blank, state, prompt, stamp, subtask)


def believing(policy, monkeypatch, thing, place, sure=0.9, answers=None):
    """It sees a thing, and the place where that has to go, at these [x, y]; counts in `answers` what it was asked."""
    def speak(scene, *, begun=(), **_):
        if answers is not None:
            answers.append(policy.words.decode(begun))
        return [policy.words.encode(THEN if begun else PICK) for _ in scene.valid]

    def where(look, seen, asked):
        assert [policy.words.decode(words.tolist()) for words in asked[0]] == [PICK, THEN]
        return torch.tensor([[[*thing, 0.72], [*place, 0.72]]] * len(asked)), torch.tensor([[sure, 0.9]] * len(asked))

    monkeypatch.setattr(policy.model, "speak", speak)
    monkeypatch.setattr(policy.model, "where", where)


def test_the_arm_is_one_that_reaches_the_thing_and_where_it_has_to_go(policy, monkeypatch):
    def arm(thing, place, sure=0.9, first=None):
        policy.reset()
        if first is not None:  # an arm that it has been at it with
            believing(policy, monkeypatch, *[(0.45, 0.25 if first == LEFT else -0.25)] * 2)
            policy.infer(observation(stamp=0.0))
        believing(policy, monkeypatch, thing, place, sure)
        policy.infer(observation(stamp=1.0))
        policy.afterwards()
        return policy._asked.next.arm

    left, right = (0.45, 0.25), (0.45, -0.25)
    assert (arm(left, (0.5, 0.1)), arm(right, (0.5, -0.1))) == (LEFT, RIGHT), "the nearer"
    assert (arm((0.45, 0.05), (0.5, -0.35)), arm((0.45, -0.05), (0.5, 0.35))) == (RIGHT, LEFT), "that reaches both"
    between = (0.45, 0.03), (0.45, 0.0)
    assert (arm(*between), arm(*between, first=RIGHT)) == (LEFT, RIGHT), "it keeps to the one that is at it"
    assert arm((0.45, 0.05), (0.5, -0.35), first=LEFT) == RIGHT, "unless that does not reach"
    assert (arm(left, right, sure=0.5), arm(left, right, sure=0.5, first=RIGHT)) == (-1, RIGHT), "who sees, chooses"


def test_what_is_not_seen_for_a_second_does_not_hold_it_up(policy, monkeypatch):
    """With no arm to go by it would stand for ever: the one that is nearer to the thing, until it sees better."""
    def arm(stamp, sure, thing=(0.45, 0.05), place=(0.5, -0.35)):
        believing(policy, monkeypatch, thing, place, sure)
        policy.infer(observation(stamp=stamp))
        policy.afterwards()
        return policy._asked.next.arm

    assert [arm(stamp, 0.5) for stamp in (0.0, 0.4, 0.8, 1.2, 1.6)] == [-1, -1, -1, LEFT, LEFT]
    assert arm(2.0, 0.9) == RIGHT, "that reaches both, once it sees both"


def test_what_comes_then_is_said_once_for_a_subtask(policy, monkeypatch):
    answers = []
    believing(policy, monkeypatch, (0.45, 0.25), (0.5, 0.1), answers=answers)
    for stamp in (0.0, 0.5, 1.0):
        policy.infer(observation(stamp=stamp))
    assert answers.count("place it") == 1
    policy.infer(observation(stamp=1.5, prompt="put the red block in the green bin"))
    assert answers.count("place it") == 2, "a new instruction begins anew"


def test_what_it_would_say_is_known_in_one_go(policy):
    """Asked every 0.3 s, it mostly says what it said before: to know that takes one pass, not one for each word."""
    model, images = policy.model, {name: np.full((240, 320, 3), 90, np.uint8) for name in policy.cameras}
    with torch.inference_mode():
        pictures, there = policy._pictures(observation(images=images))
        asked = policy._look([WORDS], [""], [-1], there, ROBOT.home[None])
        scene = model.see(asked, model.find(asked, model.look(pictures))[0])
        said, = model.speak(scene)
        doubt = torch.zeros(len(policy.words))
        doubt[said[0]] = 100.0
        otherwise, = model.speak(scene, doubt=doubt)
        words = said, said[:-1], otherwise
        assert said[0] != otherwise[0] and [model.weigh(scene, w)[0] for w in words] == [True, False, False]
        assert [model.weigh(scene, w, doubt=doubt)[0] for w in words] == [False, False, True]
        assert model.weigh(scene, said)[1] == model.weigh(scene, said, doubt=doubt)[1] < 0, "doubt is no likelihood"


def test_each_robot_of_several_has_its_arm(policy, monkeypatch):
    believing(policy, monkeypatch, (0.45, 0.25), (0.5, 0.1))
    sides = torch.tensor([1.0, -1.0])[:, None, None] * torch.tensor([0.0, 1.0, 0.0])
    places = torch.tensor([0.45, 0.0, 0.72]) + 0.25 * sides.expand(2, 2, 3)
    monkeypatch.setattr(policy.model, "where", lambda *_: (places, torch.full((2, 2), 0.9)))
    requests = [SimpleNamespace(observation=observation(), prefix=None)] * 2
    both = policy.infer_batch(requests)
    assert np.abs(both[LEFT].actions - both[RIGHT].actions).max() > 0.005
    monkeypatch.setattr(policy.model, "where", lambda *_: (places.flip(0), torch.full((2, 2), 0.9)))
    assert np.allclose(policy.infer_batch(requests)[LEFT].actions, both[RIGHT].actions, atol=1e-5)


def test_what_is_done_depends_on_the_arm_that_is_told(policy, monkeypatch):
    def rows(arm):
        policy.reset()
        monkeypatch.setattr(policy, "_say", lambda *_: [Next(PICK, arm, PICK, THEN)])
        return policy.infer(observation()).actions

    told = [rows(arm) for arm in (LEFT, RIGHT, -1)]
    assert min(np.abs(a - b).max() for a, b in itertools.combinations(told, 2)) > 0.005
    assert np.array_equal(told[2], policy.infer(observation(subtask=PICK)).actions), "a person's words name no arm"


def test_the_weights_that_ship_say_what_comes_then_and_choose_arms_that_reach(policy):
    simulator = Simulator(ROBOT, "empty", cameras=policy.cameras)
    named = reaching = chosen = 0
    tasks = [draw(family, KEPT_SEEDS + seed) for family in ("put", "stack", "move") for seed in range(8)]
    for task in tasks:
        simulator.reset(0, task.scene)
        simulator.place_robot(ROBOT.home)
        view, goal = look(simulator), task.goals[0]
        policy.reset()
        answer = policy.infer(observation(task.instruction, images=simulator.images(), state=view.state))
        named += answer.subtask == f"pick up the {goal.thing.replace('_', ' ')}" and (
            policy._asked.next.then == f"place it {goal.words(view)}")
        if policy._asked.next.arm >= 0:
            other = getattr(goal, "container", None) or goal.other
            ends = [view.to_base(view.things[name].position) for name in (goal.thing, other)]
            shoulder = policy.chooser.shoulders[policy._asked.next.arm]
            chosen += 1
            reaching += max(np.hypot(*(end - shoulder)[:2]) for end in ends) < REACHED + 0.08
    assert named >= 22 and chosen >= 10 and reaching >= 0.85 * chosen, (named, chosen, reaching)
