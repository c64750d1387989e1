"""π0 and π0.5: pictures, words and a state become a chunk of actions by flow matching.

A camera's picture becomes tokens (SigLIP), the tokens and the prompt pass through the language model once and leave
their keys and values (`Context`), and the action expert turns noise into actions in a few Euler steps, attending to
that context. Time runs from 1 (noise) to 0 (data): x_t = t·noise + (1 - t)·actions, velocity = noise - actions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pi_policy_node.policy.gemma import KV, Gemma
from pi_policy_node.policy.shapes import Shape
from pi_policy_node.policy.siglip import Vision


@dataclass
class Inputs:
    """A batch as the network takes it: normalised and padded. Masks: True = there."""

    images: Tensor  # float [B, V, 3, H, W] in -1..1
    image_mask: Tensor  # bool [B, V]
    tokens: Tensor  # int64 [B, N]
    token_mask: Tensor  # bool [B, N]
    state: Tensor  # float [B, action_dim]; pi05 has it in the tokens and does not look

    def to(self, device: torch.device | str) -> Inputs:
        return Inputs(*(getattr(self, f).to(device) for f in self.__dataclass_fields__))


@dataclass
class Plan:
    """Which tokens go through the network, and where. Made on the host, so that shapes are known before any work.

    All image tokens (of the pictures in `images`) and then all prompt tokens form one pool; `index` picks from it.
    """

    images: Tensor  # int64 [M], into the flattened [B·V]
    index: Tensor  # int64 [B, P], into the pool of M·T + B·N tokens
    valid: Tensor  # bool [B, P]
    full: bool  # every place is valid: no mask is needed

    def to(self, device: torch.device | str) -> Plan:
        return Plan(self.images.to(device), self.index.to(device), self.valid.to(device), self.full)


def plan(
    image_mask: Tensor, token_mask: Tensor, tokens_per_image: int, *, drop: bool = True, multiple: int = 1
) -> Plan:
    """Drop absent cameras and padding (or keep all of it in place), then pad to a multiple of so many tokens."""
    batch, views = image_mask.shape
    valid = torch.cat((image_mask.repeat_interleave(tokens_per_image, 1), token_mask), 1)  # [B, V·T + N]
    images = image_mask.flatten().nonzero()[:, 0] if drop else torch.arange(batch * views)
    place = torch.zeros(batch * views, dtype=torch.int64)
    place[images] = torch.arange(len(images))  # where a picture lies among those that are encoded
    picture = place.view(batch, views, 1) * tokens_per_image + torch.arange(tokens_per_image)
    word = len(images) * tokens_per_image + torch.arange(token_mask.numel()).view(batch, -1)
    index = torch.cat((picture.flatten(1), word), 1)  # [B, V·T + N]
    if drop:
        order = (~valid).to(torch.int8).argsort(dim=1, stable=True)  # valid ones first, in their order
        longest = int(valid.sum(1).max())
        index, valid = index.gather(1, order)[:, :longest], valid.gather(1, order)[:, :longest]
    extra = -index.shape[1] % multiple
    index, valid = F.pad(index, (0, extra)), F.pad(valid, (0, extra))
    return Plan(images, index, valid, bool(valid.all()))


@dataclass
class Context:
    """What the expert attends to: every layer's keys and values, which of them are real, and the next position."""

    kv: KV
    valid: Tensor | None  # bool [B, K]; None = all
    position: Tensor  # int64 [B]

    def mask(self, extra: int) -> Tensor | None:
        """Who may be looked at by `extra` new tokens that all see each other: [B, 1, K + extra]."""
        return None if self.valid is None else F.pad(self.valid, (0, extra), value=True)[:, None]


class Pi(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.expert.width
        self.vision = Vision(shape.vision, shape.vlm.width)
        self.embed = nn.Parameter(0.02 * torch.randn(shape.vocabulary, shape.vlm.width))  # also the language head
        self.vlm = Gemma(shape.vlm)
        self.expert = Gemma(shape.expert, adaptive=shape.family == "pi05")
        self.action_in = nn.Linear(shape.action_dim, width)
        self.action_out = nn.Linear(width, shape.action_dim)
        if shape.family == "pi0":
            self.state_in = nn.Linear(shape.action_dim, width)
            self.time_in = nn.Linear(2 * width, width)  # of the action and the time
        else:
            self.time_in = nn.Linear(width, width)  # of the time
        self.time_out = nn.Linear(width, width)

    @property
    def dtype(self) -> torch.dtype:
        """What the large products compute in; small ones stay in float32."""
        return self.embed.dtype

    @staticmethod
    def is_large(name: str) -> bool:
        """Whether a parameter belongs to the large products, by name; the others stay float32 in every model."""
        return name == "embed" or "project" in name or (".blocks." in name and "norm" not in name)

    def cast(self, dtype: torch.dtype) -> Pi:
        """Put the large products into dtype. Norms, positions and everything at the action's end stay float32."""
        for name, parameter in self.named_parameters():
            if self.is_large(name):
                parameter.data = parameter.data.to(dtype)
        return self

    def fold(self) -> Pi:
        """Fold norm weights into the next product (for inference: the model computes the same, faster)."""
        for stack in (self.vlm, self.expert):
            for block in stack.blocks:
                block.norm1.fold(block.qkv)
                block.norm2.fold(block.gate_up)
        self.expert.norm.fold(self.action_out)
        return self

    # ---- the prefix: pictures and words, once per observation

    def pool(self, pictures: Tensor, tokens: Tensor, plan: Plan) -> Tensor:
        """Pictures [M, T, W] and tokens [B, N] -> the prefix [B, P, W]; the prompt is scaled by √W, pictures not."""
        return torch.cat((pictures.flatten(0, 1), self.embed_tokens(tokens).flatten(0, 1)))[plan.index]

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.embed) * math.sqrt(self.shape.vlm.width)

    def prefill(self, x: Tensor, plan: Plan, *, hidden: bool = False) -> tuple[Context, Tensor | None]:
        """The prefix [B, P, W] through the language model. With hidden, also its output [B, P, W], for `logits`."""
        positions = plan.valid.cumsum(1) - 1
        mask = None if plan.full else plan.valid[:, None]
        out, kv = self.vlm(x, positions, mask=mask, kv_only=not hidden)
        return Context(kv, None if plan.full else plan.valid, plan.valid.sum(1)), out

    def look(self, inputs: Inputs, *, drop: bool = False, hidden: bool = False) -> tuple[Context, Tensor | None]:
        """Pictures and prompt through the network."""
        where = plan(inputs.image_mask.cpu(), inputs.token_mask.cpu(), self.shape.vision.tokens, drop=drop)
        where = where.to(inputs.tokens.device)
        pictures = self.vision(inputs.images.flatten(0, 1)[where.images])
        return self.prefill(self.pool(pictures, inputs.tokens, where), where, hidden=hidden)

    def with_state(self, context: Context, state: Tensor) -> Context:
        """pi0: the state is a token of the expert that sees the prefix but no action, so it too is computed once."""
        if self.shape.family == "pi05":
            return context
        x = self.state_in(state.float())[:, None].to(self.dtype)
        _, kv = self.expert(x, context.position[:, None], mask=context.mask(1), past=context.kv, kv_only=True)
        valid = None if context.valid is None else F.pad(context.valid, (0, 1), value=True)
        return Context(kv, valid, context.position + 1)

    def context(self, inputs: Inputs, *, drop: bool = False) -> Context:
        """Everything the expert attends to."""
        return self.with_state(self.look(inputs, drop=drop)[0], inputs.state)

    # ---- the suffix: actions, once per denoising step

    def condition(self, t: Tensor) -> Tensor:
        """What a step knows of its time t [B] or [B, H]: the embedding for pi0, all modulations for pi05."""
        t = t[:, None] if t.ndim == 1 else t
        time = embed_time(t, self.shape.expert.width)  # [B, 1 or H, W]
        if self.shape.family == "pi0":
            return time
        return self.expert.modulate(F.silu(self.time_out(F.silu(self.time_in(time)))))

    def velocity(self, context: Context, x: Tensor, condition: Tensor) -> Tensor:
        """The velocity [B, H, action_dim] of noisy actions x of the same shape, float32."""
        horizon = x.shape[1]
        y = self.action_in(x.float())  # [B, H, W]
        modulations = None
        if self.shape.family == "pi0":
            y = self.time_out(F.silu(self.time_in(torch.cat((y, condition.expand_as(y)), -1))))
        else:
            modulations = condition
        positions = context.position[:, None] + torch.arange(horizon, device=x.device)
        y, _ = self.expert(
            y.to(self.dtype), positions, mask=context.mask(horizon), past=context.kv, modulations=modulations
        )
        return self.action_out(y.float())

    def sample(self, inputs: Inputs, noise: Tensor, *, steps: int = 10, drop: bool = False) -> Tensor:
        """Actions [B, H, action_dim] from noise of that shape: the plain reference that the engine is held against."""
        context, x = self.context(inputs, drop=drop), noise
        for t in times(steps):
            x = x - self.velocity(context, x, self.condition(x.new_full((len(x),), t))) / steps
        return x

    def loss(self, inputs: Inputs, actions: Tensor, noise: Tensor, t: Tensor, *, clean: Tensor | None = None) -> Tensor:
        """(u - v)², unreduced [B, H, action_dim], at times t [B].

        clean [B]: so many first actions are given without noise, as in training-time real-time chunking; their loss
        is zero. Draw t with `draw_times`.
        """
        t = t[:, None].expand(actions.shape[:2])
        if clean is not None:
            given = torch.arange(actions.shape[1], device=t.device) < clean[:, None]  # [B, H]
            t = t.masked_fill(given, 0.0)
        x = t[..., None] * noise + (1 - t[..., None]) * actions
        error = (noise - actions - self.velocity(self.context(inputs), x, self.condition(t))) ** 2
        return error if clean is None else error.masked_fill(given[..., None], 0.0)

    # ---- words out: the language head

    def read(self, context: Context, tokens: Tensor) -> tuple[Tensor, Context]:
        """Append tokens [B, S], each seeing the ones before it; logits [B, S, vocabulary] for what follows each."""
        batch, count = tokens.shape
        positions = context.position[:, None] + torch.arange(count, device=tokens.device)
        known = context.kv[0][0].shape[1]
        valid = context.valid
        if valid is None:
            valid = torch.ones(batch, known, dtype=torch.bool, device=tokens.device)
        causal = torch.ones(count, count, dtype=torch.bool, device=tokens.device).tril()
        mask = torch.cat((valid[:, None].expand(-1, count, -1), causal.expand(batch, -1, -1)), -1)
        x, kv = self.vlm(self.embed_tokens(tokens), positions, mask=mask, past=context.kv)
        return self.logits(x), Context(kv, F.pad(valid, (0, count), value=True), context.position + count)

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.embed).float()


def times(steps: int) -> list[float]:
    """The time grid of Euler sampling, 1, 1 - 1/n, … 1/n, summed up in float32 as the original does.

    The rounding matters: the fastest time feature has a period of 0.004, so 1e-7 in t is seen in the actions.
    """
    grid = [np.float32(1)]
    for _ in range(steps - 1):
        grid.append(grid[-1] + np.float32(-1 / steps))
    return [float(t) for t in grid]


def draw_times(count: int, generator: torch.Generator | None = None) -> Tensor:
    """Training times [count]: Beta(1.5, 1)·0.999 + 0.001, by its inverse distribution u^(1/1.5)."""
    return torch.rand(count, generator=generator) ** (1 / 1.5) * 0.999 + 0.001


def embed_time(t: Tensor, width: int, *, shortest: float = 4e-3, longest: float = 4.0) -> Tensor:
    """[sin, cos] of 2πt/period for geometric periods: [..., width] float32, computed in float64 (float32 shows)."""
    ratio = torch.linspace(0, 1, width // 2, dtype=torch.float64, device=t.device)
    angle = 2 * math.pi * t.double()[..., None] / (shortest * (longest / shortest) ** ratio)
    return torch.cat((angle.sin(), angle.cos()), -1).float()
