"""The policies by name. A backend is imported only when it is used: most of them bring a large library along."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

from pi_policy_node.policy.base import Policy, PolicyError
from pi_policy_node.robot import Robot

# name -> module:callable, called as callable(robot, **options) -> Policy
BACKENDS = {
    "remote": "pi_policy_node.policy.remote.client:RemotePolicy",
    "scripted": "pi_policy_node.policy.scripted:ScriptedPolicy",
    "vla": "pi_policy_node.policy.vla:VlaPolicy",
}




def options(name: str) -> dict[str, inspect.Parameter]:
    """What a backend may be told, by name: its constructor's keyword arguments."""
    parameters = inspect.signature(_factory(name)).parameters.values()
    return {parameter.name: parameter for parameter in parameters if parameter.kind == parameter.KEYWORD_ONLY}


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
    if name not in BACKENDS:
        raise PolicyError(f"there is no policy '{name}'; there are: {', '.join(sorted(BACKENDS))}")
    module, _, attribute = BACKENDS[name].partition(":")
    return getattr(import_module(module), attribute)
