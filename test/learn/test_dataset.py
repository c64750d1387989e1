"""What demonstrations tell hands: where in a container a thing went, which no eye can know."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pi_policy_node.learn.dataset import OFF, Demonstrations, vocabulary
from pi_policy_node.learn.episodes import shards, write
from pi_policy_node.policy.mini_scene import Found, placed
from pi_policy_node.policy.mini_words import Words
from pi_policy_node.robot import Kinematics

from test_train import ROBOT, SHAPE, episode

KINDS = {"pick": 1.0, "place": 1.0, "drawer": 1.0, "drive": 1.0, "done": 1.0}


class Eyes:
    """Held ones, that see everything half a metre ahead of each camera."""

    def found(self, kind: str, frames: np.ndarray) -> Found:
        spots = torch.tensor([0.0, 0.0, 0.5]).expand(len(frames), 3, 3)
        nothing = torch.zeros(len(frames), 0)
        return Found(nothing, nothing, spots, *[nothing] * 5)


@pytest.fixture
def demonstrations(tmp_path):
    def read(**changes) -> Demonstrations:
        (tmp_path / "recipe.json").write_text("{}")
        write(tmp_path / "clear" / "00000017.npz", [replace(episode(17), **changes)])
        data = Demonstrations(ROBOT, SHAPE, shards(tmp_path))
        data.pictures.held = Eyes()
        return data
    return read


def told(data: Demonstrations, rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray]:
    """[F, 3, 3] where each eye says that the thing is, and where it would say so by itself."""
    look = data.look(np.arange(len(data)), Words(vocabulary()), data.scales(), rng, acting=True)
    own = Eyes().found("act", np.arange(len(data))).spots
    return placed(look.cameras, look.found.spots).numpy(), placed(look.cameras, own).numpy()


def test_hands_are_told_where_in_a_container_it_was_let_go(demonstrations):
    data = demonstrations()
    places, own = told(data)
    opened = Kinematics(ROBOT).tools(episode(17).state.astype(float))["right_arm"][139]
    placing = np.array([s.startswith("place") for s in data.subtasks])[data.said]
    assert placing.any() and np.allclose(places[placing][..., :2], opened[:2], atol=1e-4), "until long after it let go"
    assert np.allclose(places[placing][..., 2], own[placing][:, :1, 2], atol=1e-4), "as high as the front eye says"
    assert np.allclose(places[~placing], own[~placing], atol=1e-4)


def test_where_a_thing_goes_that_is_no_container_eyes_say(demonstrations):
    places, own = told(demonstrations(subtasks=("pick up the red block", "place it on the red brick", "done")))
    assert np.allclose(places, own, atol=1e-4)


def test_in_training_they_are_told_a_little_wrong(demonstrations):
    data = demonstrations()
    (places, _), (varied, _) = told(data), told(data, np.random.default_rng(0))
    placing = np.array([s.startswith("place") for s in data.subtasks])[data.said]
    off = (varied - places)[placing][:, 0]
    assert 0.5 * OFF < off[:, :2].std() < 2 * OFF and np.allclose(off[:, 2], 0, atol=1e-6)


def test_where_among_others_a_correction_would_put_it_is_not_learnt(demonstrations):
    for family, learnt in (("clear", False), ("put", True)):
        data = demonstrations(piece=5, family=family)
        weights = data.weights({family: 1.0}, KINDS)
        placing = np.array([s.startswith("place") for s in data.subtasks])[data.said]
        assert placing.any() and ((weights[placing] > 0) == learnt).all() and (weights[~placing] > 0).all()
