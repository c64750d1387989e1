"""A small policy to serve, and observations to ask it with."""

from __future__ import annotations

import threading
import time

import numpy as np

from pi_policy_node.policy.base import InputError, Observation, Result
from pi_policy_node.robot import load_robot

ROBOT = load_robot("pi_mobile")
WIDTH = len(ROBOT.action_names)


class Echo:
    """Answers with rows that tell whose observation it was: the state's first number, the prompt, the images."""

    name, dt, horizon = "echo", ROBOT.dt, ROBOT.horizon

    def __init__(self, *, seconds=0.0):
        self.seconds = seconds
        self.gate = threading.Event()  # closed gates hold every inference up
        self.gate.set()
        self.seen = []
        self.resets = 0

    def warm_up(self):
        pass

    def reset(self):
        self.resets += 1

    def infer(self, obs, *, prefix=None, deadline=None, cancel=None):
        self.seen.append((obs, prefix, deadline))
        assert self.gate.wait(20)
        time.sleep(self.seconds)
        if "bad" in obs.prompt:
            raise InputError("this prompt is bad; say something good")
        if "bug" in obs.prompt:
            raise ZeroDivisionError("a bug of ours")
        actions = np.zeros((ROBOT.horizon, WIDTH))
        actions[:, 0], actions[:, 1] = obs.state[0], len(obs.prompt)
        actions[:, 2] = sum(float(image.mean()) for image in obs.images.values())
        if prefix is not None:
            actions[:len(prefix.rows)] = prefix.rows
        return Result(actions, subtask=f"to {obs.prompt}"[:100], progress=0.25, timing={"thinking": self.seconds})


class BatchEcho(Echo):
    """The same, several at once for the price of one."""

    def __init__(self, **options):
        super().__init__(**options)
        self.batches = []

    def infer_batch(self, requests):
        self.batches.append(len(requests))
        time.sleep(self.seconds)
        keep, self.seconds = self.seconds, 0.0
        try:
            return [self.infer(request.observation, prefix=request.prefix) for request in requests]
        finally:
            self.seconds = keep


def observation(first=0.0, prompt="go", value=7, size=(32, 32), cameras=("front_camera",)):
    state = np.zeros(WIDTH)
    state[0] = first
    return Observation({name: np.full((*size, 3), value, np.uint8) for name in cameras}, state, prompt, 12.5)


def wait(condition, limit=10.0, what="it did not happen"):
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, what() if callable(what) else what
        time.sleep(0.002)
