"""Corrections: the policy goes on undisturbed, and the expert says what it would do wherever that has led."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pi_policy_node.learn.correct import Corrector
from pi_policy_node.learn.dataset import CAMERAS, RECORDED, Demonstrations
from pi_policy_node.learn.episodes import read
from pi_policy_node.learn.record import Recipe, plan, recorder_of
from pi_policy_node.policy import mini_weights
from pi_policy_node.policy.mini_model import Mini
from pi_policy_node.policy.mini_rows import Scales
from pi_policy_node.policy.mini_words import Words
from pi_policy_node.policy.shapes import GemmaShape, MiniShape
from pi_policy_node.robot import load_robot

ROBOT = load_robot("pi_mobile")
SMALL = GemmaShape(width=16, depth=1, mlp=16, heads=1, head_dim=16)
TURNS = ROBOT.group("right_arm").columns.start


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A policy whose right arm turns, whatever it sees."""
    torch.manual_seed(0)
    words = Words(["drawer"])
    model = Mini(MiniShape(vlm=SMALL, expert=SMALL, channels=4), len(words))
    drift = np.zeros((11, 18))
    drift[:, TURNS] = 0.02 * np.arange(11)
    scales = Scales(np.zeros(24), np.ones(24), drift, np.full((11, 18), 1e-4))
    scales.action_mean[:, ROBOT.is_gripper] = 0.7
    file = tmp_path_factory.mktemp("weights") / "mini.safetensors"
    mini_weights.save(file, mini_weights.Weights(model, words, scales, CAMERAS, ROBOT.action_names, {}))
    return file


@pytest.fixture(scope="module")
def shard(weights, tmp_path_factory):
    recipe = Recipe("pi_mobile", ("put",), 1, 40, cameras=tuple(RECORDED), size=(32,), every=50, disturb=0.0,
                    correct=str(weights))
    recorder = recorder_of(recipe)
    assert isinstance(recorder, Corrector)
    made = plan(recipe)[0]
    folder = tmp_path_factory.mktemp("corrections")
    assert recorder.shard(made, folder).episodes == 1
    return made.path(folder)


def test_the_expert_says_what_it_would_do_wherever_the_policy_got_to(shard):
    episode = read(shard)[0]
    assert episode.piece == 51 and len(episode.state) == 51 * len(episode.frames) > 51 * 15
    assert episode.frames.tolist() == list(range(0, len(episode.state), 51))
    first = episode.state[episode.frames][:, TURNS]
    assert (np.diff(first[:10]) > 0.03).all(), "it is the policy that goes on"
    pieces = episode.action.reshape(-1, 51, 18)[..., ~ROBOT.is_base]
    assert (np.abs(np.diff(pieces, axis=1)).max((0, 1)) < ROBOT.velocity[~ROBOT.is_base] * ROBOT.dt * 1.01).all()
    begun = np.abs(pieces[:, 0] - episode.state[episode.frames][:, ~ROBOT.is_base])[:8]  # before it meets anything
    assert begun.max() < 0.1, "each piece begins where the robot was"
    assert np.isnan(episode.progress).all() and len(episode.images["front_camera"]) == len(episode.frames)
    assert {words.split()[0] for words in episode.subtasks} <= {"pick", "place", "drive", "done"}


def test_corrections_are_learnt_from_piece_by_piece(shard):
    data = Demonstrations(ROBOT, MiniShape(), [shard])
    knots, learn = data.chunk(np.arange(len(data)))
    assert learn.all()
    assert np.array_equal(knots, data.action.reshape(-1, 51, 18)[:, ::5])
    assert np.isnan(data.reach).all() and np.isnan(data.base).all(), "it ends too soon"
    assert set(data.arm) <= {0, 1} and len(data.arm), "the arm that the expert would take"
    assert (data.front_cell == -1).all()
