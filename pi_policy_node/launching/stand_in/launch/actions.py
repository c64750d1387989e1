"""What a launch file can do."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .core import Action, Entity, LaunchContext, describe, is_true, missing, perform
from .events import ProcessExited
from .launch_description_sources import PythonLaunchDescriptionSource
from .process import ProcessDescription

__all__ = ["DeclareLaunchArgument", "ExecuteProcess", "GroupAction", "IncludeLaunchDescription", "LogInfo",
           "OpaqueFunction", "RegisterEventHandler", "SetEnvironmentVariable", "Shutdown", "UnsetEnvironmentVariable"]


class DeclareLaunchArgument(Action):
    def __init__(self, name: str, *, default_value: Any = None, description: str | None = None,
                 choices: Sequence[str] | None = None, condition: Any = None) -> None:
        super().__init__(condition=condition)
        self.name = name
        self.default_value = default_value
        self.choices = choices
        self.description = description or ("no description given" if choices is None else f"One of: {choices}")
        if description and choices is not None:
            self.description = f"{description.rstrip('.')}. Valid choices are: {choices}"
        if choices is not None and isinstance(default_value, str) and default_value not in choices:
            raise ValueError(f"launch argument '{name}' has the default '{default_value}', which is not in {choices}")
        self._conditionally_included = False

    def default(self) -> str | None:
        """The default, for a person to read; None: the argument must be given."""
        return None if self.default_value is None else describe(self.default_value)

    def execute(self, context: LaunchContext) -> None:
        if self.name not in context.launch_configurations:
            if self.default_value is None:
                raise RuntimeError(f'Required launch argument "{self.name}" was not provided.')
            context.launch_configurations[self.name] = perform(context, self.default_value)
        value = context.launch_configurations[self.name]
        if self.choices is not None and value not in self.choices:
            raise RuntimeError(f'Argument "{self.name}" provided value "{value}" is not valid. '
                               f"Valid options are: {self.choices}")


class IncludeLaunchDescription(Action):
    def __init__(self, launch_description_source: Any, *, launch_arguments: Iterable[tuple[Any, Any]] | None = None,
                 condition: Any = None) -> None:
        super().__init__(condition=condition)
        if not hasattr(launch_description_source, "get_launch_description"):
            launch_description_source = PythonLaunchDescriptionSource(launch_description_source)
        self._source = launch_description_source
        self._arguments = list(launch_arguments or ())

    def execute(self, context: LaunchContext) -> list[Entity]:
        description = self._source.get_launch_description(context)
        for name, value in self._arguments:
            context.launch_configurations[perform(context, name)] = perform(context, value)
        return [description]

    def children(self) -> list[Entity]:
        description = self._source.try_get_launch_description_without_context()
        return [] if description is None else [description]


class GroupAction(Action):
    """Actions with one condition. Arguments and environment set inside are forgotten at the end."""

    def __init__(self, actions: Iterable[Entity], *, scoped: bool = True, condition: Any = None) -> None:
        super().__init__(condition=condition)
        self._actions = list(actions)
        self._scoped = scoped

    def execute(self, context: LaunchContext) -> list[Entity]:
        if not self._scoped:
            return self._actions
        before = dict(context.launch_configurations), dict(context.environment)

        def restore(context: LaunchContext) -> None:
            context.launch_configurations, context.environment = before

        return [*self._actions, OpaqueFunction(function=restore)]

    def children(self) -> list[Entity]:
        return self._actions


class OpaqueFunction(Action):
    """A Python function (context, *args, **kwargs) that may return further entities."""

    def __init__(self, *, function: Callable[..., Any], args: Iterable[Any] = (), kwargs: dict[str, Any] | None = None,
                 condition: Any = None) -> None:
        super().__init__(condition=condition)
        self._call = function, tuple(args), dict(kwargs or {})

    def execute(self, context: LaunchContext) -> Iterable[Entity] | None:
        function, args, kwargs = self._call
        return function(context, *args, **kwargs)


class SetEnvironmentVariable(Action):
    def __init__(self, name: Any, value: Any, *, condition: Any = None) -> None:
        super().__init__(condition=condition)
        self._name, self._value = name, value

    def execute(self, context: LaunchContext) -> None:
        context.environment[perform(context, self._name)] = perform(context, self._value)


class UnsetEnvironmentVariable(Action):
    def __init__(self, name: Any, *, condition: Any = None) -> None:
        super().__init__(condition=condition)
        self._name = name

    def execute(self, context: LaunchContext) -> None:
        context.environment.pop(perform(context, self._name), None)


class LogInfo(Action):
    def __init__(self, *, msg: Any, condition: Any = None) -> None:
        super().__init__(condition=condition)
        self._msg = msg

    def execute(self, context: LaunchContext) -> None:
        context.log("INFO", "launch.user", perform(context, self._msg))


class RegisterEventHandler(Action):
    def __init__(self, event_handler: Any, *, condition: Any = None) -> None:
        super().__init__(condition=condition)
        self._handler = event_handler

    def execute(self, context: LaunchContext) -> None:
        context.register_event_handler(self._handler)


class Shutdown(Action):
    """Ends everything that the launch started."""

    def __init__(self, *, reason: str = "reason not given", condition: Any = None) -> None:
        super().__init__(condition=condition)
        self._reason = reason

    def execute(self, context: LaunchContext) -> None:
        if context.is_shutdown:
            return
        if isinstance(context.event, ProcessExited):
            context.log("INFO", "launch", f"process[{context.event.process_name}] was required: shutting down launched "
                        "system")
        context.shut_down(self._reason)


class ExecuteProcess(Action):
    def __init__(self, *, cmd: Iterable[Any], name: Any = None, prefix: Any = None, cwd: Any = None,
                 additional_env: dict[Any, Any] | None = None, output: str = "log", respawn: Any = False,
                 respawn_delay: float | None = None, sigterm_timeout: Any = "5", sigkill_timeout: Any = "5",
                 on_exit: Any = None, condition: Any = None) -> None:
        super().__init__(condition=condition)
        self.cmd = list(cmd)
        self._name, self._prefix, self._cwd, self._output = name, prefix, cwd, output
        self._additional_env = dict(additional_env or {})
        self._respawn, self._respawn_delay = respawn, respawn_delay
        self._timeouts = sigterm_timeout, sigkill_timeout
        self._on_exit = on_exit

    def execute(self, context: LaunchContext) -> None:
        if context.is_shutdown:
            return
        if self._on_exit is not None:
            from .event_handlers import OnProcessExit

            context.register_event_handler(OnProcessExit(target_action=self, on_exit=self._on_exit))
        context.start(self.prepare(context))

    def prepare(self, context: LaunchContext) -> ProcessDescription:
        """The process with every substitution done."""
        prefix = shlex.split(perform(context, self._prefix)) if self._prefix is not None else []
        cmd = [*prefix, *(perform(context, part) for part in self.cmd)]
        name = perform(context, self._name) if self._name is not None else os.path.basename(cmd[0])
        env = context.environment | {
            perform(context, key): perform(context, value) for key, value in self._additional_env.items()
        }
        respawn = self._respawn if isinstance(self._respawn, bool) else is_true(perform(context, self._respawn))
        sigterm, sigkill = (float(perform(context, str(limit) if isinstance(limit, (int, float)) else limit))
                            for limit in self._timeouts)
        return ProcessDescription(
            action=self, name=f"{name}-{context.next_number()}", cmd=cmd, env=env,
            cwd=None if self._cwd is None else perform(context, self._cwd), output=perform(context, self._output),
            respawn=respawn, respawn_delay=self._respawn_delay or 0.0, sigterm_timeout=sigterm, sigkill_timeout=sigkill)


def __getattr__(name: str):
    raise missing(__name__, name)
