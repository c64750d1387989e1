"""A policy whose eyes and network are made up."""

import pytest
import torch
from mini_world import BIN, World, noticing

from pi_policy_node.policy import mini_next


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


@pytest.fixture
def others(world, monkeypatch):
    """[3] where the front eye notices things."""
    others, find = [], world.model.find
    monkeypatch.setattr(mini_next, "placed", lambda *_: torch.tensor([[*others, *[[9.0, 9.0, 0.7]] * 9][:8]])[None][0])
    monkeypatch.setattr(world.model, "find", lambda *what, **how: noticing(*find(*what, **how)))
    return others


@pytest.fixture
def told(world, monkeypatch):
    """[3] where hands were told to go, and everything goes to the bin."""
    places, take = [], world.policy._steady.take
    monkeypatch.setattr(type(world.policy._steady), "take", lambda _, words, place, *rest: (
        places.append(place.copy()), take(words, place, *rest))[1])
    monkeypatch.setattr(world.model, "place", lambda look, found: (
        torch.tensor([BIN]), torch.zeros(1, 6), torch.tensor([0.9])))
    return places
