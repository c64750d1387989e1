"""Gemma, twice: the language model, and the action expert that attends to each of its layers.

Both are the same stack of blocks. A stack reads what earlier stacks left behind (`past`: the keys and values of every
layer) and leaves its own. As no earlier token ever attends to a later one, running the streams one after the other
gives exactly what running them side by side gives, in training as well.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pi_policy_node.policy.attention import attention
from pi_policy_node.policy.shapes import GemmaShape

KV = list[tuple[Tensor, Tensor]]  # per layer: keys and values, each [B, K, D]


def rope(positions: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Rotations for positions [B, S]: cos and sin [B, S, 1, D/2], in float32 whatever the model computes in."""
    inverse = 1e4 ** -(torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim)
    angle = positions[..., None, None].float() * inverse
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [B, S, heads, D]: dimension i turns with dimension i + D/2."""
    a, b = x.float().chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)


class RMSNorm(nn.Module):
    """x/rms(x)·(1 + weight); without a weight (adaptive, or folded into the next product) just x/rms(x)."""

    def __init__(self, width: int, *, weight: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width)) if weight else None

    def forward(self, x: Tensor, modulation: Tensor | None = None) -> Tensor:
        """modulation [B, 1 or S, 3, W] = scale, shift and gate (the gate is the block's business)."""
        y = F.rms_norm(x, x.shape[-1:], eps=1e-6)
        if modulation is not None:
            y = y * (1 + modulation[..., 0, :]) + modulation[..., 1, :]
        elif self.weight is not None:
            y = y * (1 + self.weight)
        return y.to(x.dtype)

    @torch.no_grad()
    def fold(self, *products: nn.Linear) -> None:
        """Move the weight into the products that read this norm."""
        if self.weight is not None:
            for product in products:
                product.weight.mul_(1 + self.weight)
            self.weight = None


class GeGlu(nn.Linear):
    """gelu(x·Gᵀ) ⊙ (x·Uᵀ); the weight is G above U."""

    def forward(self, x: Tensor) -> Tensor:
        gate, up = super().forward(x).chunk(2, -1)
        return F.gelu(gate, approximate="tanh") * up


class Block(nn.Module):
    def __init__(self, shape: GemmaShape, *, adaptive: bool) -> None:
        super().__init__()
        self.heads, self.head_dim = shape.heads, shape.head_dim
        inner = shape.heads * shape.head_dim
        self.norm1 = RMSNorm(shape.width, weight=not adaptive)
        self.qkv = nn.Linear(shape.width, inner + 2 * shape.head_dim, bias=False)
        self.out = nn.Linear(inner, shape.width, bias=False)
        self.norm2 = RMSNorm(shape.width, weight=not adaptive)
        self.gate_up = GeGlu(shape.width, 2 * shape.mlp, bias=False)
        self.down = nn.Linear(shape.mlp, shape.width, bias=False)

    def forward(
        self,
        x: Tensor,  # [B, S, W]
        turn: tuple[Tensor, Tensor],  # rope's cos and sin
        mask: Tensor | None,  # bool [B, 1 or S, K + S]
        past: tuple[Tensor, Tensor] | None,  # keys and values, [B, K, D] each
        modulations: Tensor | None,  # [2, B, 1 or S, 3, W]
        kv_only: bool,
    ) -> tuple[Tensor | None, tuple[Tensor, Tensor]]:
        first, second = (None, None) if modulations is None else modulations
        qkv = self.qkv(self.norm1(x, first)).unflatten(-1, (self.heads + 2, self.head_dim))  # [B, S, heads + 2, D]
        qk = rotate(qkv[..., : self.heads + 1, :], *turn)
        q, k, v = qk[..., : self.heads, :], qk[..., self.heads, :], qkv[..., self.heads + 1, :]
        if past is not None:
            k, v = torch.cat((past[0], k), 1), torch.cat((past[1], v), 1)
        if kv_only:
            return None, (k, v)
        x = add(x, self.out(attend(q, k, v, mask)), first)
        return add(x, self.down(self.gate_up(self.norm2(x, second))), second), (k, v)


def add(x: Tensor, y: Tensor, modulation: Tensor | None) -> Tensor:
    """The residual, gated where the norm before it was adaptive."""
    return x + y if modulation is None else (x + y * modulation[..., 2, :]).to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """q [B, S, heads, D], k and v [B, K, D], mask bool [B, 1 or S, K] (True = may look) -> [B, S, heads·D].

    With one key head, the query heads are just more queries: [B, S·heads, D] against K keys, nothing repeated.
    """
    if mask is not None:
        mask = mask if mask.shape[1] == 1 else mask.repeat_interleave(q.shape[2], 1)
        mask = mask[:, None]
    mixed = attention(q.flatten(1, 2)[:, None], k[:, None], v[:, None], mask)
    return mixed[:, 0].unflatten(1, q.shape[1:3]).flatten(2)


class Gemma(nn.Module):
    def __init__(self, shape: GemmaShape, *, adaptive: bool = False) -> None:
        super().__init__()
        self.shape = shape
        self.blocks = nn.ModuleList(Block(shape, adaptive=adaptive) for _ in range(shape.depth))
        self.norm = RMSNorm(shape.width, weight=not adaptive)
        norms = 2 * shape.depth + 1
        self.modulation = nn.Linear(shape.width, norms * 3 * shape.width) if adaptive else None
        if self.modulation is not None:  # an untrained adaptive norm is a plain norm with closed gates
            nn.init.zeros_(self.modulation.weight)

    def modulate(self, condition: Tensor) -> Tensor:
        """The condition [B, T, W] -> scale, shift and gate of all norms [2·depth + 1, B, T, 3, W], in one product."""
        out = self.modulation(condition).unflatten(-1, (-1, 3, self.shape.width))
        return out.movedim(2, 0)

    def forward(
        self,
        x: Tensor,  # [B, S, W]
        positions: Tensor,  # [B, S]
        *,
        mask: Tensor | None = None,  # bool [B, 1 or S, past + S], True = may look
        past: KV | None = None,
        modulations: Tensor | None = None,  # [2·depth + 1, B, 1 or S, 3, W]
        kv_only: bool = False,
    ) -> tuple[Tensor | None, KV]:
        """The normed output [B, S, W] and every layer's keys and values, past included.

        kv_only: only the keys and values matter, so the last layer stops at them and the output is None.
        """
        turn = rope(positions, self.shape.head_dim)
        kv: KV = []
        for i, block in enumerate(self.blocks):
            mods = None if modulations is None else modulations[2 * i : 2 * i + 2]
            last = i == len(self.blocks) - 1
            x, own = block(x, turn, mask, None if past is None else past[i], mods, kv_only and last)
            kv.append(own)
        if kv_only:
            return None, kv
        return self.norm(x, None if modulations is None else modulations[-1]), kv
