"""The site: every public name is documented and on a reference page, every page in the nav, every example runs."""

from __future__ import annotations

import inspect
import re
import shutil
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pyg
import pytest
import torch
import yaml
from torch import nn

import image2point
from image2point import collapse, voxels
from image2point.config import Config, Pretrain, shipped
from image2point.datasets.files import import_open3d
from image2point.lifting.rules import registry

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
HOMES = (image2point, collapse, voxels)
sys.path.insert(0, str(ROOT / "scripts"))
import docs_cli  # noqa: E402
import docs_config  # noqa: E402
import draw_docs  # noqa: E402
import notebooks  # noqa: E402

WRITTEN = {"reference/cli.md", "reference/config.md", *(f"tutorials/{name}.md" for name in notebooks.ORDER)}
"""By `make docs`."""


def named(path: str) -> Any:
    """What a dotted path means: the longest module in it, and what follows as attributes."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: Any = import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[end:]:
            found = getattr(found, attribute)
        return found
    raise AssertionError(f"{path} is nothing")


def directives() -> list[str]:
    pages = sorted((DOCS / "reference").glob("*.md"))
    return [path for page in pages for path in re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.M)]


@pytest.mark.parametrize("home", HOMES, ids=lambda home: home.__name__)
def test_every_public_name_stands_on_a_reference_page(home: ModuleType) -> None:
    shown = {id(named(path)) for path in directives()} | {id(collapse)}  # the page of collapse is its names
    assert [name for name in home.__all__ if id(getattr(home, name)) not in shown] == []


def test_no_name_stands_there_twice() -> None:
    paths = directives()
    assert len(paths) == len({id(named(path)) for path in paths}) > 100


def public_members(home: ModuleType) -> Iterator[tuple[str, Any]]:
    """What the reference is to describe: the public names, and what their classes define and torch does not."""
    for name in home.__all__:
        value = getattr(home, name)
        yield name, value
        if inspect.isclass(value):
            for member, its in vars(value).items():
                inherited = issubclass(value, nn.Module) and hasattr(nn.Module, member)
                known = inherited or member == "reset_parameters" or member.startswith("_")
                if not known and (callable(its) or isinstance(its, (property, classmethod, staticmethod))):
                    yield f"{name}.{member}", its


@pytest.mark.parametrize("home", HOMES, ids=lambda home: home.__name__)
def test_every_public_name_is_documented(home: ModuleType) -> None:
    bare = [name for name, value in public_members(home) if not (value.__doc__ or "").strip()]
    generated = [name for name, value in public_members(home) if (value.__doc__ or "").startswith(f"{name}(")]
    assert bare + generated == []  # a dataclass without a docstring gets its signature


def nav() -> Iterator[str]:
    entries = yaml.load((ROOT / "mkdocs.yml").read_text("utf-8"), yaml.BaseLoader)["nav"]
    while entries:
        entry = entries.pop()
        if isinstance(entry, str):
            yield entry
        else:
            entries += [part for value in entry.values() for part in (value if isinstance(value, list) else [value])]


def test_every_page_is_in_the_nav_once() -> None:
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert sorted(nav()) == sorted(pages | WRITTEN)


def test_every_tutorial_is_made() -> None:
    assert sorted(notebooks.ORDER) == sorted(script.stem for script in (DOCS / "tutorials").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", notebooks.ORDER)
def test_tutorials_run_and_become_pages(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jupytext", reason="pip install 'image2point[docs]' brings it")
    shutil.copy(DOCS / f"tutorials/{name}.py", tmp_path)
    monkeypatch.setattr(notebooks, "TUTORIALS", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebooks.main(["--unexecuted"])
    page = tmp_path / f"{name}.md"
    assert notebooks.NOT_EXECUTED in page.read_text("utf-8") and notebooks.is_current(name)
    notebooks.main([name])
    text = page.read_text("utf-8")
    figures = re.findall(r"\]\((\S+\.png)\)", text)
    assert notebooks.NOT_EXECUTED not in text and figures and all((tmp_path / each).stat().st_size for each in figures)


@pytest.mark.parametrize("name", sorted(draw_docs.DRAWINGS))
def test_pictures_are_drawn_from_the_code_as_it_is(name: str) -> None:
    assert (DOCS / "figures" / name).read_text("utf-8") == draw_docs.DRAWINGS[name]()


def test_every_setting_is_on_the_page_of_settings() -> None:
    page = docs_config.page()
    for kind in (Config, Pretrain):
        for name, field in kind.model_fields.items():
            assert f"`{name}`" in page
            assert " ".join((field.description or "").split()).replace("|", "\\|") in page
    assert "| `voxel_size` | number > 0 | `0.05` | Edge of a voxel, in the units of the points. |" in page
    assert "| `shots` | integer ≥ 1 or null | `null` | Training clouds per class; null takes all. |" in page
    assert "### `data.augmentation`" in page and "Random changes of training clouds; null for none." in page
    assert all(f"- `{name}`" in page for name in shipped())


def test_the_page_of_commands_says_what_each_does() -> None:
    page = docs_cli.page()
    assert (
        "* `sweep`: Do all runs that a config describes: every combination of the values in its section `sweep`.\n"
        in page
    )
    assert "# `image2point data fetch`" in page and "...\n* `" not in page


def test_examples_in_docstrings_become_code() -> None:
    pytest.importorskip("griffe", reason="pip install 'image2point[docs]' brings it")
    from docs_examples import fenced

    text = "Adds.\n\nExample:\n\n    >>> add(1, 2)\n    3\n\nAnd\n>>> more\n"
    assert fenced(text) == "Adds.\n\nExample:\n\n```pycon\n>>> add(1, 2)\n3\n```\n\nAnd\n\n```pycon\n>>> more\n```\n"


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `make docs`; then no example is left as a quotation, and no page fetches anything from elsewhere."""
    build = pytest.importorskip("mkdocs.commands.build", reason="pip install 'image2point[docs]' brings it")
    pytest.importorskip("jupytext", reason="pip install 'image2point[docs]' brings it")
    from mkdocs.config import load_config

    monkeypatch.chdir(ROOT)
    notebooks.main(["--unexecuted"])
    (DOCS / "reference/config.md").write_text(docs_config.page(), "utf-8")
    (DOCS / "reference/cli.md").write_text(docs_cli.page(), "utf-8")
    build.build(load_config("mkdocs.yml", site_dir=str(tmp_path / "site")))
    pages = [page.read_text("utf-8") for page in (tmp_path / "site").rglob("*.html")]
    assert len(pages) > 30
    assert not [
        page for page in pages if re.search(r"<blockquote>|```pycon|<(link|script|img)[^>]* (href|src)=.https?:", page)
    ]


def run_blocks(page: str) -> dict[str, Any]:
    """Run the Python of a page, one block after the other."""
    names: dict[str, Any] = {"__name__": page}
    for block in re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text("utf-8"), re.M | re.S):
        if "push_to_hub" in block:  # tests/test_hub.py does that
            continue
        exec(compile(block, page, "exec"), names)
    return names


def test_own_network_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "RULES", dict(registry.RULES))
    run_blocks("howto/own_network.md")
    said = capsys.readouterr().out.replace("torch.Size(", "")
    assert "[1, 4]" in said and "no rule for the method cumsum" in said and said.endswith("\n8\n")


def test_networks_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_blocks("howto/networks.md")
    said = capsys.readouterr().out
    assert said.startswith("('chair', 'table') 0.05\n") and said.splitlines()[1].split()[0] in ("chair", "table")


def test_own_loop_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    pyg.import_or_stand_in(monkeypatch)
    import_open3d()
    names = run_blocks("howto/own_loop.md")
    assert names["right"] > 16 and names["again"].classes == ("ball", "box")
    said = [line for line in capsys.readouterr().out.splitlines() if line in ("ball", "box", "True", "False")]
    assert len(said) == 2 and said[0] == "True"  # which class it is, is a matter of an unseeded loader
    assert len(names["again"].predict(names["pair"])) == 2
    average, last = image2point.load("average"), names["net"]
    known = dict(last.named_parameters())
    trained = [name for name, tensor in average.named_parameters() if not torch.equal(tensor, known[name])]
    assert set(trained) == {name for name, tensor in known.items() if tensor.requires_grad}


def test_collapse_page_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    run_blocks("concepts/collapse.md")
    value, chance = capsys.readouterr().out.split("\n", 1)
    assert round(float(value), 1) == 2.4 and "(9.7" in chance


@pytest.mark.slow
def test_policies_page_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    run_blocks("concepts/policies.md")
    page = (DOCS / "concepts/policies.md").read_text("utf-8")
    printed = re.findall(r"^(\S+) Counts\(trainable=(\d+), total=65487848\)$", capsys.readouterr().out, re.M)
    assert len(printed) == 6 and all(f"| `{policy}` | {int(count):,} |" in page for policy, count in printed)


@pytest.mark.slow
def test_from_the_start_page_to_onnx(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands of the start page and of the page on other programs, as they stand there."""
    from typer.testing import CliRunner

    from image2point.cli import app

    monkeypatch.chdir(tmp_path)
    run_blocks("start.md")
    start = (DOCS / "start.md").read_text("utf-8")
    Path("shapes.yaml").write_text(re.findall(r"^```yaml\n(.*?)^```", start, re.M | re.S)[0], "utf-8")
    pages = start + "".join((DOCS / f"howto/{page}.md").read_text("utf-8") for page in ("deploy", "networks"))
    pages = pages.replace("data.root=other_clouds", "data.root=clouds")
    commands = re.findall(r"^image2point ((?:transfer|predict|export) .*)$", pages, re.M)
    assert len(commands) == 4
    for command in commands:
        result = CliRunner().invoke(app, command.split(), catch_exceptions=False)
        assert result.exit_code == 0, result.output
    capsys.readouterr()
    run_blocks("howto/deploy.md")
    assert capsys.readouterr().out.strip() in ("ball", "box")
