"""Values of ROS parameters."""

from __future__ import annotations

from typing import Any

import yaml
from launch.core import LaunchContext, Substitution, SubstitutionFailure, missing, perform

__all__ = ["ParameterValue"]


class ParameterValue:
    """A value that is a substitution, and the type that it is to have."""

    def __init__(self, value: Any, *, value_type: type | None = None) -> None:
        self._value, self._type = value, value_type

    def evaluate(self, context: LaunchContext) -> Any:
        value = self._value
        if not isinstance(value, (str, Substitution)) and not _is_text(value):
            return value
        text = perform(context, value)
        if self._type is str:
            return text
        if self._type in (int, float):
            return self._type(text)
        value = yaml.safe_load({"1": "true", "0": "false"}.get(text, text) if self._type is bool else text)
        if self._type is not None and not isinstance(value, self._type):
            raise SubstitutionFailure(f"cannot read '{text}' as a {self._type.__name__}")
        return value


def evaluate(context: LaunchContext, value: Any) -> Any:
    """The value of an entry in a dictionary of parameters: a text stays one, a substitution is read as YAML."""
    if isinstance(value, ParameterValue):
        return value.evaluate(context)
    if isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Substitution) or _is_text(value):
        text = perform(context, value)
        return yaml.safe_load(text) if text else ""
    return [evaluate(context, element) for element in value]


def _is_text(value: Any) -> bool:
    """A list of strings and at least one substitution is one text; a list of strings only is a list of strings."""
    return (isinstance(value, (list, tuple)) and all(isinstance(part, (str, Substitution)) for part in value)
            and any(isinstance(part, Substitution) for part in value))


def __getattr__(name: str):
    raise missing(__name__, name)
