"""Configurations (nested frozen dataclasses) as JSON and back, and how two of them differ."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any


def to_json(value: Any) -> Any:
    """A frozen dataclass as JSON; one that is one of several types names its own."""
    if dataclasses.is_dataclass(value):
        hints = typing.get_type_hints(type(value))
        fields = {}
        for f in dataclasses.fields(value):
            fields[f.name] = to_json(getattr(value, f.name))
            if _is_union_of_configs(hints[f.name]):
                fields[f.name]["type"] = type(getattr(value, f.name)).__name__
        return fields
    return list(value) if isinstance(value, tuple) else value


def from_json(kind: Any, value: Any) -> Any:
    """The inverse of `to_json`: a value of type `kind`. ValueError for whatever does not fit it."""
    if _is_union_of_configs(kind):
        (kind,) = [k for k in typing.get_args(kind) if k.__name__ == value["type"]]
        value = {key: v for key, v in value.items() if key != "type"}
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if unknown := value.keys() - hints.keys():
            raise ValueError(f"unknown fields {', '.join(sorted(unknown))}")
        return kind(**{name: from_json(hints[name], v) for name, v in value.items()})
    value = tuple(value) if isinstance(value, list) else value
    if not _fits(kind, value):
        raise ValueError(f"{value!r} where {getattr(kind, '__name__', kind)} is expected")
    return value


def differences(saved: Any, given: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """(option as on the command line, value in `saved`, value in `given`) where JSON differs."""
    if isinstance(saved, dict) and isinstance(given, dict):
        return [
            row
            for key in sorted(saved.keys() | given.keys())
            for row in differences(saved.get(key), given.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if saved == given else [(path.replace("_", "-"), saved, given)]


def _fits(kind: Any, value: Any) -> bool:
    if isinstance(kind, types.UnionType):
        return any(_fits(one, value) for one in typing.get_args(kind))
    if typing.get_origin(kind) is typing.Literal:
        return value in typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(typing.get_args(kind)[0], v) for v in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _is_union_of_configs(kind: Any) -> bool:
    return isinstance(kind, types.UnionType) and all(
        map(dataclasses.is_dataclass, typing.get_args(kind))
    )
