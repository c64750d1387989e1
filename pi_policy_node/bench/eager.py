"""The baseline that `bench policy --against eager` runs: sampling the way openpi's PyTorch port does it, eagerly.

Padded prompts, one vision pass per camera, q/k/v and gate/up as products of their own, keys and values repeated for
every head, softmax written out, the last layer computed to its end, the state token, masks, time embedding and
adaptive norms made again in every step. It computes the same actions from the same weights (views of the packed ones).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pi_policy_node.policy.gemma import Block, Gemma, RMSNorm
from pi_policy_node.policy.model import Inputs, Pi, embed_time, times
from pi_policy_node.policy.siglip import Vision

NOT = -2.3819763e38  # what a masked score is set to


@torch.no_grad()
def sample(model: Pi, inputs: Inputs, noise: Tensor, *, steps: int = 10) -> Tensor:
    """Actions [B, H, D]. A folded model gives norm weights of zero, and so the same answers at the same cost."""
    x, valid = _prefix(model, inputs)
    positions = valid.cumsum(1) - 1
    cache: list = []
    _stack(model.vlm, x, positions, _bias(valid[:, None] & valid[:, :, None]), cache, None, grow=True)
    actions = noise
    for t in times(steps):
        actions = actions - _velocity(model, inputs.state, actions, t, valid, cache) / steps
    return actions


def _prefix(model: Pi, inputs: Inputs) -> tuple[Tensor, Tensor]:
    parts, valid = [], []
    for view in range(inputs.images.shape[1]):
        parts.append(_vision(model.vision, inputs.images[:, view]))
        valid.append(inputs.image_mask[:, view, None].expand(-1, parts[-1].shape[1]))
    parts.append(F.embedding(inputs.tokens, model.embed) * math.sqrt(model.shape.vlm.width))
    return torch.cat(parts, 1), torch.cat((*valid, inputs.token_mask), 1)


def _velocity(model: Pi, state: Tensor, actions: Tensor, t: float, valid: Tensor, cache: list) -> Tensor:
    batch, horizon = actions.shape[:2]
    time = embed_time(actions.new_full((batch,), t), model.shape.expert.width)
    x, condition = model.action_in(actions), None
    if model.shape.family == "pi0":
        x = torch.cat((x, time[:, None].expand_as(x)), 2)
        x = model.time_out(F.silu(model.time_in(x)))
        x = torch.cat((model.state_in(state)[:, None], x), 1)
    else:
        condition = F.silu(model.time_out(F.silu(model.time_in(time))))
    count = x.shape[1]
    order = torch.tensor([0] + [1] * (count - 1) if model.shape.family == "pi0" else [0] * count, device=x.device)
    own = (order[None, :] <= order[:, None]).expand(batch, -1, -1)
    sees = torch.cat((valid[:, None].expand(-1, count, -1), own), 2)
    positions = valid.sum(1)[:, None] + torch.arange(count, device=x.device)
    y = _stack(model.expert, x.to(model.dtype), positions, _bias(sees), cache, condition, grow=False)
    return model.action_out(y[:, -horizon:].float())


def _bias(sees: Tensor) -> Tensor:
    return torch.where(sees[:, None], 0.0, NOT)


def _stack(g: Gemma, x: Tensor, positions: Tensor, bias: Tensor, cache: list, condition: Tensor | None, *, grow: bool):
    for i, block in enumerate(g.blocks):
        y, gate = _norm(x, block.norm1, _dense(g, condition, 2 * i))
        q, k, v = (F.linear(y, w) for w in _qkv(block))
        q = _rotate(q.unflatten(-1, (block.heads, -1)).transpose(1, 2), positions)
        k = _rotate(k[:, None], positions)
        v = v[:, None]
        if grow:
            cache.append((k, v))
        else:
            k, v = torch.cat((cache[i][0], k), 2), torch.cat((cache[i][1], v), 2)
        y = _attention(q, k, v, block, bias)
        x = _residual(x, block.out(y), gate)
        y, gate = _norm(x, block.norm2, _dense(g, condition, 2 * i + 1))
        gate_weight, up_weight = block.gate_up.weight.chunk(2)
        y = F.gelu(F.linear(y, gate_weight), approximate="tanh") * F.linear(y, up_weight)
        x = _residual(x, block.down(y), gate)
    return _norm(x, g.norm, _dense(g, condition, 2 * len(g.blocks)))[0]


def _qkv(block: Block) -> tuple[Tensor, ...]:
    return block.qkv.weight.split((block.heads * block.head_dim, block.head_dim, block.head_dim))


def _attention(q: Tensor, k: Tensor, v: Tensor, block: Block, bias: Tensor) -> Tensor:
    k, v = (z.expand(-1, block.heads, -1, -1).reshape(len(z), block.heads, *z.shape[2:]) for z in (k, v))
    scores = q @ k.transpose(2, 3) * block.head_dim**-0.5 + bias
    return (F.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype) @ v).transpose(1, 2).flatten(2)


def _dense(g: Gemma, condition: Tensor | None, i: int) -> Tensor | None:
    if condition is None:
        return None
    rows = slice(3 * g.shape.width * i, 3 * g.shape.width * (i + 1))
    return F.linear(condition, g.modulation.weight[rows], g.modulation.bias[rows])[:, None]


def _norm(x: Tensor, norm: RMSNorm, modulation: Tensor | None) -> tuple[Tensor, Tensor | None]:
    y = x.float()
    y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
    if modulation is None:
        weight = x.new_zeros(x.shape[-1]) if norm.weight is None else norm.weight
        return (y * (1.0 + weight.float())).to(x.dtype), None
    scale, shift, gate = modulation.chunk(3, -1)
    return (y * (1 + scale) + shift).to(x.dtype), gate


def _residual(x: Tensor, y: Tensor, gate: Tensor | None) -> Tensor:
    return x + y if gate is None else (x + y * gate).to(x.dtype)


def _rotate(x: Tensor, positions: Tensor) -> Tensor:
    """x [B, heads, S, D]"""
    half = x.shape[-1] // 2
    inverse = 1e4 ** -(torch.arange(0, half, dtype=torch.float32, device=x.device) / half)
    angle = positions[..., None].float() * inverse
    angle = torch.cat((angle, angle), -1)[:, None]
    turned = torch.cat((-x[..., half:], x[..., :half]), -1)
    return (x * angle.cos() + turned * angle.sin()).to(x.dtype)


def _vision(vision: Vision, images: Tensor) -> Tensor:
    p, width = vision.shape.patch, vision.shape.width
    x = F.conv2d(images, vision.patches.weight.view(width, 3, p, p), vision.patches.bias, stride=p)
    x = (x.flatten(2).transpose(1, 2) + vision.position).to(vision.project.weight.dtype)
    for block in vision.blocks:
        y = _layer_norm(block.norm1, x)
        parts = zip(block.qkv.weight.chunk(3), block.qkv.bias.chunk(3))
        q, k, v = (F.linear(y, w, b).unflatten(-1, (block.heads, -1)).transpose(1, 2) for w, b in parts)
        scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
        y = (F.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype) @ v).transpose(1, 2).flatten(2)
        x = x + block.out(y)
        y = F.linear(_layer_norm(block.norm2, x), block.up.weight, block.up.bias)
        x = x + block.down(F.gelu(y, approximate="tanh"))
    return vision.project(_layer_norm(vision.norm, x))


def _layer_norm(norm: torch.nn.LayerNorm, x: Tensor) -> Tensor:
    return norm(x.float()).to(x.dtype)
