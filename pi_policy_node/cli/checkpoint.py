"""`./pi checkpoint inspect PATH`, `./pi checkpoint convert FROM TO`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from pi_policy_node.cli import CommandError

HELP = "look into a policy's checkpoint, or convert one to our layout"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True)
    look = verbs.add_parser("inspect", help="what a checkpoint holds, which preset it is, and what is wrong with it")
    look.add_argument("path", type=Path, help="a folder with model.safetensors, or the file")
    look.add_argument("--preset", help="what it should be, e.g. pi05; without it, the nearest preset")
    look.add_argument("--weights", action="store_true", help="read every weight as well: finite, undamaged")
    convert = verbs.add_parser("convert", help="write our layout: packed, checked by checksums")
    convert.add_argument("source", type=Path, help="openpi's, LeRobot's or our layout")
    convert.add_argument("target", type=Path, help="a folder")
    convert.add_argument("--dtype", choices=("bf16", "fp32"), help="of the large products; without it, as stored")
    convert.add_argument("--preset", help="what the source must be")
    convert.add_argument("--asset", help="which of several norm_stats.json to take")


def run(args: argparse.Namespace) -> int:
    from pi_policy_node.policy.base import CheckpointError
    from pi_policy_node.policy.shapes import PRESETS

    if args.preset is not None and args.preset not in PRESETS:
        raise CommandError(f"no preset {args.preset!r}; there are {', '.join(PRESETS)}")
    try:
        return _inspect(args) if args.verb == "inspect" else _convert(args)
    except CheckpointError as error:
        raise CommandError(str(error)) from None


def _inspect(args: argparse.Namespace) -> int:
    from pi_policy_node.policy.checkpoint import inspect, load
    from pi_policy_node.policy.statistics import find_statistics

    report = inspect(args.path, preset=args.preset)
    numbers = sum(math.prod(s.shape) for s in report.stored.values())
    print(f"layout      {report.layout}")
    print(f"preset      {report.shape.name}{' (nearest)' if report.problems else ''}")
    print(f"tensors     {len(report.stored)} ({', '.join(f'{n} {kind}' for kind, n in report.dtypes.items())})")
    print(f"weights     {numbers / 1e6:,.1f} M, {report.bytes / 1e9:.3f} GB")
    statistics = find_statistics(args.path if args.path.is_dir() else args.path.parent)
    sizes = {key: len(s.mean) for key, s in (statistics or {}).items()}
    print(f"statistics  {', '.join(f'{key} of {n} numbers' for key, n in sizes.items()) or 'none beside it'}")
    if args.weights and not report.problems:
        load(args.path, preset=args.preset)
        print("weights     every one read, all finite")
    for problem in report.problems:
        print(f"wrong       {problem}")
    return 1 if report.problems else 0


def _convert(args: argparse.Namespace) -> int:
    import torch

    from pi_policy_node.policy.checkpoint import load, save

    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32, None: None}[args.dtype]
    loaded = load(args.source, preset=args.preset, dtype=dtype, asset=args.asset)
    save(args.target, loaded.model, statistics=loaded.statistics, asset=args.asset or "robot")
    beside = "its statistics" if loaded.statistics else "no statistics (there were none)"
    print(f"{args.target}: {loaded.shape.name} in {str(loaded.model.dtype).removeprefix('torch.')}, with {beside}")
    return 0
