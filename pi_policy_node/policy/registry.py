"""The policies by name. A backend is imported only when it is used: most of them bring a large library along."""

from __future__ import annotations

import inspect
from functools import partial
from importlib import import_module
from typing import Any

from pi_policy_node.policy.base import Policy, PolicyError
from pi_policy_node.robot import Robot

# name -> module:callable, called as callable(robot, **options) -> Policy
BACKENDS = {
    "mini": "pi_policy_node.policy.mini:MiniPolicy",
    "pi0": "pi_policy_node.policy.vla:VlaPolicy",
    "pi05": "pi_policy_node.policy.vla:VlaPolicy",
    "remote": "pi_policy_node.policy.remote.client:RemotePolicy",
    "scripted": "pi_policy_node.policy.scripted:ScriptedPolicy",
    "vla": "pi_policy_node.policy.vla:VlaPolicy",
}
FIXED = {"pi0": {"preset": "pi0"}, "pi05": {"preset": "pi05"}}  # options that a name stands for


def split(names: str) -> list[str]:
    """"remote, mini" -> ["remote", "mini"]: a fallback ladder, the preferred policy first. PolicyError for no ladder."""
    rungs = [name.strip() for name in names.split(",")]
    if not all(rungs) or len(set(rungs)) < len(rungs):
        raise PolicyError(f"'{names}' names no policies: one, or several different ones with commas between, the "
                          "preferred one first")
    for name in rungs:
        _place(name)
    return rungs


def options(name: str) -> dict[str, inspect.Parameter]:
    """What a backend may be told, by name: its constructor's keyword arguments."""
    parameters = inspect.signature(_factory(name)).parameters.values()
    return {parameter.name: parameter for parameter in parameters
            if parameter.kind == parameter.KEYWORD_ONLY and parameter.name not in FIXED.get(name, {})}


def make_policy(name: str, robot: Robot, **chosen: Any) -> Policy:
    """The policy called `name` for a robot; PolicyError where there is none, or its options are wrong."""
    for option, parameter in options(name).items():
        if parameter.default is parameter.empty and option not in chosen:
            raise PolicyError(f"policy '{name}' must be told its {option}")
    try:
        return _factory(name)(robot, **chosen)
    except TypeError as error:
        raise PolicyError(f"policy '{name}': {error}") from error


def _factory(name: str) -> Any:
    module, _, attribute = _place(name).partition(":")
    try:
        factory = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        if name in BACKENDS:
            raise
        raise PolicyError(f"there is no policy '{name}': {error}") from error
    return partial(factory, **FIXED[name]) if name in FIXED else factory


def _place(name: str) -> str:
    """module:callable. Whoever brings a policy of their own gives that in place of a name."""
    if name not in BACKENDS and ":" not in name:
        raise PolicyError(f"there is no policy '{name}'; there are: {', '.join(sorted(BACKENDS))}, or your own as "
                          "module:class")
    return BACKENDS.get(name, name)
