"""A stand-in network of the smallest policy's size and shape, with random weights: for measuring what surrounds it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pi_policy_node.policy.base import Observation, Policy, Prefix, Result
from pi_policy_node.policy.registry import BACKENDS, make_policy
from pi_policy_node.robot import Robot

WIDTH, LAYERS, HEADS, PATCH, SIDE, STEPS = 128, 4, 4, 8, 32, 2


class Probe:
    """Images and state in, a chunk out, in two denoising passes over what was seen; answers many robots at once."""

    name = "probe"

    def __init__(self, robot: Robot) -> None:
        self.robot, self.dt, self.horizon = robot, robot.dt, robot.horizon
        torch.manual_seed(0)
        width = len(robot.action_names)
        self._patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self._see, self._act = _stack(), _stack()
        self._state, self._in, self._out = nn.Linear(width, WIDTH), nn.Linear(width, WIDTH), nn.Linear(WIDTH, width)

    def warm_up(self) -> None:
        blank = {camera.name: np.zeros((*self.robot.image_size, 3), np.uint8) for camera in self.robot.cameras}
        self.infer(Observation(blank, self.robot.home, "", 0.0))

    def infer(self, obs: Observation, *, prefix: Prefix | None = None, deadline: float | None = None,
              cancel: threading.Event | None = None) -> Result:
        return self._answer([obs], [prefix])[0]

    def infer_batch(self, requests: Sequence) -> list[Result]:
        return self._answer([request.observation for request in requests], [request.prefix for request in requests])

    @torch.inference_mode()
    def _answer(self, observations: list[Observation], prefixes: list[Prefix | None]) -> list[Result]:
        begin = time.monotonic()
        tokens = self._see(torch.stack([self._tokens(obs) for obs in observations]))  # [B, T, W]
        x = torch.zeros(len(observations), self.horizon, len(self.robot.action_names))
        for _ in range(STEPS):
            y = self._act(torch.cat([tokens[:, ::4], self._in(x)], dim=1))
            x = x + self._out(y[:, -self.horizon:]) / STEPS
        seconds = time.monotonic() - begin
        results = []
        for rows, obs, prefix in zip(x.double().numpy(), observations, prefixes):
            rows = np.clip(obs.state + 1e-3 * rows, self.robot.lower, self.robot.upper)
            if prefix is not None:
                rows[:len(prefix.rows)] = prefix.rows
            results.append(Result(rows, timing={"network": seconds}))
        return results

    def _tokens(self, obs: Observation) -> Tensor:
        images = torch.stack([torch.from_numpy(np.array(image[::3, ::3])) for image in obs.images.values()])
        small = F.interpolate(images.permute(0, 3, 1, 2).float() / 127.5 - 1, (SIDE, SIDE))
        seen = self._patches(small).flatten(2).transpose(1, 2).reshape(-1, WIDTH)  # [cameras * 16, W]
        state = self._state(torch.from_numpy(np.array(obs.state, np.float32)))[None]
        return torch.cat([seen, state])


def _stack() -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False).eval()


def make_served_policy(name: str | None, robot: Robot) -> Policy:
    """The policy of that name; without one, mini where it exists, else the probe."""
    if name == "probe" or name is None and "mini" not in BACKENDS:
        return Probe(robot)
    return make_policy(name or "mini", robot)
