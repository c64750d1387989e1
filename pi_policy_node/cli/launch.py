"""`./pi launch`: runs a launch file, with ROS 2's own launch where it is installed and with the stand-in elsewhere."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
from pathlib import Path
from typing import Any

from pi_policy_node.cli import CommandError
from pi_policy_node.environment import PACKAGE, share

PASSES_ON = True  # argparse itself takes no arguments after an option
HELP = "start the robot's nodes: ./pi launch mobile_manipulator.launch.py hardware:=sim"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "./pi launch [-h] [--show-args | --show-processes] FILE [NAME:=VALUE ...]"
    parser.add_argument("file", metavar="FILE", help=f"one of {', '.join(_files())}, or a path")
    parser.add_argument("arguments", metavar="NAME:=VALUE", nargs="*", help="arguments for the launch file")
    show = parser.add_mutually_exclusive_group()
    show.add_argument("-s", "--show-args", action="store_true", help="print the file's arguments, and start nothing")
    show.add_argument("--show-processes", action="store_true",
                      help="print what would be started as JSON, and start nothing (not with an installed launch)")
    parser.epilog = ("Ctrl-C ends everything in order, the hardware bridge first. "
                     "With ROS 2 sourced, `ros2 launch pi_policy_node FILE` does the same.")


def run(args: argparse.Namespace) -> int:
    from pi_policy_node.launching import provide

    words = [*args.arguments, *args.rest]
    path = find_file([args.file, *words])
    given = parse_arguments(words)
    installed = provide()
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    from launch import LaunchContext

    try:
        description = PythonLaunchDescriptionSource(str(path)).get_launch_description(LaunchContext())
    except Exception as error:  # a launch file is somebody's program: it can raise anything
        raise CommandError(f"{path.name}: {type(error).__name__}: {error}") from None
    declared = description.get_launch_arguments()
    if args.show_args:
        print(describe(declared))
        return 0
    check_arguments(given, declared, path.name)
    if args.show_processes:
        if installed:
            raise CommandError("--show-processes is the stand-in's; use `ros2 launch --print-description`")
        return _show_processes(path, given)
    return _launch(path, given)


def find_file(words: list[str]) -> Path:
    """The launch file that a person means: a path, or a name in launch/ with or without its ending."""
    name = words[0]
    if name == PACKAGE:
        raise CommandError(f"leave out the package's name: ./pi launch {' '.join(words[1:]) or _files()[0]}")
    for path in (Path(name), share("launch", name), share("launch", f"{name}.launch.py")):
        if path.is_file():
            return path.resolve()
    raise CommandError(f"no launch file '{name}'" + _hint(name, _files(), ": there is "))


def parse_arguments(words: list[str]) -> dict[str, str]:
    """{name: value} of NAME:=VALUE; of two with one name, the last."""
    given = {}
    for word in words:
        name, separator, value = word.partition(":=")
        if word.startswith("-"):
            raise CommandError(f"no option '{word}': --help lists them")
        if not name or not separator:
            raise CommandError(f"malformed launch argument '{word}': write NAME:=VALUE, without spaces")
        given[name] = value
    return given


def check_arguments(given: dict[str, str], declared: list[Any], file: str) -> None:
    """Refuses what `ros2 launch` would ignore: arguments that the file does not have; and wrong choices, early."""
    known = {argument.name: argument for argument in declared}
    for name, value in given.items():
        if name not in known:
            raise CommandError(f"{file} has no argument '{name}'" + _hint(name, sorted(known), ": it has "))
        choices = known[name].choices
        if choices is not None and value not in choices:
            raise CommandError(f"argument {name}:={value} is not valid" + _hint(value, choices, ": choose from "))
    for name, argument in known.items():
        if argument.default_value is None and name not in given and not argument._conditionally_included:
            raise CommandError(f"{file} needs the argument {name}:=… ({argument.description})")


def describe(declared: list[Any]) -> str:
    """The same words as `ros2 launch --show-args`."""
    lines = ["Arguments (pass arguments as '<name>:=<value>'):"]
    for argument in declared:
        lines += ["", f"    '{argument.name}':{'*' if argument._conditionally_included else ''}",
                  f"        {argument.description}"]
        default = argument.default_value
        if default is not None:
            parts = [default] if isinstance(default, str) or not isinstance(default, (list, tuple)) else default
            words = (repr(part) if isinstance(part, str) else part.describe() for part in parts)
            lines.append(f"        (default: {' + '.join(words)})")
    if not declared:
        lines += ["", "  No arguments."]
    elif any(argument._conditionally_included for argument in declared):
        lines += ["", "* argument(s) which are only used if specific conditions occur"]
    return "\n".join(lines)


def _include(path: Path, given: dict[str, str]) -> Any:
    from launch.actions import IncludeLaunchDescription
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    return IncludeLaunchDescription(PythonLaunchDescriptionSource(str(path)), launch_arguments=given.items())


def _launch(path: Path, given: dict[str, str]) -> int:
    from launch import LaunchDescription, LaunchService

    argv = [f"{name}:={value}" for name, value in given.items()]
    service = LaunchService(argv=argv, noninteractive=not sys.stdin.isatty())
    service.include_launch_description(LaunchDescription([_include(path, given)]))
    return service.run()


def _show_processes(path: Path, given: dict[str, str]) -> int:
    from launch import LaunchContext
    from pi_policy_node.launching.table import row

    rows: list[dict[str, Any]] = []
    context = LaunchContext(start=lambda process: rows.append(row(process, os.environ)))
    try:
        context.visit(_include(path, given))
    except Exception as error:
        raise CommandError(f"{path.name}: {' '.join(str(error).split())}") from None
    print(json.dumps(rows, indent=2))
    return 0


def _files() -> list[str]:
    return sorted((path.name for path in share("launch").glob("*.launch.py")), key=lambda name: (name != MAIN, name))


MAIN = "mobile_manipulator.launch.py"


def _hint(word: str, known: list[str], otherwise: str) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else otherwise + ", ".join(known)
