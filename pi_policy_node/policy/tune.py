"""How to run a model on this CPU: measured on one layer, not guessed.

What to compute with (type, packed weights, compiled) is told by the time that one thread spends working: whatever else
the computer does would blur the clock on the wall. Only the number of threads must be told by that one.
"""

from __future__ import annotations

import copy
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
    before, blocks = torch.get_num_threads(), [model.vlm.blocks[0], model.expert.blocks[0]]
    counts = sorted({1, max(1, cores // 2), cores})
    costs = dict.fromkeys(counts, float("inf"))
    try:
        for _ in range(3):  # in turn, so that what else the computer does hits all alike
            for count in counts:
                torch.set_num_threads(count)
                costs[count] = min(costs[count], cost(blocks, model.shape, prefix))
        return min(costs, key=costs.get)
    finally:
        torch.set_num_threads(before)


def best_dtype(shape: Shape, prefix: int) -> torch.dtype:
    """bfloat16 where it runs a layer clearly faster than float32: it needs instructions that many CPUs lack."""
    kinds = (torch.float32, torch.bfloat16)
    blocks = {k: [Block(size, adaptive=False).to(k) for size in (shape.vlm, shape.expert)] for k in kinds}
    costs = _compare(blocks, shape, prefix)
    return torch.bfloat16 if costs[torch.bfloat16] < 0.8 * costs[torch.float32] else torch.float32


def packing_wins(model: Pi, prefix: int) -> bool:
    """Whether packed weights make the layers at least 3 % faster."""
    if not packed.available(model.dtype) or packed.is_packed(model.vlm.blocks[0]):
        return False
    plain = [model.vlm.blocks[0], model.expert.blocks[0]]
    rows = (prefix, model.shape.horizon)
    twins = [packed.packed_copy(block, count) for block, count in zip(plain, rows)]
    costs = _compare({"plain": plain, "packed": twins}, model.shape, prefix)
    return costs["packed"] < 0.97 * costs["plain"]


def compiling_wins(model: Pi, prefix: int) -> bool:
    """Whether torch.compile makes the layers at least 5 % faster.

    Finding out takes tens of seconds, so a model that answers within a second is not asked, nor one on a computer
    without a C++ compiler.
    """
    if not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        return False
    plain = [model.vlm.blocks[0], model.expert.blocks[0]]
    if _compare({"plain": plain}, model.shape, prefix)["plain"] * model.shape.vlm.depth < 1.0:
        return False
    twins = [copy.copy(block) for block in plain]
    for block in twins:
        compile_block(block)
    costs = _compare({"plain": plain, "compiled": twins}, model.shape, prefix)
    return costs["compiled"] < 0.95 * costs["plain"]


def compile_blocks(model: Pi) -> None:
    """Compile the layers of the language model and the expert; all layers of a stack share their graphs."""
    for stack in (model.vlm, model.expert):
        for block in stack.blocks:
            compile_block(block)


def compile_block(block: Block) -> None:
    # One graph per stack, per mask or none, and for the last layer, which may stop early: more than the default.
    torch._dynamo.config.recompile_limit = max(32, torch._dynamo.config.recompile_limit)
    block.forward = torch.compile(block.forward, dynamic=True)


@torch.no_grad()
def _compare(kinds: dict, shape: Shape, prefix: int) -> dict:
    """What each kind's layers cost one thread, in s of its own work: {kind: [of the VLM, of the expert]} -> {kind: s}.

    They are measured in turn, on a quarter of the prefix: a thread alone is slow enough.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    costs = dict.fromkeys(kinds, float("inf"))
    try:
        for _ in range(2):
            for kind, blocks in kinds.items():
                costs[kind] = min(costs[kind], cost(blocks, shape, max(16, prefix // 4), time.thread_time))
    finally:
        torch.set_num_threads(before)
    return costs


@torch.no_grad()
def cost(blocks: list[Block], shape: Shape, prefix: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds: a layer of the language model on a prefix, and ten of the expert on a chunk."""
    total = 0.0
    for block, size, tokens, times in ((blocks[0], shape.vlm, prefix, 1), (blocks[1], shape.expert, shape.horizon, 10)):
        dtype = (block.qkv.blocked if packed.is_packed(block) else block.qkv.weight).dtype
        x = torch.randn(1, tokens, size.width).to(dtype)
        past = None if times == 1 else tuple(torch.randn(2, 1, prefix, size.head_dim).to(dtype))
        turn = rope(torch.arange(tokens)[None], size.head_dim)
        mods = torch.zeros(2, 1, 1, 3, size.width) if shape.family == "pi05" and times > 1 else None
        total += times * fastest(lambda: block(x, turn, None, past, mods, False), clock)
    return total


def fastest(call: Callable[[], object], clock: Callable[[], float], repeat: int = 2) -> float:
    """Seconds of the fastest of a few calls, after one that is not counted."""
    call()
    best = float("inf")
    for _ in range(repeat):
        started = clock()
        call()
        best = min(best, clock() - started)
    return best
