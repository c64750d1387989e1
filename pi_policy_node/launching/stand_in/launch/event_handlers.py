"""What to do when something happens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .core import Entity, LaunchContext, missing
from .events import ProcessExited, Shutdown

__all__ = ["OnProcessExit", "OnShutdown"]


class _Handler:
    event_type: type

    def __init__(self, response: Any) -> None:
        self._response = response  # an entity, several, or a function (event, context) that returns such

    def matches(self, event: Any) -> bool:
        return isinstance(event, self.event_type)

    def entities_for(self, event: Any, context: LaunchContext) -> Iterable[Entity]:
        response = self._response
        if callable(response):
            response = response(event, context)
        if response is None:
            return ()
        return (response,) if isinstance(response, Entity) else response


class OnProcessExit(_Handler):
    event_type = ProcessExited

    def __init__(self, *, target_action: Any = None, on_exit: Any) -> None:
        super().__init__(on_exit)
        self._target = target_action

    def matches(self, event: Any) -> bool:
        return super().matches(event) and (self._target is None or event.action is self._target)


class OnShutdown(_Handler):
    event_type = Shutdown

    def __init__(self, *, on_shutdown: Any) -> None:
        super().__init__(on_shutdown)


def __getattr__(name: str):
    raise missing(__name__, name)
