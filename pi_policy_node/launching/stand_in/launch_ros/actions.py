"""ROS nodes as processes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from launch.actions import ExecuteProcess
from launch.core import Action, LaunchContext, SubstitutionFailure, missing, perform
from launch.process import ProcessDescription

from .packages import find_executable
from .parameter_descriptions import evaluate

__all__ = ["Node", "PushRosNamespace"]


class PushRosNamespace(Action):
    """Prefixes the relative namespaces of all nodes until the end of the enclosing group."""

    def __init__(self, namespace: Any, *, condition: Any = None) -> None:
        super().__init__(condition=condition)
        self._namespace = namespace

    def execute(self, context: LaunchContext) -> None:
        namespace = join_namespaces(context.launch_configurations.get("ros_namespace"),
                                    perform(context, self._namespace))
        context.launch_configurations["ros_namespace"] = namespace


class Node(ExecuteProcess):
    """A process whose command line tells it its name, namespace, parameters and remappings."""

    def __init__(self, *, executable: Any, package: Any, name: Any = None, namespace: Any = None,
                 exec_name: Any = None, parameters: Iterable[Any] | None = None,
                 remappings: Iterable[tuple[Any, Any]] | None = None, ros_arguments: Iterable[Any] | None = None,
                 arguments: Iterable[Any] | None = None, **process: Any) -> None:
        super().__init__(cmd=[], name=executable if exec_name is None else exec_name, **process)
        self._package, self._executable = package, executable
        self._node_name, self._namespace = name, namespace
        self._parameters, self._remappings = list(parameters or ()), list(remappings or ())
        self._ros_arguments, self._arguments = list(ros_arguments or ()), list(arguments or ())

    def prepare(self, context: LaunchContext) -> ProcessDescription:
        name = None if self._node_name is None else _checked_name(perform(context, self._node_name))
        namespace = context.launch_configurations.get("ros_namespace")
        if self._namespace is not None:
            namespace = join_namespaces(namespace, perform(context, self._namespace))
        command = find_executable(perform(context, self._package), perform(context, self._executable))
        command += [perform(context, argument) for argument in self._arguments]
        if self._ros_arguments:
            command += ["--ros-args", *(perform(context, argument) for argument in self._ros_arguments)]
        command += ["--ros-args"]
        if name is not None:
            command += ["-r", f"__node:={name}"]
        if namespace is not None:
            command += ["-r", f"__ns:={namespace}"]
        full_name = f"{namespace.rstrip('/')}/{name}" if name is not None and namespace is not None else "/**"
        for parameters in self._parameters:
            command += ["--params-file", _parameter_file(context, full_name, parameters)]
        for source, target in self._remappings:
            command += ["-r", f"{perform(context, source)}:={perform(context, target)}"]
        self.cmd = command
        return super().prepare(context)


def join_namespaces(outer: str | None, inner: str) -> str:
    """An absolute namespace, checked."""
    joined = inner if inner.startswith("/") or not outer else f"{outer.rstrip('/')}/{inner}"
    joined = "/" + joined.strip("/")
    if not re.fullmatch(r"/|(/[A-Za-z_][A-Za-z0-9_]*)+", joined) or "__" in joined:
        raise SubstitutionFailure(f"namespace '{inner}' is not one: letters, digits and single underscores, not "
                                  "beginning with a digit, separated by slashes")
    return joined


def _checked_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise SubstitutionFailure(f"'{name}' cannot be the name of a node: letters, digits and underscores, not "
                                  "beginning with a digit")
    return name


def _parameter_file(context: LaunchContext, full_name: str, parameters: Any) -> str:
    """A file for the node to read: the one given, or a new one with what a dictionary says."""
    if not isinstance(parameters, Mapping):
        path = perform(context, parameters)
        if not os.path.isfile(path):
            raise SubstitutionFailure(f"parameter file {path} does not exist")
        return path
    values = {perform(context, name): evaluate(context, value) for name, value in parameters.items()}
    return context.keep_file("launch_params_", yaml.safe_dump({full_name: {"ros__parameters": values}}))


def __getattr__(name: str):
    raise missing(__name__, name)
