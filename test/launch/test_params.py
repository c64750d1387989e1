"""config/params.yaml says what the nodes say of themselves."""

from __future__ import annotations

import ast

import pytest
import yaml

from pi_policy_node.environment import checkout, share

FILE = yaml.safe_load(share("config", "params.yaml").read_text())
ENTRIES = [(node, name, value) for node, content in FILE.items() for name, value in content["ros__parameters"].items()]
BY_LAUNCH = {"robot", "policy", "dry_run", "use_sim_time", "nodes"}  # what the launch files give, and so not here
DERIVED = {"publish_clock"}  # its default is another parameter's value


def declared(node: str) -> dict[str, object]:
    """Parameters that a node declares under a constant name, and their defaults where those are constants."""
    found = {}
    for statement in ast.walk(ast.parse((checkout() / "pi_policy_node" / "nodes" / f"{node}.py").read_text())):
        if isinstance(statement, ast.Call) and getattr(statement.func, "attr", getattr(statement.func, "id", "")) == \
                "parameter" and len(statement.args) > 2 and isinstance(statement.args[1], ast.Constant):
            default = statement.args[2]
            found[statement.args[1].value] = default.value if isinstance(default, ast.Constant) else None
    return found


@pytest.mark.parametrize("key, name, value", ENTRIES)
def test_every_entry_is_a_parameter_with_this_default(key, name, value):
    node = key.rpartition("/")[2]
    parameters = declared(node)
    assert name in parameters
    assert parameters[name] == value and type(parameters[name]) is type(value)


@pytest.mark.parametrize("key", FILE)
def test_every_parameter_of_the_node_is_there(key):
    node = key.rpartition("/")[2]
    assert set(declared(node)) - BY_LAUNCH - DERIVED == set(FILE[key]["ros__parameters"])


def test_every_namespace_is_meant():
    assert all(key.startswith("/**/") for key in FILE)
