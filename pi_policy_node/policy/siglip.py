"""SigLIP: a picture becomes a grid of tokens in the language model's space."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pi_policy_node.policy.attention import attention
from pi_policy_node.policy.shapes import VisionShape


class GeluLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(super().forward(x), approximate="tanh")


class VisionBlock(nn.Module):
    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.norm1 = nn.LayerNorm(shape.width, eps=1e-6)
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.out = nn.Linear(shape.width, shape.width)
        self.norm2 = nn.LayerNorm(shape.width, eps=1e-6)
        self.up = GeluLinear(shape.width, shape.mlp)
        self.down = nn.Linear(shape.mlp, shape.width)

    def forward(self, x: Tensor) -> Tensor:  # [N, T, W]
        qkv = self.qkv(layer_norm(self.norm1, x)).unflatten(-1, (3, self.heads, -1))  # [N, T, 3, heads, D]
        q, k, v = qkv.transpose(1, 3).unbind(2)  # each [N, heads, T, D]
        x = x + self.out(attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(self.up(layer_norm(self.norm2, x)))


class Vision(nn.Module):
    """Pictures float [N, 3, H, W] in -1..1 -> tokens [N, (H/patch)², out]."""

    def __init__(self, shape: VisionShape, out: int) -> None:
        super().__init__()
        self.shape = shape
        self.patches = nn.Linear(3 * shape.patch**2, shape.width)
        self.position = nn.Parameter(0.02 * torch.randn(shape.tokens, shape.width))
        self.blocks = nn.ModuleList(VisionBlock(shape) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width, eps=1e-6)
        self.project = nn.Linear(shape.width, out)

    def forward(self, images: Tensor) -> Tensor:
        n, p = self.shape.image // self.shape.patch, self.shape.patch
        x = images.unflatten(3, (n, p)).unflatten(2, (n, p))  # [N, 3, n, p, n, p]
        x = x.permute(0, 2, 4, 1, 3, 5).reshape(len(images), n * n, -1)  # [N, T, 3·p·p]
        x = (self.patches(x) + self.position).to(self.project.weight.dtype)
        for block in self.blocks:
            x = block(x)
        return self.project(layer_norm(self.norm, x))


def layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """LayerNorm with float32 weights on activations of any type."""
    if x.dtype == norm.weight.dtype:
        return norm(x)
    return norm(x.float()).to(x.dtype)
