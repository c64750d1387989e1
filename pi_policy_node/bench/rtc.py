"""Real-time chunking: what both forms cost, and how well chunks join when inference takes 1 to 8 rows.

The joints are measured on a tiny model trained here in seconds, with clean prefixes, on motions that no observation
tells apart (sines of random phase): whoever starts afresh starts somewhere else.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time

import torch

from pi_policy_node.bench.policy import DTYPES, random, request
from pi_policy_node.policy.engine import Engine, blank
from pi_policy_node.policy.lane import Given
from pi_policy_node.policy.model import Pi, draw_times
from pi_policy_node.policy.rtc import Guide, soft_mask
from pi_policy_node.policy.shapes import PRESETS, GemmaShape, Shape, VisionShape

HELP = "real-time chunking: ms of the guided and the trained form, and the error where chunks join"

TINY = Shape(
    name="tiny",
    family="pi05",
    vision=VisionShape(width=32, depth=1, mlp=32, heads=2, image=14),
    vlm=GemmaShape(width=32, depth=2, mlp=64, heads=2, head_dim=16),
    expert=GemmaShape(width=64, depth=2, mlp=128, heads=2, head_dim=16),
    vocabulary=8,
    prompt_tokens=2,
    action_dim=2,
    horizon=24,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", choices=PRESETS, default="quarter05", help="for the costs")
    parser.add_argument("--views", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--training", type=int, default=800, metavar="STEPS", help="of the tiny model")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    ms = costs(args)
    model = train(args.training)
    errors = {delay: joints(model, delay) for delay in range(1, 9)}
    good = all(e[form] <= e["none"] / 5 for e in errors.values() for form in ("guided", "trained"))
    if args.json:
        print(json.dumps({"preset": args.preset, "device": args.device, "ms": ms, "joint_error": errors}, indent=1))
        return 0 if good else 1
    plain = ms["plain"]
    print(f"{args.preset}, {args.views} views, {args.device}, {args.dtype}: median ms of {args.repeat} runs in turn")
    for mode, value in ms.items():
        print(f"  {mode:8} {value:9.2f}   {value / plain:.2f} x")
    print("jump from the last row of the old chunk to the first of the new, mean of 64, by a trained tiny model")
    print("  delay      none   guided  trained")
    for delay, e in errors.items():
        print(f"  {delay:5}  {e['none']:8.3f} {e['guided']:8.3f} {e['trained']:8.3f}")
    print(f"a fifth of no chunking's or less: {'yes' if good else 'NO'}")
    return 0 if good else 1


def costs(args: argparse.Namespace) -> dict[str, float]:
    """Median ms of an inference without chunking and with either form, in turn."""
    shape = PRESETS[args.preset]
    engine = Engine(random(shape, DTYPES[args.dtype], torch.device(args.device)))
    given = request(shape, args.views, min(20, shape.prompt_tokens))
    zeros = torch.zeros(1, shape.horizon, shape.action_dim)
    engine.warm_up(views=args.views, prompt=given.tokens.shape[1])
    first = torch.arange(shape.horizon)[None] < 4
    kinds = {
        "plain": {},
        "trained": {"given": Given(zeros, first)},
        "guided": {"guide": Guide(zeros, first[..., None].float().expand_as(zeros))},
    }
    taken: dict[str, list[float]] = {mode: [] for mode in kinds}
    for i in range(args.repeat + 1):
        for mode, options in kinds.items():
            started = time.perf_counter()
            engine.sample(given, noise=zeros, **options)
            if i:  # the first builds the lane
                taken[mode].append(1e3 * (time.perf_counter() - started))
    return {mode: statistics.median(ms) for mode, ms in taken.items()}


def motions(count: int, generator: torch.Generator, start: int = 0) -> torch.Tensor:
    """[count, H, 2]: points on a circle that turns at one speed, from a random place."""
    phase = 2 * math.pi * torch.rand(count, 1, generator=generator)
    angle = phase + 0.15 * (start + torch.arange(TINY.horizon))
    return torch.stack((angle.cos(), angle.sin()), -1)


def train(steps: int, batch: int = 64) -> Pi:
    """The tiny model, trained with 0 to 8 clean first rows."""
    torch.manual_seed(0)
    model, generator = Pi(TINY), torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    given = blank(TINY, batch=batch, views=1)
    for _ in range(steps):
        actions = motions(batch, generator)
        noise = torch.randn(actions.shape, generator=generator)
        clean = torch.randint(0, 9, (batch,), generator=generator)
        loss = model.loss(given, actions, noise, draw_times(batch, generator), clean=clean).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        plan.step()
    return model.requires_grad_(False)


def joints(model: Pi, delay: int, count: int = 64) -> dict[str, float]:
    """Mean distance between the step over the joint and the step that the old chunk would have made there."""
    generator = torch.Generator().manual_seed(delay)
    engine = Engine(model, threads=torch.get_num_threads(), compiled=False)
    given = blank(TINY, batch=count, views=1)
    old = motions(count, generator)
    executed = delay  # the chunk before: its first rows have run, `delay` more will while we think
    rows = torch.zeros_like(old)
    rows[:, : TINY.horizon - executed] = old[:, executed:]
    known = TINY.horizon - executed
    mask = torch.from_numpy(soft_mask(TINY.horizon, delay, known)).float()
    first = (torch.arange(TINY.horizon) < delay).expand(count, -1)
    noise = torch.randn(old.shape, generator=generator)
    answers = {
        "none": engine.sample(given, noise=noise),
        "guided": engine.sample(given, noise=noise, guide=Guide(rows, mask[:, None].expand_as(rows))),
        "trained": engine.sample(given, noise=noise, given=Given(rows, first)),
    }
    return {form: float((new[:, delay] - rows[:, delay]).norm(dim=-1).mean()) for form, new in answers.items()}
