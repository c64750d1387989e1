"""A process of a launch as data: what it is called, what it runs, and what it is told."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import yaml


def row(process: Any, environment: Mapping[str, str]) -> dict[str, Any]:
    """What `process` (name, cmd, env) is; of the environment, what differs from `environment`."""
    arguments = iter(process.cmd)
    command: list[str] = []
    parameters: list[Any] = []
    remappings: list[str] = []
    for argument in arguments:
        if argument == "--params-file":
            parameters.append(_parameters(next(arguments)))
        elif argument == "-r":
            remappings.append(next(arguments))
        else:
            command.append(argument)
    changed = {key: value for key, value in process.env.items() if environment.get(key) != value}
    gone = {key: None for key in environment if key not in process.env}
    return {"name": process.name, "command": command, "remappings": remappings, "parameters": parameters,
            "environment": changed | gone, "respawn": process.respawn}


def _parameters(path: str) -> Any:
    """The path of a file that was given, or the content of one that the launch wrote."""
    if not os.path.basename(path).startswith("launch_params_"):
        return path
    with open(path, encoding="utf-8") as file:
        return yaml.load(file, Loader=_Loader)


class _Loader(yaml.SafeLoader):
    """The real launch_ros writes lists as Python tuples."""


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", lambda loader, node: loader.construct_sequence(node))
