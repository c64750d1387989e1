"""How fast mini answers here: the shipped weights, or random ones of its size where none are shipped."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from pi_policy_node.bench.floor import measure, peak_gb
from pi_policy_node.bench.served import make_served_policy
from pi_policy_node.policy.base import Observation
from pi_policy_node.policy.mini import MiniPolicy
from pi_policy_node.robot import load_robot

WORDS = "put the red block in the blue bin"


def report(*, threads: int | None, repeat: int | None) -> dict:
    """ms by stage. The floor counts every product and every weight once per pass, at this device's peak rates."""
    before = torch.get_num_threads()
    threads = threads or 1  # on layers this small threads wait for each other longer than they work
    torch.set_num_threads(threads)
    try:
        robot = load_robot("pi_mobile")
        policy = make_served_policy(None, robot)
        policy.warm_up()
        rng = np.random.default_rng(0)
        images = {name: rng.integers(0, 256, (*robot.image_size, 3), np.uint8) for name in policy.cameras}
        taken: dict[str, list[float]] = {}
        for i in range((repeat or 50) + 1):  # at each look, once the answer is there, the subtask is chosen again
            timing = policy.infer(Observation(images, robot.home, WORDS, 0.5 * i)).timing
            begin = time.perf_counter()
            policy.afterwards()
            for stage, seconds in {**timing, "say": time.perf_counter() - begin}.items():
                if i:  # with new words the answer waits for it
                    taken.setdefault(stage, []).append(1e3 * seconds)
        ms = {stage: statistics.median(values) for stage, values in taken.items()}
        floors = floor(policy, Observation(images, robot.home, WORDS, 0.0), threads)
    finally:
        torch.set_num_threads(before)
    return {"preset": "mini", "weights": policy.name, "device": "cpu", "dtype": "float32", "threads": threads,
            "views": len(policy.cameras), "steps": policy._steps, "horizon": policy.horizon,
            "parameters": sum(p.numel() for p in policy.model.parameters()), "ms": ms, "floor": floors,
            "ratio_to_floor": (ms["look"] + ms["act"]) / floors["total_ms"], "peak_memory_gb": peak_gb()}


def floor(policy: MiniPolicy, obs: Observation, threads: int) -> dict[str, float]:
    """ms: the larger of bytes and FLOPs."""
    here, model = measure(torch.device("cpu"), torch.float32, threads), policy.model
    with torch.inference_mode():
        pictures, there = policy._pictures(obs)
        seen, state = model.look(pictures), np.asarray(obs.state)[None]
        asked, = policy._say([obs.prompt], seen, there, state)
        flops = {
            "look": _flops(lambda: model.look(pictures)),
            "say": _flops(lambda: policy._say([obs.prompt], seen, there, state)),
            "act": _flops(lambda: policy._act([obs.prompt], [asked.subtask or WORDS], [asked.arm], [None], seen, there,
                                              state, 0.0)),
        }
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    eyes = sum(count[name] for name in ("front", "wrist", "rear", "wide", "reader"))
    spoken = len(policy.words.encode(asked.subtask)) + len(policy.words.encode(asked.then)) + 2  # with each one's end
    weights = {"look": eyes, "say": (1 + spoken) * count["vlm"], "act": count["vlm"] + policy._steps * count["expert"]}
    passes = {name: 1e3 * max(4 * weights[name] / here.bytes, flops[name] / here.flops) for name in flops}
    return {**{f"{name}_ms": value for name, value in passes.items()}, "total_ms": passes["look"] + passes["act"],
            "gflops": here.flops / 1e9, "gbytes": here.bytes / 1e9}


def _flops(call: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def text(r: dict) -> str:
    ms, f = r["ms"], r["floor"]
    return "\n".join((
        f"{r['weights']}, {r['parameters'] / 1e6:.1f} M parameters, {r['views']} views, {r['steps']} steps, "
        f"{r['horizon']} rows; cpu, float32, {r['threads']} threads",
        f"  prepare  {ms['prepare']:10.2f} ms",
        f"  look     {ms['look']:10.2f} ms    floor {f['look_ms']:10.2f}",
        f"  act      {ms['act']:10.2f} ms    floor {f['act_ms']:10.2f}    (find its thing, and denoise)",
        f"  total    {ms['total']:10.2f} ms    {r['ratio_to_floor']:.2f} x the floor of {f['total_ms']:.2f}",
        f"  say      {ms['say']:10.2f} ms    floor {f['say_ms']:10.2f}    (choose what is next, once the answer is out)",
        f"  peak memory {r['peak_memory_gb']:.2f} GB; this device: {f['gflops']:.0f} GFLOP/s, {f['gbytes']:.1f} GB/s "
        "(measured)",
    ))
