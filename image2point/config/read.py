"""The only reader of YAML configs: a file over its bases, overrides over both, checked as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from image2point.config.explain import explain
from image2point.config.sections import Config
from image2point.errors import InputError

COMMAND_LINE = "command line"


def load(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a config file with its bases and apply `key=value` overrides.

    Raises InputError that names the field, what was found, where it was written and what is valid.
    """
    values, origins = _read(Path(path), ())
    values.setdefault("name", Path(path).stem)
    return _resolve(values, origins, overrides)


def from_values(values: Mapping[str, Any], overrides: Iterable[str] = (), source: str = "defaults") -> Config:
    """A config from nested plain values (as `load` finds them in a file), checked the same way."""
    return _resolve(*_with_origins(values, source), overrides)


def schema() -> dict[str, Any]:
    """JSON schema of a config file, for editors."""
    result = Config.model_json_schema()
    result["properties"]["base"] = {
        "type": "string",
        "description": "Another config file, relative to this one, whose values hold where this one is silent.",
    }
    return result


def changes(old: Config, new: Config) -> list[str]:
    """Dotted names of the fields that differ, each with both values: `training.lr: 0.1 -> 0.2`."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    keys = [*before, *(key for key in after if key not in before)]
    return [f"{k}: {before.get(k)} -> {after.get(k)}" for k in keys if before.get(k) != after.get(k)]


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice, where YAML would keep the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.YAMLError(f"line {key_node.start_mark.line + 1}: the key {key!r} is written twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _read(path: Path, visited: tuple[Path, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    """Values of a file merged over those of its bases, and where each was written."""
    where = path.resolve()
    if where in visited:
        chain = " -> ".join(p.name for p in (*visited, where))
        raise InputError(f"{path}: the configs name each other as base in a circle: {chain}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        by = f", named as base by {visited[-1]}" if visited else ""
        raise InputError(f"config file {path} does not exist{by}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"config file {path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise InputError(f"config file {path} is not valid YAML: {_one_line(error)}") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise InputError(f"config file {path} should hold `key: value` lines, found a {type(values).__name__}")
    base = values.pop("base", None)
    if base is None:
        return _with_origins(values, str(path))
    if not isinstance(base, str):
        raise InputError(f"base = {base!r} in {path} should be the path of one config file")
    merged, origins = _read(where.parent / base, (*visited, where))
    _merge(merged, values, origins, str(path))
    return merged, origins


def _with_origins(values: Mapping[str, Any], source: str) -> tuple[dict[str, Any], dict[str, str]]:
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    _merge(merged, values, origins, source)
    return merged, origins


def _merge(into: dict[str, Any], values: Mapping[str, Any], origins: dict[str, str], source: str, at: str = "") -> None:
    for key, value in values.items():
        name = f"{at}{key}"
        origins[name] = source
        if isinstance(value, Mapping):
            if not isinstance(into.get(key), dict):
                into[key] = {}
            _merge(into[key], value, origins, source, f"{name}.")
        else:
            into[key] = value


def _resolve(values: dict[str, Any], origins: dict[str, str], overrides: Iterable[str]) -> Config:
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InputError(f"override {text!r} should be key=value, for example training.epochs=30")
        try:
            nested: Any = yaml.load(value, _Loader)
        except yaml.YAMLError as error:
            raise InputError(f"override {text!r}: the value is not valid YAML: {_one_line(error)}") from None
        for part in reversed(key.strip().split(".")):
            nested = {part: nested}
        _merge(values, nested, origins, COMMAND_LINE)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise InputError("; ".join(explain(e, origins) for e in error.errors())) from None


def _flat(values: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result.update(_flat(value, f"{at}{key}."))
        else:
            result[f"{at}{key}"] = value
    return result


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
