"""What mini's eyes and network would make of a world, and a policy that believes that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from pi_policy_node.policy.base import Observation
from pi_policy_node.policy.mini import MiniPolicy
from pi_policy_node.robot import load_robot

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
    """It sees what `places`, `sure` and `seen` say, and says `says`."""

    def __init__(self, monkeypatch) -> None:
        self.policy = MiniPolicy(ROBOT, seed=0)
        words, self.model = self.policy.words, self.policy.model
        self.says, self.turn, self.arm, self._stamp = PICK, 0.0, "left_arm", 0.0
        self.opening: float | None = None  # of its hands; None: as is right for what it says
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
        opening = self.opening if self.opening is not None else 0.5 if says.startswith("place") else 1.0
        look = observation(prompt, self._stamp, opening, self.turn, self.arm)
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


def noticing(found, pointing):
    """With everything that stands out being a thing."""
    return replace(found, noticed=torch.cat((found.noticed[..., :-1], torch.ones_like(found.noticed[..., -1:])), -1)), (
        pointing)


def put_down(world: World, prompt: str = ONE) -> None:
    """It has picked the red block up and let go of it somewhere."""
    assert [world.ask(PICK, prompt), world.ask(THEN, prompt)] == [PICK, THEN]
