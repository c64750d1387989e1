"""Whether our model computes what the originals compute, on weights and inputs made from names alone."""

from __future__ import annotations

import argparse
import gc
import json
from pathlib import Path

import numpy as np
import torch

from pi_policy_node.bench import eager, seeded
from pi_policy_node.bench.floor import available_gb
from pi_policy_node.cli import CommandError
from pi_policy_node.environment import checkout
from pi_policy_node.policy.engine import Engine
from pi_policy_node.policy.shapes import preset

HELP = "our numbers against openpi's, bf16 against fp32, engine against reference; --full needs 7 GB of memory"
SMALL, FULL = {"pi0": "small", "pi05": "small05"}, {"pi0": "pi0", "pi05": "pi05"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--full", action="store_true", help="the real sizes instead of the small ones: minutes, 7 GB")
    parser.add_argument("--family", choices=SMALL, help="default: both")
    parser.add_argument("--golden", type=Path, help="folder of the golden numbers (default: test/golden)")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True, help="slow on many CPUs")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the engine runs")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    folder = args.golden or checkout() / "test" / "golden"
    limit = 2e-5 if args.full else 1e-5
    rows, good = [], True
    for family in [args.family] if args.family else SMALL:
        file = folder / f"{family}_{'full' if args.full else 'small'}.npz"
        if not file.is_file():
            raise CommandError(f"{file}: no golden numbers there; they come with the checkout, not with the package")
        if args.full and available_gb() < 7:
            raise CommandError(f"{available_gb():.1f} GB of memory are free; --full needs 7")
        for row in compare(family, np.load(file), args, limit):
            rows.append(row)
            good &= row["ok"]
            if not args.json:
                verdict = "ok" if row["ok"] else "WRONG"
                print(f"{row['model']:8} {row['what']:46} {row['value']:.3g} ({row['limit']})  {verdict}", flush=True)
    if args.json:
        print(json.dumps(rows, indent=1))
    return 0 if good else 1


def compare(family: str, golden, args: argparse.Namespace, limit: float):
    """One row per comparison, as soon as it is known."""
    shape = preset((FULL if args.full else SMALL)[family])
    given, noise = seeded.inputs("a", shape)

    def row(what: str, value: float, ok: bool, wanted: str) -> dict:
        return {"model": shape.name, "what": what, "value": float(value), "limit": wanted, "ok": bool(ok)}

    def near(what: str, ours: torch.Tensor, theirs: np.ndarray) -> dict:
        apart = np.abs(ours.numpy() - theirs).max()
        return row(what, apart, apart <= limit, f"<= {limit:g}")

    if not args.full:
        model = seeded.model(shape)
        with torch.no_grad():
            context = model.context(given)
            velocity = model.velocity(context, noise, model.condition(torch.ones(1)))
            yield near("velocity", velocity, golden["a/velocity_at_1"])
            actions = torch.from_numpy(seeded.array("a/actions", tuple(noise.shape)))
            loss, right = model.loss(given, actions, noise, torch.full((1,), 0.3)).numpy(), golden["a/loss"]
            apart = (np.abs(loss - right) / np.maximum(np.abs(right), 1)).max()
            yield row("loss, relative", apart, apart <= 1e-5, "<= 1e-05")
            yield near("actions, eager baseline", eager.sample(model, given, noise), golden["a/actions"])
            yield near("actions, reference, padded", model.sample(given, noise), golden["a/actions"])
    engine, exact = engine_answers(shape, torch.float32, args, given, noise)
    (lane,) = engine._lanes.values()
    yield near("image features", lane.pictures[1:2, ::64].cpu(), golden["a/image_features"])
    yield near("actions, engine", exact, golden["a/actions"])
    del engine, lane
    gc.collect()
    if args.bf16:
        _, rough = engine_answers(shape, torch.bfloat16, args, given, noise)
        cosine = torch.cosine_similarity(exact, rough, dim=-1).min()
        yield row("engine in bf16 against fp32, 1 - cosine", 1 - cosine, cosine >= 0.999, "<= 0.001 in every row")


def engine_answers(shape, dtype: torch.dtype, args: argparse.Namespace, given, noise) -> tuple[Engine, torch.Tensor]:
    """At full size on the CPU each layer is made when it is needed, and forgotten."""
    if args.full and args.device == "cpu":
        engine = Engine(seeded.lean(shape, dtype=dtype, folded=True))
    else:
        engine = Engine(seeded.model(shape).cast(dtype).to(args.device))
    return engine, engine.sample(given, noise=noise)
