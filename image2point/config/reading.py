"""The only reader of YAML configs: a file over its bases, overrides over both, checked as a whole."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from image2point.config.explain import explain
from image2point.config.frozen import Section
from image2point.config.pretraining import Pretrain
from image2point.config.sections import Config
from image2point.config.shipped import find, near
from image2point.errors import InputError
from image2point.files import user_path

COMMAND_LINE = "command line"
MOST_BYTES, MOST_VALUES, DEEPEST = 2**20, 100_000, 50
"""Of one config file, and levels of nesting; no config comes near."""


Kind = TypeVar("Kind", bound=Section)


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a config file with its bases and apply `key=value` overrides.

    Raises InputError that names the field, what was found, where it was written and what is valid.
    """
    values, origins = read(path)
    if "sweep" in values:
        raise InputError(f"{path} describes many runs (it has a section `sweep`); use `image2point sweep {path}`")
    return resolve(values, origins, overrides)


def load_config_as(kind: type[Kind], path: str | Path, overrides: Iterable[str] = ()) -> Kind:
    """The same for a config of another kind."""
    return resolve_as(kind, *read(path), overrides)


def load_run_config(path: str | Path, overrides: Iterable[str] = ()) -> Config | Pretrain:
    """The config file of a transfer or of a pre-training, whichever it is: the latter has a section `images`."""
    return load_config_as(Pretrain, path, overrides) if "images" in read(path)[0] else load_config(path, overrides)


def from_values(values: Mapping[str, Any], overrides: Iterable[str] = (), source: str = "defaults") -> Config:
    """A config from nested plain values (as `load_config` finds them in a file), checked the same way."""
    return resolve(*_with_origins(values, source), overrides)


def from_values_as(
    kind: type[Kind], values: Mapping[str, Any], overrides: Iterable[str] = (), source: str = "defaults"
) -> Kind:
    """The same for a config of another kind."""
    return resolve_as(kind, *_with_origins(values, source), overrides)


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The values that a config file and its bases hold, unchecked and nested, and the file that each comes from.

    path: a file, or the name of a shipped config (`config.shipped`).
    """
    values, origins = _read(find(path), ())
    values.setdefault("name", Path(path).stem)
    return values, origins


def resolve(
    values: Mapping[str, Any],
    origins: Mapping[str, str],
    overrides: Iterable[str] = (),
    settings: Mapping[str, Any] | None = None,
    source: str = "",
) -> Config:
    """The config that nested `values` make, with dotted `settings` from `source` over them and overrides over both."""
    return resolve_as(Config, values, origins, overrides, settings, source)


def resolve_as(
    kind: type[Kind],
    values: Mapping[str, Any],
    origins: Mapping[str, str],
    overrides: Iterable[str] = (),
    settings: Mapping[str, Any] | None = None,
    source: str = "",
) -> Kind:
    """The same for a config of another kind."""
    merged, places = copy.deepcopy(dict(values)), dict(origins)
    for key, value in (settings or {}).items():
        _merge(merged, _nested(key, value), places, source)
    for text in overrides:
        key, equals, written = text.partition("=")
        if not equals or not key.strip():
            raise InputError(
                f"override {text!r} should be key=value without spaces, for example training.epochs=30"
                + (f"; did you mean --{text}?" if text in ("resume", "overwrite") else "")
            )
        try:
            value = parse_yaml(written)
        except yaml.YAMLError as error:
            raise InputError(f"override {text!r}: the value is not valid YAML: {_one_line(error)}") from None
        _merge(merged, _nested(key.strip(), value), places, COMMAND_LINE)
    try:
        return kind.model_validate(merged)
    except ValidationError as error:
        raise InputError("; ".join(explain(e, places, kind) for e in error.errors())) from None


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def schema() -> dict[str, Any]:
    """JSON schema of a config file, for editors."""
    result = Config.model_json_schema()
    result["properties"]["base"] = {
        "type": "string",
        "description": "Another config file, relative to this one, whose values hold where this one is silent.",
    }
    return result


def changes(old: Section, new: Section) -> list[str]:
    """Dotted names of the fields that differ, each with both values: `training.lr: 0.1 -> 0.2`."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    keys = [*before, *(key for key in after if key not in before)]
    return [f"{k}: {before.get(k)} -> {after.get(k)}" for k in keys if before.get(k) != after.get(k)]


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice, where YAML would keep the last one, and what is deeply nested.

    Numbers that begin with 0 and those with colons stay text, which YAML 1.1 would take for octal and for sixtieths.
    """

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        if self._depth > DEEPEST:  # far from Python's own limit, at which PyYAML takes seconds
            raise yaml.YAMLError("nested too deeply")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _check_size(node, {}, ())
        return node

    def construct_number(self, node: yaml.ScalarNode) -> Any:
        text = str(self.construct_scalar(node))
        if ":" in text or re.fullmatch(r"[-+]?0[0-9_]+", text):
            return text
        whole = node.tag.endswith("int")
        return self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # `<<: *other`, whose keys may be written again
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, dict | list):
                raise yaml.YAMLError(f"line {key_node.start_mark.line + 1}: a key should be a word, found {key!r:.80}")
            if key in seen:
                raise yaml.YAMLError(f"line {key_node.start_mark.line + 1}: the key {key!r} is written twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _check_size(node: yaml.Node, sizes: dict[int, int], inside: tuple[int, ...]) -> int:
    """How many values a node holds once its aliases are written out; YAMLError where these are too many or endless."""
    if id(node) in inside:
        raise yaml.YAMLError(f"line {node.start_mark.line + 1}: an alias that holds itself")
    if id(node) not in sizes:
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        parts = parts if isinstance(node, yaml.CollectionNode) else []
        sizes[id(node)] = 1 + sum(_check_size(part, sizes, (*inside, id(node))) for part in parts)
    if sizes[id(node)] > MOST_VALUES:
        raise yaml.YAMLError(f"more than {MOST_VALUES:,} values, with its aliases written out")
    return sizes[id(node)]


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_number)


def parse_yaml(text: str) -> Any:
    """The value of a YAML text from anywhere; yaml.YAMLError where it is wrong, too large or too deep."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits, a date that there is not
        raise yaml.YAMLError(str(error)) from None


def _read(path: Path, visited: tuple[Path, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    """Values of a file merged over those of its bases, and where each was written."""
    where = path.resolve()
    if where in visited:
        chain = " -> ".join(p.name for p in (*visited, where))
        raise InputError(f"{path}: the configs name each other as base in a circle: {chain}")
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"config file {path} is not a file")
        if path.is_file() and path.stat().st_size > MOST_BYTES:
            raise InputError(f"config file {path} has {path.stat().st_size:,} bytes; expected at most {MOST_BYTES:,}")
        values = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        by = f", named as base by {visited[-1]}" if visited else "; `image2point config --list` names those that ship"
        if not visited and (close := near(path)):
            by = f"; did you mean {' or '.join(close)}?"
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
    merged, origins = _read(where.parent / user_path(base), (*visited, where))
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
