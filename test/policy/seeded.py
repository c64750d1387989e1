"""Weights and inputs from names alone: what the golden numbers were made from."""

import hashlib

import numpy as np
import torch

from pi_policy_node.policy.model import Inputs, Pi
from pi_policy_node.policy.names import published
from pi_policy_node.policy.shapes import Shape

CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")


def normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def array(name: str, shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
    return np.float32(scale) * normal(name, shape)


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Biases and Gemma's norm weights near zero, SigLIP's norm weights near one, the rest by 1/√(fan in)."""
    x = normal(name, shape)
    if len(shape) == 1:
        multiplies = "vision_tower" in name and "norm" in name and name.endswith("weight")
        return np.float32(multiplies) + np.float32(0.05) * x
    if any(word in name for word in ("embed_tokens", "lm_head", "position_embedding")):
        return np.float32(0.02) * x
    return x / np.float32(np.sqrt(int(np.prod(shape[1:]))))


def model(shape: Shape) -> Pi:
    """A model of this shape with the seeded weights, float32, frozen."""
    with torch.device("meta"):
        pi = Pi(shape)
    pi = pi.to_empty(device="cpu").requires_grad_(False)
    ours = dict(pi.named_parameters())
    for name, sources in published(shape).items():
        parts = [torch.from_numpy(weight(source, size)).reshape(size[0], *ours[name].shape[1:]) for source, size in sources]
        ours[name].copy_(torch.cat(parts))
    return pi


def inputs(tag: str, shape: Shape, batch: int = 1, absent: tuple[str, ...] = ()) -> tuple[Inputs, torch.Tensor]:
    """The inputs and the noise of a case."""
    count = shape.prompt_tokens
    tokens = np.zeros((batch, count), np.int64)
    for b in range(batch):
        valid = 7 + 5 * b
        tokens[b, :valid] = (np.abs(array(f"{tag}/tokens/{b}", (count,)))[:valid] * 1000).astype(np.int64) % shape.vocabulary
    lengths = 7 + 5 * np.arange(batch)
    size = (batch, 3, shape.vision.image, shape.vision.image)
    images = np.stack([np.clip(array(f"{tag}/image/{c}", size, 0.5), -1, 1) for c in CAMERAS], 1)
    made = Inputs(
        images=torch.from_numpy(images),
        image_mask=torch.tensor([[c not in absent for c in CAMERAS]] * batch),
        tokens=torch.from_numpy(tokens),
        token_mask=torch.from_numpy(np.arange(count) < lengths[:, None]),
        state=torch.from_numpy(array(f"{tag}/state", (batch, shape.action_dim), 0.7)),
    )
    return made, torch.from_numpy(array(f"{tag}/noise", (batch, shape.horizon, shape.action_dim)))
