"""How to run a model on this CPU: measured on one layer, not guessed."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable

import torch
import torch._dynamo

from pi_policy_node.policy import packed
from pi_policy_node.policy.gemma import Block, rope
from pi_policy_node.policy.model import Pi
from pi_policy_node.policy.shapes import Shape


def best_threads(model: Pi, prefix: int) -> int:
    """The number of threads with which a layer of each stack is fastest: all, half of them (one per core), or one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    before = torch.get_num_threads()
    counts = sorted({1, max(1, cores // 2), cores})
    costs = dict.fromkeys(counts, float("inf"))
    try:
        for _ in range(3):  # in turn, so that what else the computer does hits all alike
            for count in counts:
                torch.set_num_threads(count)
                costs[count] = min(costs[count], cost(model, prefix))
        return min(costs, key=costs.get)
    finally:
        torch.set_num_threads(before)


def best_dtype(shape: Shape, prefix: int) -> torch.dtype:
    """bfloat16 where it runs a layer clearly faster than float32: it needs instructions that many CPUs lack."""
    kinds = (torch.float32, torch.bfloat16)
    blocks = {k: [Block(size, adaptive=False).to(k) for size in (shape.vlm, shape.expert)] for k in kinds}
    costs = dict.fromkeys(kinds, float("inf"))
    for _ in range(2):
        for kind in kinds:
            costs[kind] = min(costs[kind], _cost(blocks[kind], shape, prefix, kind))
    return torch.bfloat16 if costs[torch.bfloat16] < 0.8 * costs[torch.float32] else torch.float32


def packing_wins(model: Pi, prefix: int, threads: int) -> bool:
    """Whether packed weights make the layers at least 3 % faster."""
    if not packed.available() or packed.is_packed(model.vlm.blocks[0]):
        return False
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    kinds = {"plain": [model.vlm.blocks[0], model.expert.blocks[0]]}
    rows = (prefix, model.shape.horizon)
    kinds["packed"] = [packed.packed_copy(block, count) for block, count in zip(kinds["plain"], rows)]
    costs = dict.fromkeys(kinds, float("inf"))
    try:
        for _ in range(2):
            for kind, blocks in kinds.items():
                costs[kind] = min(costs[kind], _cost(blocks, model.shape, prefix, model.dtype))
    finally:
        torch.set_num_threads(before)
    return costs["packed"] < 0.97 * costs["plain"]


def compiling_wins(model: Pi, prefix: int, threads: int) -> bool:
    """Whether torch.compile makes the layers at least 5 % faster.

    Finding out takes tens of seconds, so a model that answers within a second is not asked, nor one on a computer
    without a C++ compiler.
    """
    if not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        return False
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    blocks = [model.vlm.blocks[0], model.expert.blocks[0]]
    try:
        plain = cost(model, prefix)
        if plain * model.shape.vlm.depth < 1.0:
            return False
        for block in blocks:
            compile_block(block)
        return cost(model, prefix) < 0.95 * plain
    finally:
        for block in blocks:
            block.__dict__.pop("forward", None)
        torch.set_num_threads(before)


def compile_blocks(model: Pi) -> None:
    """Compile the layers of the language model and the expert; all layers of a stack share their graphs."""
    for stack in (model.vlm, model.expert):
        for block in stack.blocks:
            compile_block(block)


def compile_block(block: Block) -> None:
    # One graph per stack, per mask or none, and for the last layer, which may stop early: more than the default.
    torch._dynamo.config.recompile_limit = max(32, torch._dynamo.config.recompile_limit)
    block.forward = torch.compile(block.forward, dynamic=True)


def cost(model: Pi, prefix: int) -> float:
    """Seconds: a layer of the language model on a prefix, and ten of the expert on a chunk."""
    return _cost([model.vlm.blocks[0], model.expert.blocks[0]], model.shape, prefix, model.dtype)


@torch.no_grad()
def _cost(blocks: list[Block], shape: Shape, prefix: int, dtype: torch.dtype) -> float:
    total = 0.0
    for block, size, tokens, times in ((blocks[0], shape.vlm, prefix, 1), (blocks[1], shape.expert, shape.horizon, 10)):
        x = torch.randn(1, tokens, size.width).to(dtype)
        past = None if times == 1 else tuple(torch.randn(2, 1, prefix, size.head_dim).to(dtype))
        turn = rope(torch.arange(tokens)[None], size.head_dim)
        mods = torch.zeros(2, 1, 1, 3, size.width) if shape.family == "pi05" and times > 1 else None
        total += times * fastest(lambda: block(x, turn, None, past, mods, False))
    return total


def fastest(call: Callable[[], object], repeat: int = 2) -> float:
    """Seconds of the fastest of a few calls, after one that is not counted."""
    call()
    best = float("inf")
    for _ in range(repeat):
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return best
