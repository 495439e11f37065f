"""The package's imports point one way, without a circle: between packages as `ORDER` says, and between files."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import image2point

ROOT = Path(image2point.__file__).parent
ORDER = (
    ("errors", "files", "objects", "roles", "storage", "torchvision_import", "units"),
    ("runs", "config", "cli_options"),
    ("voxels", "networks", "collapse", "_timm"),
    ("datasets",),
    ("inference",),
    ("lifting",),
    ("finetune", "decoders"),
    ("tasks",),
    ("training", "report"),
    ("jobs",),
    ("experiments",),
    ("sweeps", "benchmarks"),
    ("cli", "cli_errors", "__main__"),
)
"""From the bottom up. A part may import what stands in its own row or below."""


def modules() -> dict[str, Path]:
    """Every module of the package by its name without `image2point.`."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.rglob("*.py")}
    return {name.removesuffix(".__init__").removesuffix("__init__"): path for name, path in names.items()}


def imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """What a module imports of the package, anywhere in it: in functions, for types alone, or named in a string."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "image2point":
            home = node.module.removeprefix("image2point").lstrip(".")
            for alias in node.names:
                inner = f"{home}.{alias.name}".lstrip(".")
                found.add(inner if inner in known else home)
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("image2point.") for alias in node.names if "image2point." in alias.name}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("image2point."):
            found.add(node.value.removeprefix("image2point."))
    return {each for each in found if each in known and each not in (name, "")}


def level(name: str) -> int:
    for number, row in enumerate(ORDER):
        if any(name == part or name.startswith(f"{part}.") for part in row):
            return number
    raise AssertionError(f"{name} has no place in ORDER")


def test_imports_point_down() -> None:
    known = modules()
    upward = [
        f"{name} -> {other}"
        for name, path in known.items()
        if name
        for other in imports(name, path, known)
        if level(other) > level(name)
    ]
    assert upward == []


def test_no_file_imports_itself_by_way_of_others() -> None:
    known = modules()
    try:
        TopologicalSorter({name: imports(name, path, known) for name, path in known.items() if name}).prepare()
    except CycleError as error:
        raise AssertionError(f"imports in a circle: {' -> '.join(error.args[1])}") from None
