"""`./pi train mini`: teach the small policy what the scripted expert does."""

from __future__ import annotations

import argparse
import math
import os
import shutil
from pathlib import Path

from pi_policy_node.cli import CommandError

HELP = "train the policy `mini` on demonstrations that were recorded with `./pi sim record`"
RECIPE = Path(__file__).parents[2] / "config" / "recipes" / "mini.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("mini",))
    parser.add_argument("--data", type=Path, action="append", required=True, metavar="FOLDER",
                        help="recorded with ./pi sim record; may be given several times")
    parser.add_argument("--glances", type=Path, action="append", default=[], metavar="FOLDER",
                        help="pictures with answers, made with ./pi sim look; may be given several times")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER",
                        help="checkpoint, weights and curves; a run that was begun there goes on")
    parser.add_argument("--recipe", type=Path, default=RECIPE, metavar="FILE", help="default config/recipes/mini.yaml")
    parser.add_argument("--init", type=Path, metavar="FILE", help="weights (mini.safetensors) to begin from")
    parser.add_argument("--steps", type=int, help="in place of the recipe's")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long; the same command goes on")
    parser.add_argument("--workers", type=int, default=0, help="single-threaded processes (default: one per core)")
    parser.add_argument("--no-compile", action="store_true", help="steps as they are written: no two minutes of waiting "
                        "before the first one, and each takes longer (without a C++ compiler it is always so)")
    parser.add_argument("--device", help="cpu, cuda (default: cuda where there is one)")


def run(args: argparse.Namespace) -> int:
    import torch

    from pi_policy_node.learn import glances
    from pi_policy_node.learn.episodes import EpisodesError
    from pi_policy_node.learn.recipe import RecipeError, load_recipe
    from pi_policy_node.learn.train import Run, TrainError, shards, train
    from pi_policy_node.policy.base import CheckpointError
    from pi_policy_node.robot import RobotError

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    workers = args.workers or (1 if device != "cpu" else os.cpu_count() or 1)
    if workers < 1 or device != "cpu" and workers > 1:
        raise CommandError(f"--workers must be 1 or more, and 1 on {device}, not {workers}")
    try:
        recipe = load_recipe(args.recipe, steps=args.steps)
        compiled = not args.no_compile and (device != "cpu" or shutil.which("g++") is not None)
        pictures = tuple(file for folder in args.glances for file in glances.shards(folder))
        run = Run(recipe, shards(args.data), args.out, pictures, args.init, workers, device, args.minutes, compiled)
        done = train(run, _report)
    except (EpisodesError, RecipeError, TrainError, CheckpointError, RobotError) as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise CommandError(f"{error.filename or args.out}: {error.strerror or error}") from None
    print(f"step {done} of {recipe.steps}; weights in {args.out / 'mini.safetensors'}, curves in "
          f"{args.out / 'curves.png'}" + ("" if done >= recipe.steps else "; the same command goes on from here"))
    return 0


def _report(progress) -> None:
    left = (progress.steps - progress.step) / max(progress.pace, 1e-9) / 60
    parts = "  ".join(f"{name} {value:.3f}" for name, value in progress.parts.items())
    print(f"step {progress.step}/{progress.steps}  {progress.pace:.2f}/s  {left:.0f} min to go  {parts}", flush=True)
    if progress.checked:
        print("  unseen episodes: " + ", ".join(f"{k} {v:.3g}" for k, v in progress.checked.items()), flush=True)
