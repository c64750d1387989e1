"""Texts that are known only when the launch file runs."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import Any

from .core import LaunchContext, Substitution, SubstitutionFailure, describe, is_true, missing, perform

__all__ = ["AndSubstitution", "EqualsSubstitution", "IfElseSubstitution", "LaunchConfiguration", "NotSubstitution",
           "PathJoinSubstitution", "TextSubstitution"]


class TextSubstitution(Substitution):
    def __init__(self, *, text: str) -> None:
        self.text = text

    def perform(self, context: LaunchContext) -> str:
        return self.text

    def describe(self) -> str:
        return f"'{self.text}'"


class LaunchConfiguration(Substitution):
    """The value of a launch argument."""

    def __init__(self, variable_name: str, *, default: Any = None) -> None:
        self._name = variable_name
        self._default = default

    def perform(self, context: LaunchContext) -> str:
        name = perform(context, self._name)
        if name in context.launch_configurations:
            return context.launch_configurations[name]
        if self._default is None:
            raise SubstitutionFailure(f"launch configuration '{name}' does not exist")
        return perform(context, self._default)

    def describe(self) -> str:
        return f"LaunchConfig({describe(self._name)})"


class PathJoinSubstitution(Substitution):
    def __init__(self, substitutions: Iterable[Any]) -> None:
        self._parts = list(substitutions)

    def perform(self, context: LaunchContext) -> str:
        return os.path.join(*(perform(context, part) for part in self._parts))

    def describe(self) -> str:
        return f"PathJoin('{describe(self._parts)}')"


class EqualsSubstitution(Substitution):
    """'true' or 'false'. Booleans and numbers are compared as such: '1' equals 'True', '0.50' equals '.5'."""

    def __init__(self, left: Any, right: Any) -> None:
        self._left, self._right = left, right

    def perform(self, context: LaunchContext) -> str:
        left, right = perform(context, self._left), perform(context, self._right)
        for convert, same in ((_boolean, bool.__eq__), (_number, math.isclose)):
            pair = convert(left), convert(right)
            if None not in pair:
                return str(same(*pair)).lower()
        return str(left == right).lower()

    def describe(self) -> str:
        return f"EqualsSubstitution({describe(self._left)} {describe(self._right)})"


class NotSubstitution(Substitution):
    def __init__(self, value: Any) -> None:
        self._value = value

    def perform(self, context: LaunchContext) -> str:
        return str(not is_true(perform(context, self._value))).lower()

    def describe(self) -> str:
        return f"NotSubstitution({describe(self._value)})"


class AndSubstitution(Substitution):
    def __init__(self, left: Any, right: Any) -> None:
        self._sides = left, right

    def perform(self, context: LaunchContext) -> str:
        values = [is_true(perform(context, side)) for side in self._sides]
        return str(all(values)).lower()

    def describe(self) -> str:
        return f"AndSubstitution({' '.join(map(describe, self._sides))})"


class IfElseSubstitution(Substitution):
    def __init__(self, condition: Any, if_value: Any = "", else_value: Any = "") -> None:
        self._condition, self._if, self._else = condition, if_value, else_value

    def perform(self, context: LaunchContext) -> str:
        return perform(context, self._if if is_true(perform(context, self._condition)) else self._else)

    def describe(self) -> str:
        return f"IfElseSubstitution({', '.join(map(describe, (self._condition, self._if, self._else)))})"


def _boolean(text: str) -> bool | None:
    return is_true(text) if text.lower() in ("true", "false", "1", "0") else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def __getattr__(name: str):
    raise missing(__name__, name)
