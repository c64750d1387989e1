"""The policies by name. A backend is imported only when it is used: most of them bring a large library along."""

from __future__ import annotations

from importlib import import_module

from pi_policy_node.policy.base import Policy, PolicyError
from pi_policy_node.robot import Robot

# name -> module:callable, called as callable(robot, **options) -> Policy
BACKENDS = {
    "remote": "pi_policy_node.policy.remote.client:RemotePolicy",
    "scripted": "pi_policy_node.policy.scripted:ScriptedPolicy",
    "vla": "pi_policy_node.policy.vla:VlaPolicy",
}


def make_policy(name: str, robot: Robot, **options: object) -> Policy:
    """The policy called `name` for a robot; PolicyError where there is none, or its options are wrong."""
    if name not in BACKENDS:
        raise PolicyError(f"there is no policy '{name}'; there are: {', '.join(sorted(BACKENDS))}")
    module, _, attribute = BACKENDS[name].partition(":")
    factory = getattr(import_module(module), attribute)
    try:
        return factory(robot, **options)
    except TypeError as error:
        raise PolicyError(f"policy '{name}': {error}") from error
