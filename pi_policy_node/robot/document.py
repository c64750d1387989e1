"""A strict reader for YAML files that people write: a complaint names the file, the line, the key and the remedy."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import yaml

from pi_policy_node.robot.error import RobotError

_MISSING: Any = object()


class _Mapping(dict):
    """A mapping that knows the line of each key."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, int] = {}


class _Loader(yaml.SafeLoader):
    """SafeLoader without YAML 1.1's traps: 1e-3 is a number, a key given twice is an error, yes and off are words."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if key_node.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                raise _error(f"the key {key!r} must be a word", key_node)
            if key in seen:
                raise _error(f"'{key}' is given twice, first on line {seen[key]}: keep one", key_node)
            seen[key] = line
        self.flatten_mapping(node)
        result = _Mapping()
        for key_node, value_node in node.value:
            result[key_node.value] = self.construct_object(value_node, deep=True)
            result.lines[key_node.value] = key_node.start_mark.line + 1
        return result


def _error(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _resolve(kind: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(pattern), list(first))


_TAGS = [f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "timestamp")]
_Loader.yaml_implicit_resolvers = {
    first: [resolver for resolver in resolvers if resolver[0] not in _TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_resolve("bool", r"^(?:true|True|false|False)$", "tTfF")
_resolve("int", r"^[-+]?\d+$", "-+0123456789")
_resolve("float", r"^[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|\.(?:inf|Inf))$|^\.(?:nan|NaN)$", "-+0123456789.")
_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.construct_mapping)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node)))


def read_document(file: Path) -> Section:
    """The mapping in `file`; RobotError when it cannot be read or is not a mapping of words to values."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise RobotError(file, "", f"cannot be read: {reason}") from None
    try:
        value = yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise RobotError(file, "", f"{error.problem}", line=mark.line + 1 if mark else None) from None
    except yaml.YAMLError as error:
        raise RobotError(file, "", f"not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, _Mapping):
        raise RobotError(file, "", f"must hold a mapping of keys to values, not {_kind(value)}")
    return Section(file, "", value)


class Section:
    """A mapping of the file, read key by key; `close` then refuses what nobody asked for."""

    def __init__(self, file: Path, path: str, values: _Mapping, line: int | None = None) -> None:
        self.file = file
        self.path = path
        self.line = line
        self._values = values
        self._known: list[str] = []

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def error(self, key: str, message: str) -> RobotError:
        return RobotError(self.file, self._at(key), message, line=self._line(key))

    def text(self, key: str, default: str = _MISSING, *, choices: Collection[str] = ()) -> str:
        value = self._take(key, default)
        if value is default:
            return value
        if not isinstance(value, str) or not value:
            raise self.error(key, f"must be a word, not {_kind(value)}")
        if choices and value not in choices:
            raise self.error(key, f"'{value}' is unknown{suggest(value, choices)}; use {any_of(choices)}")
        return value

    def flag(self, key: str, default: bool = _MISSING) -> bool:
        value = self._take(key, default)
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, not {_kind(value)}")
        return value

    def number(
        self, key: str, default: float = _MISSING, *, above: float = -math.inf, low: float = -math.inf,
        high: float = math.inf, unit: str = "",
    ) -> float:  # fmt: skip
        """A finite number, > `above`, >= `low`, <= `high`."""
        value = self._take(key, default)
        if value is default:
            return value
        return self._number(key, value, above, low, high, unit)

    def whole(self, key: str, default: int = _MISSING, *, low: int, high: int) -> int:
        value = self.number(key, default, low=low, high=high)
        if value != int(value):
            raise self.error(key, f"{value:g} must be a whole number")
        return int(value)

    def numbers(
        self, key: str, count: int, default: Any = _MISSING, *, above: float = -math.inf, low: float = -math.inf,
        high: float = math.inf, unit: str = "", each: str = "number",
    ) -> list[float]:  # fmt: skip
        """`count` numbers; one number stands for all of them."""
        value = self._take(key, default)
        if value is default:
            return value
        if not isinstance(value, list):
            return [self._number(key, value, above, low, high, unit)] * count
        if len(value) != count:
            raise self.error(key, f"has {len(value)} numbers; it needs {count}, one per {each}, or one for all")
        return [self._number(f"{key}[{i}]", item, above, low, high, unit) for i, item in enumerate(value)]

    def words(self, key: str) -> list[str]:
        """At least one word, none twice."""
        value = self._take(key, _MISSING)
        if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
            raise self.error(key, f"must be a list of names, such as [a, b], not {_kind(value)}")
        for item in value:
            if value.count(item) > 1:
                raise self.error(key, f"'{item}' is named twice")
        return value

    def section(self, key: str, *, optional: bool = False) -> Section:
        """The keys under `key`; none where it is absent and optional."""
        value = self._take(key, _Mapping() if optional else _MISSING)
        if not isinstance(value, _Mapping):
            raise self.error(key, f"must hold keys of its own (key: value), not {_kind(value)}")
        return Section(self.file, self._at(key), value, self._line(key))

    def sections(self, key: str) -> dict[str, Section]:
        """The named parts of a mapping of mappings, in the file's order."""
        part = self.section(key)
        if not part._values:
            raise self.error(key, "is empty; name at least one")
        return {name: part.section(name) for name in part._values}

    def parts(self) -> list[tuple[str, Section]]:
        """The keys that hold mappings."""
        return [(key, self.section(key)) for key, value in self._values.items() if isinstance(value, _Mapping)]

    def keys(self) -> Iterable[str]:
        return self._values.keys()

    def close(self) -> None:
        """Refuse keys that were never asked for: a typo must not silently fall back to a default."""
        for key in self._values:
            if key not in self._known:
                hint = suggest(key, self._known) or f"; known here: {', '.join(self._known)}"
                raise self.error(key, f"unknown key{hint}")

    def _take(self, key: str, default: Any) -> Any:
        self._known.append(key)
        value = self._values.get(key)
        if value is None:  # `key:` with nothing behind it counts as absent
            if default is not _MISSING:
                return default
            near = _near(key, [name for name in self._values if name not in self._known])
            raise self.error(key, f"is missing; is it '{near}'?" if near else "is missing")
        return value

    def _number(self, key: str, value: Any, above: float, low: float, high: float, unit: str) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.error(key, f"must be a number{f' in {unit}' if unit else ''}, not {_kind(value)}")
        for broken, words in (
            (value <= above, f"more than {above:g}"),
            (value < low, f"at least {low:g}"),
            (value > high, f"at most {high:g}"),
        ):
            if broken:
                raise self.error(key, f"{value:g} must be {words}{f' {unit}' if unit else ''}")
        return float(value)

    def _at(self, key: str) -> str:
        return ".".join(part for part in (self.path, key) if part)

    def _line(self, key: str) -> int | None:
        """Where the key is; where it is not, its section."""
        line, values = self.line, self._values
        for part in key.split("."):
            name = part.split("[")[0]
            if not isinstance(values, _Mapping) or name not in values:
                break
            line, values = values.lines[name], values[name]
        return line


def suggest(word: str, known: Iterable[str]) -> str:
    """"; did you mean 'x'?" or nothing."""
    near = _near(word, known)
    return f"; did you mean '{near}'?" if near else ""


def _near(word: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)), None)


def any_of(words: Collection[str]) -> str:
    words = list(words)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, str):
        return f"the word '{value}'"
    return str(value).lower() if isinstance(value, bool) else str(value)
