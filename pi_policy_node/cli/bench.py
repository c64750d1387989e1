"""`./pi bench WHAT`: one module of pi_policy_node/bench per measurement, imported only when it is asked for."""

from __future__ import annotations

import argparse
import importlib
import re
from pathlib import Path

HELP = "measure: ./pi bench policy, parity, rtc, graph …; each says more with --help"


def measurements() -> dict[str, str]:
    """The modules of pi_policy_node/bench that can be run, and their line of help, read without importing them."""
    found = {}
    for file in sorted((Path(__file__).parents[1] / "bench").glob("[a-z]*.py")):
        source = file.read_text(encoding="utf-8")
        if "\ndef run(" in source and (line := re.search(r'^HELP = \(?\s*"(.*)"', source, re.MULTILINE)):
            found[file.stem] = line.group(1)
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    known = measurements()
    parser.epilog = "\n".join(f"  {name:<8} {line}" for name, line in known.items())
    parser.add_argument("what", choices=known)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="its own arguments")


def run(args: argparse.Namespace) -> int:
    module = importlib.import_module(f"pi_policy_node.bench.{args.what}")
    parser = argparse.ArgumentParser(prog=f"pi bench {args.what}", description=module.HELP)
    module.add_arguments(parser)
    return module.run(parser.parse_args(args.rest))
