"""Words out of the language head, token by token."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pi_policy_node.policy.model import Inputs, Pi


@torch.no_grad()
def generate(
    model: Pi,
    inputs: Inputs,
    *,
    limit: int = 50,
    stop: int = 1,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    alive: Callable[[], None] = lambda: None,
) -> list[list[int]]:
    """Continue the prompt of each row until `stop` (PaliGemma's end token is 1) or `limit` tokens.

    temperature 0: the likeliest token each time. `alive` may raise between two tokens.
    """
    context, hidden = model.look(inputs, drop=True, hidden=True)
    rows = torch.arange(len(hidden), device=hidden.device)
    last = hidden[rows, context.position - 1]  # where the valid tokens of each row end
    logits = model.logits(last)
    said: list[list[int]] = [[] for _ in hidden]
    done = torch.zeros(len(hidden), dtype=torch.bool)
    for count in range(limit):
        alive()
        token = choose(logits, temperature, generator)
        for row, value in enumerate(token.tolist()):
            done[row] |= value == stop
            if not done[row]:
                said[row].append(value)
        if done.all() or count == limit - 1:
            break
        logits, context = model.read(context, token[:, None])
        logits = logits[:, 0]
    return said


def choose(logits: Tensor, temperature: float, generator: torch.Generator | None = None) -> Tensor:
    """One token per row [B] from logits [B, vocabulary]."""
    if temperature <= 0:
        return logits.argmax(-1)
    return torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=generator)[:, 0]
