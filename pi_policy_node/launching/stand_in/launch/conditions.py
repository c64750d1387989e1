"""Conditions of actions."""

from __future__ import annotations

from typing import Any

from .core import LaunchContext, is_true, missing, perform

__all__ = ["IfCondition", "UnlessCondition"]


class IfCondition:
    def __init__(self, predicate_expression: Any) -> None:
        self._expression = predicate_expression

    def evaluate(self, context: LaunchContext) -> bool:
        return is_true(perform(context, self._expression))


class UnlessCondition(IfCondition):
    def evaluate(self, context: LaunchContext) -> bool:
        return not super().evaluate(context)


def __getattr__(name: str):
    raise missing(__name__, name)
