"""The expert takes over from a policy, wherever that has brought the robot."""

from __future__ import annotations

import numpy as np
import torch

from pi_policy_node.learn.dataset import CAMERAS, RECORDED
from pi_policy_node.learn.episodes import read
from pi_policy_node.learn.record import Recipe, plan, recorder_of
from pi_policy_node.policy import mini_weights
from pi_policy_node.policy.mini_model import Mini
from pi_policy_node.policy.mini_rows import Scales
from pi_policy_node.policy.mini_words import Words
from pi_policy_node.policy.shapes import GemmaShape, MiniShape
from pi_policy_node.robot import load_robot

SMALL = GemmaShape(width=16, depth=1, mlp=16, heads=1, head_dim=16)


def test_the_expert_goes_on_where_the_policy_got_to(tmp_path):
    robot = load_robot("pi_mobile")
    torch.manual_seed(0)
    words = Words(["drawer"])
    model = Mini(MiniShape(vlm=SMALL, expert=SMALL, channels=4), len(words))
    drift = np.zeros((11, 18))
    drift[:, robot.group("right_arm").columns.start] = 0.02 * np.arange(11)  # the right arm turns, whatever it sees
    weights = tmp_path / "mini.safetensors"
    scales = Scales(np.zeros(24), np.ones(24), drift, np.full((11, 18), 1e-4))
    scales.action_mean[:, robot.is_gripper] = 0.7
    mini_weights.save(weights, mini_weights.Weights(model, words, scales, CAMERAS, robot.action_names, {}))

    recipe = Recipe("pi_mobile", ("drawer",), 1, 40, cameras=tuple(RECORDED), size=(32,), disturb=1.0,
                    takeover=str(weights))
    shard = plan(recipe)[0]
    made = recorder_of(recipe).shard(shard, tmp_path)
    assert made.episodes == 1 and made.failed == 0
    episode = read(shard.path(tmp_path))[0]
    turned = episode.state[0] - robot.home
    assert turned[robot.group("right_arm").columns.start] > 0.05 and abs(turned[0]) < 0.02
    assert episode.subtasks[-1] == "done", "and the expert brings it to its end"
    steps = np.abs(np.diff(episode.action[:, ~robot.is_base], axis=0)).max(0)
    assert (steps < robot.velocity[~robot.is_base] * robot.dt * 1.01).all(), "without a jump"
