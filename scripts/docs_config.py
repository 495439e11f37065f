"""Write the reference page of config files from the fields themselves: `python scripts/docs_config.py > PAGE`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

from image2point.config import Config, Pretrain, shipped, studies

HEAD = """# Config files

Every setting, with its type, its default and what it means. A file names another one under `base:`, relative to itself,
and lists what differs; `KEY=VALUE` on the command line goes over both, with dots between section and key:
`data.shots=10`. A key that does not exist is an error. A setting that changes nothing, because what it goes with is not
there, is named in a note when a run begins, by `image2point config`, and by `image2point sweep --plan` where it does
nothing in any run. `image2point config FILE` prints a file with everything that it
inherits, and `image2point config --schema` the JSON schema of this page's first part.
"""
KINDS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("transfer", Config),
    ("pretrain", Pretrain),
    ("study: few-shot", studies.FewShotStudy),
    ("study: follow", studies.FollowStudy),
    ("study: pretraining", studies.PretrainingStudy),
    ("study: unconstrained", studies.UnconstrainedStudy),
    ("study: rank", studies.RankStudy),
)


def page() -> str:
    """The whole page, in Markdown."""
    parts = [HEAD]
    for title, kind in KINDS:
        parts.append(f"## `{title}`\n\n{_one_line(kind.__doc__)}\n")
        parts += _tables(kind)
    names = "\n".join(f"- `{name}`" for name in shipped())
    return "\n".join([*parts, "## Configs that ship\n", "`image2point config NAME` prints one.\n", names, ""])


def _tables(kind: type[BaseModel], path: str = "", meaning: str = "") -> Iterator[str]:
    """A table of the plain fields, then those of the sections, one after the other."""
    schema = kind.model_json_schema()
    sections = {name: section for name in kind.model_fields if (section := _section(kind, name))}
    if path:
        yield f"### `{path}`\n\n{_one_line(kind.__doc__)} {_one_line(meaning)}\n"
    rows = [
        f"| `{name}` | {_type(field, schema)} | {_default(kind, name)} | {_cell(field.get('description', ''))} |"
        for name, field in schema["properties"].items()
        if name not in sections
    ]
    if rows:
        yield "\n".join(["| key | type | default | |", "|---|---|---|---|", *rows, ""])
    for name, section in sections.items():
        yield from _tables(section, f"{path}.{name}" if path else name, kind.model_fields[name].description or "")


def _section(kind: type[BaseModel], name: str) -> type[BaseModel] | None:
    annotation = kind.model_fields[name].annotation
    for branch in (annotation, *get_args(annotation)):
        if isinstance(branch, type) and issubclass(branch, BaseModel):
            return branch
    return None


def _type(field: dict[str, Any], schema: dict[str, Any]) -> str:
    if "$ref" in field:
        return _type(schema["$defs"][field["$ref"].rpartition("/")[2]], schema)
    if branches := field.get("anyOf", field.get("oneOf")):
        return " or ".join(dict.fromkeys(_type(branch, schema) for branch in branches))
    if "const" in field:
        return _code(field["const"])
    if "enum" in field:
        return ", ".join(map(_code, field["enum"]))
    if "prefixItems" in field:
        return f"[{', '.join(_type(item, schema) for item in field['prefixItems'])}]"
    kind = field.get("type", "anything")
    if kind == "array":
        return f"list of {_type(field.get('items', {}), schema)}"
    if kind == "object":
        return f"mapping to {_type(field.get('additionalProperties') or {}, schema)}"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {_number(field[key])}" for key, sign in signs.items() if key in field]
    return " ".join([{"string": "text", "boolean": "true, false"}.get(kind, kind), ", ".join(bounds)]).strip()


def _number(value: float) -> str:
    return "2⁶³" if value == 2**63 else f"{value:g}"


def _default(kind: type[BaseModel], name: str) -> str:
    field = kind.model_fields[name]
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return _code(value)


def _code(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return f"`{plain if isinstance(plain, str) and plain else json.dumps(plain, ensure_ascii=False, default=str)}`"


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _cell(text: str) -> str:
    return _one_line(text).replace("|", "\\|")


if __name__ == "__main__":
    print(page())
