"""From an observation to what the network takes, and from what it gives back to rows for the robot."""

from __future__ import annotations

import logging

import numpy as np
import torch

from pi_policy_node.policy.base import CheckpointError, InputError
from pi_policy_node.policy.embodiment import Embodiment
from pi_policy_node.policy.model import Inputs
from pi_policy_node.policy.shapes import Shape
from pi_policy_node.policy.statistics import Normaliser, Statistics
from pi_policy_node.policy.tokenizer import Tokenizer
from pi_policy_node.vision.letterbox import letterbox

_log = logging.getLogger(__name__)


class Transforms:
    """For one checkpoint on one embodiment. Vectors are in the embodiment's order, the robot's units."""

    def __init__(
        self, embodiment: Embodiment, shape: Shape, statistics: dict[str, Statistics] | None, tokenizer: Tokenizer
    ) -> None:
        if statistics is None:
            raise CheckpointError("no normalisation statistics beside the checkpoint: its actions would mean nothing")
        if tokenizer.size > shape.vocabulary:
            raise CheckpointError(f"the tokenizer has {tokenizer.size} tokens, {shape.name} knows {shape.vocabulary}")
        sizes = {"state": len(embodiment.state.names), "actions": len(embodiment.actions.names)}
        for what, size in sizes.items():
            if size > shape.action_dim:
                raise CheckpointError(f"{embodiment.name} has {size} {what}; {shape.name} takes {shape.action_dim}")
        quantiles = shape.family == "pi05"
        self.embodiment, self.shape, self.tokenizer = embodiment, shape, tokenizer
        self.state, self.actions = (
            Normaliser(statistics[what], quantiles=quantiles, size=size, what=what) for what, size in sizes.items()
        )
        self._warned: set[str] = set()
        for what, normaliser, names in (
            ("state", self.state, embodiment.state.names),
            ("actions", self.actions, embodiment.actions.names),
        ):
            if narrow := [names[i] for i in normaliser.narrow()]:
                _log.warning("the %s statistics hardly vary for %s: any motion explodes there", what, ", ".join(narrow))

    def inputs(self, images: dict[str, np.ndarray], state: np.ndarray, prompt: str) -> Inputs:
        """One request. images: uint8 [h, w, 3] by the robot's camera name, absent ones left out; state: [m]."""
        normal = self.state(self.embodiment.state_in(self._checked(state)))
        self._warn_if_far(normal)
        tokens = self.tokenizer.prompt(prompt, self.shape, normal)
        size = self.shape.vision.image
        pictures = np.zeros((len(self.embodiment.cameras), size, size, 3), np.uint8)
        there = np.zeros(len(pictures), bool)
        for i, camera in enumerate(self.embodiment.cameras.values()):
            if camera in images:
                pictures[i], there[i] = self._picture(camera, images[camera]), True
        if not there.any():
            wanted = ", ".join(self.embodiment.cameras.values())
            raise InputError(f"no picture of {wanted}; there is {', '.join(images) or 'none at all'}")
        padded = np.zeros(self.shape.action_dim, np.float32)
        padded[: len(normal)] = normal
        return Inputs(
            images=(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255 * 2 - 1)[None],
            image_mask=torch.from_numpy(there)[None],
            tokens=torch.tensor([tokens]),
            token_mask=torch.ones(1, len(tokens), dtype=torch.bool),
            state=torch.from_numpy(padded)[None],
        )

    def rows_in(self, rows: np.ndarray, state: np.ndarray) -> np.ndarray:
        """Rows [d, n] in the robot's units -> normalised and padded [d, action_dim] float32. state: [n], like a row."""
        out = np.zeros((len(rows), self.shape.action_dim), np.float32)
        out[:, : rows.shape[1]] = self.actions(self.embodiment.rows_in(rows, state))
        return out

    def rows_out(self, actions: np.ndarray, state: np.ndarray) -> np.ndarray:
        """The network's actions [H, action_dim] -> rows [H, n] in the robot's units. state: [n], like a row."""
        count = len(self.embodiment.actions.names)
        return self.embodiment.rows_out(self.actions.inverse(actions[:, :count].astype(np.float64)), state)

    def _checked(self, state: np.ndarray) -> np.ndarray:
        state = np.asarray(state, dtype=np.float64)
        names = self.embodiment.state.names
        if state.shape != (len(names),):
            raise InputError(f"the state has the shape {state.shape}; {self.embodiment.name} has {len(names)} numbers")
        if not np.isfinite(state).all():
            bad = ", ".join(n for n, x in zip(names, state) if not np.isfinite(x))
            raise InputError(f"the state is not finite: {bad}")
        return state

    def _picture(self, camera: str, image: np.ndarray) -> np.ndarray:
        image = np.asarray(image)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise InputError(f"{camera}: {image.dtype} {image.shape}; a picture is uint8 [h, w, 3]")
        return letterbox(image, (self.shape.vision.image,) * 2)

    def _warn_if_far(self, normal: np.ndarray) -> None:
        for i in np.flatnonzero(np.abs(normal) > 5.0):
            name = self.embodiment.state.names[i]
            if name not in self._warned:  # once each: this runs several times a second
                self._warned.add(name)
                _log.warning("%s lies far outside of what the policy was trained on (normalised %.1f)", name, normal[i])
