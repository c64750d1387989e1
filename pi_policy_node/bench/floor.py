"""The least time an inference can take on a device: every weight read once per pass, every FLOP at the peak rate."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from pi_policy_node.policy import packed
from pi_policy_node.policy.shapes import GemmaShape, Shape


@dataclass(frozen=True)
class Device:
    flops: float  # per second, of a large matrix product in the dtype at hand
    bytes: float  # per second, read from main memory


def measure(device: torch.device, dtype: torch.dtype, threads: int | None) -> Device:
    """What this device really does, not what its data sheet says."""
    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        size = 8192 if device.type == "cuda" else 1024
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        products = [lambda: a @ b]
        if device.type == "cpu" and packed.available(dtype):
            products.append(partial(packed.Packed(b, None, size), a))
        flops = 2 * size**3 / min(_best(product, device) for product in products)
        long = torch.zeros((1 << 31 if device.type == "cuda" else 1 << 28) // 4, device=device)
        bandwidth = long.numel() * 4 / _best(lambda: long.sum(), device)
    finally:
        torch.set_num_threads(before)
    return Device(flops, bandwidth)


def floor(shape: Shape, device: Device, *, views: int, prompt: int, steps: int, size: int) -> dict[str, float]:
    """ms by stage: the larger of bytes and FLOPs. size: bytes per weight."""
    v, pictures = shape.vision, views * shape.vision.tokens
    prefix = pictures + prompt
    layer = 4 * v.width**2 + 2 * v.width * v.mlp
    vision = v.depth * layer + v.width * (3 * v.patch**2 + shape.vlm.width)
    stages = {
        "vision": (vision, 2 * vision * pictures + v.depth * 4 * views * v.tokens**2 * v.width),
        "prefill": _prefill(shape, prefix),
        "denoise": _denoise(shape, prefix + (shape.family == "pi0"), steps, size),
    }
    out = {f"{s}_ms": 1e3 * max(w * size / device.bytes, f / device.flops) for s, (w, f) in stages.items()}
    out["total_ms"] = sum(out.values())
    return out | {"gflops": device.flops / 1e9, "gbytes": device.bytes / 1e9}


def _layer(g: GemmaShape) -> tuple[int, int]:
    """Weights of a layer: of its q, k, v; of the rest."""
    inner = g.heads * g.head_dim
    return g.width * (inner + 2 * g.head_dim), inner * g.width + 3 * g.width * g.mlp


def _prefill(shape: Shape, prefix: int) -> tuple[float, float]:
    g = shape.vlm
    qkv, rest = _layer(g)
    weights = g.depth * qkv + (g.depth - 1) * rest  # the last layer stops at its keys and values
    return weights, 2 * weights * prefix + (g.depth - 1) * 4 * prefix**2 * g.heads * g.head_dim


def _denoise(shape: Shape, context: int, steps: int, size: int) -> tuple[float, float]:
    g = shape.expert
    weights = g.depth * sum(_layer(g))
    cache = g.depth * 2 * context * g.head_dim  # keys and values, read in every step
    attention = g.depth * 4 * shape.horizon * (context + shape.horizon) * g.heads * g.head_dim
    return steps * (weights + cache), steps * (2 * weights * shape.horizon + attention)


def _best(call, device: torch.device, repeat: int = 5) -> float:
    best = float("inf")
    for _ in range(repeat + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return best


def available_gb() -> float:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 1e6
    return float("inf")


def peak_gb() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
