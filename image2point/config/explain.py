"""A rejected config in one sentence: the field, what was found, where it was written, what is valid."""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel


def explain(error: Any, origins: Mapping[str, str], kind: type[BaseModel]) -> str:
    """One pydantic error about a config of this kind in one sentence: field, value, place, what is valid."""
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    location = [str(part) for part in error["loc"]]
    options = _options(kind, location[:-1])
    if error["type"] == "extra_forbidden":
        begun = [name for name in options if location[-1].startswith(name)]
        near = begun or difflib.get_close_matches(location[-1], options, n=1, cutoff=0.5)
        close = near if len(location) > 1 else _elsewhere(kind, location[0]) or near
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        section = ".".join(location[:-1]) or "a config"
        place = f"{'.'.join(location)} (in {_origin(location, origins)})"
        return f"unknown key {place}: {hint}{section} has {', '.join(options)}"
    while location and _field(kind, location) is None:  # pydantic adds the tried branch of a union
        location.pop()
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{'.'.join(location)} = {error['input']!r} (in {_origin(location, origins)}): {message}"


def _origin(location: list[str], origins: Mapping[str, str]) -> str:
    for length in range(len(location), 0, -1):
        name = ".".join(location[:length])
        if name in origins:
            return origins[name]
    return "the defaults"


def _options(kind: type[BaseModel], section: list[str]) -> list[str]:
    model = _model(kind, section)
    return [*model.model_fields, *([] if section else ["base"])] if model else []


def _elsewhere(kind: type[BaseModel], name: str) -> list[str]:
    """The dotted names of the fields of this name in the sections of a config."""
    sections = {section: _model(kind, [section]) for section in kind.model_fields}
    return [f"{section}.{name}" for section, model in sections.items() if model and name in model.model_fields]


def _field(kind: type[BaseModel], location: list[str]) -> Any:
    model = _model(kind, location[:-1])
    return model.model_fields.get(location[-1]) if model else None


def _model(model: type[BaseModel], path: list[str]) -> type[BaseModel] | None:
    """The section class at a dotted path, looking through `Section | None`."""
    for name in path:
        field = model.model_fields.get(name)
        if field is None:
            return None
        kind = field.annotation
        branches = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
        sections = [b for b in branches if isinstance(b, type) and issubclass(b, BaseModel)]
        if not sections:
            return None
        model = sections[0]
    return model
