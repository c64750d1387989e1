"""`python -m pi_policy_node VERB …`, which is what `./pi VERB …` runs once everything is set up."""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import sys
from pathlib import Path

from pi_policy_node.cli import CommandError

# The order in which a newcomer meets them; a verb without a module in cli/ is not listed.
ORDER = ("demo", "test", "launch", "say", "sim", "eval", "train", "bench", "serve", "checkpoint", "doctor")

USAGE = """\
usage: ./pi VERB [arguments]        ./pi VERB --help says more

A robot that does what it is told: a vision-language-action policy on a mobile manipulator, in ROS 2.
The first run sets everything up inside this folder (.venv, about 2 GB); delete that folder to start over.
"""


def verbs() -> dict[str, str]:
    """Every verb and its line of help, in order, without importing any of them."""
    found = {}
    for path in sorted((Path(__file__).parent / "cli").glob("[a-z]*")):
        source = path / "__init__.py" if path.is_dir() else path
        if source.suffix == ".py" and source.is_file():
            help_line = _constant(source, "HELP")
            if help_line is not None:
                found[path.stem] = help_line
    return {name: found[name] for name in sorted(found, key=lambda name: (_rank(name), name))}


def _rank(name: str) -> int:
    return ORDER.index(name) if name in ORDER else len(ORDER)


def _constant(source: Path, name: str) -> str | None:
    """The value of a constant at the top of a module, read without running it: `./pi --help` needs no set-up."""
    for statement in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(statement, (ast.Assign, ast.AnnAssign)):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                return str(ast.literal_eval(statement.value)).strip().splitlines()[0]
    return None


def overview() -> str:
    known = verbs()
    width = max(map(len, known), default=0)
    return USAGE + "\n" + "\n".join(f"  {name:<{width}}  {line}" for name, line in known.items())


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    known = verbs()
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if argv else 2
    name, rest = argv[0], argv[1:]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there is {', '.join(known)}"
        print(f"pi: no verb {name!r}: {hint}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"pi_policy_node.cli.{name}")
    parser = argparse.ArgumentParser(
        prog=f"./pi {name}", description=module.HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    if getattr(module, "PASSES_ON", False):
        args, args.rest = parser.parse_known_args(rest)
    else:
        args = parser.parse_args(rest)
    try:
        return module.run(args)
    except CommandError as error:
        print(f"pi {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
