"""The policy that the server's bench serves: mini, with random weights of its size where none are shipped."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from pi_policy_node.policy import mini_weights
from pi_policy_node.policy.base import Policy
from pi_policy_node.policy.mini import MiniPolicy
from pi_policy_node.policy.mini_eyes import EYES
from pi_policy_node.policy.mini_model import Mini
from pi_policy_node.policy.mini_rows import Scales
from pi_policy_node.policy.mini_words import Words
from pi_policy_node.policy.registry import make_policy
from pi_policy_node.policy.shapes import MiniShape
from pi_policy_node.robot import Robot

WORDS = tuple("put stack move the a red green blue yellow block ball bin drawer in on next to open clear table".split())


def make_served_policy(name: str | None, robot: Robot) -> Policy:
    """The policy of that name; without one, mini."""
    if name is None and not mini_weights.SHIPPED.is_file():
        return untrained_mini(robot)
    return make_policy(name or "mini", robot)


def untrained_mini(robot: Robot) -> MiniPolicy:
    """mini as it was before its training: what it says is noise, and takes as long as sense does."""
    torch.manual_seed(0)
    shape = MiniShape()
    model = Mini(shape, len(Words(WORDS))).eval()
    knots = (shape.knots, shape.action_dim)
    scales = Scales(np.zeros(shape.state_dim), np.ones(shape.state_dim), np.zeros(knots), np.full(knots, 0.05))
    cameras = {eye: f"{eye}_camera" for eye in EYES} | {"wide": "front_camera"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mini.safetensors"
        about = {"training": "none"}
        mini_weights.save(file, mini_weights.Weights(model, Words(WORDS), scales, cameras, robot.action_names, about))
        made = MiniPolicy(robot, weights=file)
    made.name = "mini, untrained"
    return made
