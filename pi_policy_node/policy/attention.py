"""Softmax attention, in whichever of two forms is faster where it runs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """q [N, heads, Q, D], k and v [N, heads, K, D], mask bool [N, 1, 1 or Q, K] (True = may look) -> like q.

    torch's fused form keeps the scores out of memory, which is all a GPU asks for. On a CPU the products written out
    run through the library that all products run through: 2 to 3 times faster in bfloat16, and with one key head in
    float32 as well; only float32 with many heads (the vision tower) is better off fused.
    """
    if q.device.type != "cpu" or (q.dtype == torch.float32 and q.shape[1] > 1):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1) @ v
