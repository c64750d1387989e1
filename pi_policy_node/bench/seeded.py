"""Weights and inputs from names alone: what the golden numbers were made from."""

import hashlib

import numpy as np
import torch

from pi_policy_node.policy.checkpoint import empty
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
        return np.multiply(x, np.float32(0.02), out=x)
    return np.divide(x, np.float32(np.sqrt(int(np.prod(shape[1:])))), out=x)


def model(shape: Shape) -> Pi:
    """A model of this shape with the seeded weights, float32, frozen."""
    pi = empty(shape)
    _fill(pi, "", published(shape))
    return pi


def lean(shape: Shape, *, dtype: torch.dtype = torch.float32, folded: bool = False) -> Pi:
    """The same, but a layer of the vision tower or the language model exists only while it computes.

    A full-size model then fits in 6 GB. For one pass through those layers, as in an inference.
    """
    with torch.device("meta"):
        pi = Pi(shape).requires_grad_(False).cast(dtype)
    names = published(shape)
    pi.embed = torch.nn.Parameter(torch.from_numpy(weight(*names["embed"][0])).to(dtype), requires_grad=False)
    for name, module in pi.named_children():
        if name not in ("vision", "vlm"):
            _fill(module.to_empty(device="cpu"), f"{name}.", names)
    for stack, inside in (("vision", pi.vision), ("vlm", pi.vlm)):
        for name, parameter in inside.named_parameters():
            if not name.startswith("blocks."):
                owner, _, key = name.rpartition(".")
                holder = inside.get_submodule(owner)
                setattr(holder, key, torch.nn.Parameter(torch.empty_like(parameter, device="cpu"), requires_grad=False))
        _fill(inside, f"{stack}.", names, skip="blocks.")
        for i, block in enumerate(inside.blocks):
            block.register_forward_pre_hook(lambda b, _, at=f"{stack}.blocks.{i}.": _appear(b, at, names, folded))
            block.register_forward_hook(lambda b, *_: b.to("meta") and None)
    return pi


def _appear(block: torch.nn.Module, prefix: str, names: dict, folded: bool) -> None:
    """Give a layer its weights; where its norms are folded away, into the products behind them."""
    _fill(block.to_empty(device="cpu"), prefix, names)
    for norm, product in (("norm1", "qkv"), ("norm2", "gate_up")) if folded and prefix.startswith("vlm") else ():
        (source, size), *_ = names[f"{prefix}{norm}.weight"]
        block.get_submodule(product).weight.mul_(1 + torch.from_numpy(weight(source, size)))


def _fill(module: torch.nn.Module, prefix: str, names: dict, skip: str = " ") -> None:
    for name, parameter in module.named_parameters():
        row = 0
        for source, size in names[prefix + name] if not name.startswith(skip) else ():
            part = parameter.data[row : row + size[0]]
            part.copy_(torch.from_numpy(weight(source, size)).view_as(part))
            row += size[0]


def inputs(tag: str, shape: Shape, batch: int = 1, absent: tuple[str, ...] = ()) -> tuple[Inputs, torch.Tensor]:
    """The inputs and the noise of a case."""
    count = shape.prompt_tokens
    tokens = np.zeros((batch, count), np.int64)
    for b in range(batch):
        valid = 7 + 5 * b
        drawn = (np.abs(array(f"{tag}/tokens/{b}", (count,))) * 1000).astype(np.int64)
        tokens[b, :valid] = drawn[:valid] % shape.vocabulary
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
