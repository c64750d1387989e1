"""What a launch file is made of: substitutions, actions, descriptions, and the context that they are visited in."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from typing import Any


class SubstitutionFailure(RuntimeError):
    """A value could not be made. The message is for the person who started the launch."""


def missing(module: str, name: str) -> Exception:
    """What to raise for a name that the stand-in does not have."""
    if name.startswith("__"):
        return AttributeError(f"module {module!r} has no attribute {name!r}")
    return ImportError(
        f"{module}.{name} is not in the stand-in for ROS 2's launch, which has only what our launch files use: "
        "install and source ROS 2 for launch files of your own"
    )


def say(line: str, *, error: bool = False) -> None:
    """Prints a line at once. Nobody reading any more is no reason to leave processes alone."""
    stream = sys.stderr if error else sys.stdout
    try:
        print(line, file=stream, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Substitution:
    """A text that is known only when the launch file runs."""

    def perform(self, context: LaunchContext) -> str:
        raise NotImplementedError

    def describe(self) -> str:
        raise NotImplementedError


def perform(context: LaunchContext, value: Any) -> str:
    """The text of a string, a substitution, or a sequence of them."""
    if isinstance(value, Substitution):
        return value.perform(context)
    if isinstance(value, (str, os.PathLike)):
        return os.fspath(value)
    if isinstance(value, Iterable):
        return "".join(perform(context, part) for part in value)
    raise TypeError(f"a text or a substitution is needed here, not {value!r}")


def describe(value: Any) -> str:
    """The same for a person to read, before anything is known."""
    if isinstance(value, Substitution):
        return value.describe()
    if isinstance(value, str):
        return f"'{value}'"
    return " + ".join(describe(part) for part in value)


def is_true(text: str) -> bool:
    """The value of a condition."""
    word = text.strip().lower()
    if word in ("true", "1"):
        return True
    if word in ("false", "0"):
        return False
    raise SubstitutionFailure(f"a condition is '{text}', but must be true or false")


class Entity:
    """Whatever a launch file lists."""

    condition: Any = None

    def visit(self, context: LaunchContext) -> Iterable[Entity] | None:
        """Does its work; returns what is to be visited next."""
        raise NotImplementedError

    def children(self) -> Iterable[Entity]:
        """What is known before the launch file runs to be visited through this entity."""
        return ()


class Action(Entity):
    """An entity that may have a condition."""

    def __init__(self, *, condition: Any = None) -> None:
        self.condition = condition

    def visit(self, context: LaunchContext) -> Iterable[Entity] | None:
        if self.condition is None or self.condition.evaluate(context):
            return self.execute(context)
        return None

    def execute(self, context: LaunchContext) -> Iterable[Entity] | None:
        raise NotImplementedError


class LaunchDescription(Entity):
    """What `generate_launch_description` returns."""

    def __init__(self, initial_entities: Iterable[Entity] | None = None) -> None:
        self.entities = list(initial_entities or ())

    def add_action(self, action: Action) -> None:
        self.entities.append(action)

    def visit(self, context: LaunchContext) -> Iterable[Entity]:
        return self.entities

    def children(self) -> Iterable[Entity]:
        return self.entities

    def get_launch_arguments(self) -> list[Any]:
        """Every DeclareLaunchArgument here and in included files; of two with one name, the first."""
        from .actions import DeclareLaunchArgument

        found: dict[str, DeclareLaunchArgument] = {}

        def look(entities: Iterable[Entity], conditional: bool) -> None:
            for entity in entities:
                inside = conditional or entity.condition is not None
                if isinstance(entity, DeclareLaunchArgument) and entity.name not in found:
                    entity._conditionally_included = inside
                    found[entity.name] = entity
                look(entity.children(), inside)

        look(self.entities, False)
        return list(found.values())


class LaunchContext:
    """The state of a launch: arguments, environment, event handlers. `start` and `shut_down` are the service's."""

    def __init__(
        self,
        *,
        start: Callable[[Any], None] = lambda process: None,
        shut_down: Callable[[str], None] = lambda reason: None,
        log: Callable[..., None] = lambda *words: None,
    ) -> None:
        self.launch_configurations: dict[str, Any] = {}
        self.environment: dict[str, str] = dict(os.environ)
        self.event: Any = None  # the event being handled
        self.is_shutdown = False
        self.start = start
        self.shut_down = shut_down
        self.log = log
        self._handlers: list[Any] = []
        self._started = 0
        self._files: tempfile.TemporaryDirectory | None = None  # gone with this context

    def perform_substitution(self, value: Any) -> str:
        return perform(self, value)

    def register_event_handler(self, handler: Any) -> None:
        self._handlers.append(handler)

    def next_number(self) -> int:
        """Counts processes: the 1 of `[sim-1]`."""
        self._started += 1
        return self._started

    def keep_file(self, prefix: str, text: str) -> str:
        """The path of a new file with this text, which is deleted when the launch ends."""
        if self._files is None:
            self._files = tempfile.TemporaryDirectory(prefix="pi_launch_")
        handle, path = tempfile.mkstemp(prefix=prefix, dir=self._files.name, text=True)
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def visit(self, entity: Entity) -> None:
        """Visits an entity and everything that follows from it, in order."""
        for child in entity.visit(self) or ():
            self.visit(child)

    def emit(self, event: Any) -> None:
        """Lets the handlers of this event have their say."""
        before, self.event = self.event, event
        try:
            for handler in [handler for handler in self._handlers if handler.matches(event)]:
                for entity in handler.entities_for(event, self):
                    self.visit(entity)
        finally:
            self.event = before
