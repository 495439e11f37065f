"""The package as its users meet it first: light to import, with the public names that it promises."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from runpy import run_path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import image2point as i2p

HEAVY = ("timm", "torchvision", "open3d", "lightning", "matplotlib", "plotly", "h5py", "pydantic", "tensorboard", "ray")


def test_import_loads_nothing_heavy() -> None:
    program = (
        "import sys, torch\nbefore = set(sys.modules)\n"
        "import image2point\nimage2point.voxelize, image2point.collapse.Statistics\n"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))\n"
        "image2point.lift\nassert 'torch._dynamo' not in sys.modules"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "image2point" in loaded
    assert not set(HEAVY) & set(loaded)


def test_one_version_everywhere() -> None:
    root = Path(i2p.__path__[0]).parent
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    first = re.search(r"^## (.*)", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert str(citation["version"]) == i2p.__version__
    assert first and first[1] in (i2p.__version__, f"Unreleased ({i2p.__version__})")
    pages = [(root / name).read_text(encoding="utf-8") for name in ("README.md", "docs/start.md", "docs/citation.md")]
    told = [re.findall(r"image2point-([\d.]+)-py3|version = \{(.+)\}", page) for page in pages]
    assert {"".join(each) for page in told for each in page} == {i2p.__version__} and all(told)
    assert citation["title"] == re.sub("[{}]", "", re.search(r"title = \{(.*)\},", pages[-1])[1])


@pytest.mark.parametrize("url", ["", "https://example.org/us/image2point/"])
def test_a_package_index_shows_no_broken_link(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setitem(sys.modules, "setuptools", SimpleNamespace(setup=given.update))
    monkeypatch.setenv("PROJECT_URL", url)
    root = Path(i2p.__path__[0]).parent
    run_path(str(root / "setup.py"))
    text, base = given["long_description"], url.rstrip("/")
    targets = re.findall(r"\]\(([^)]*)\)", text)
    assert targets and all(target.startswith("https://") for target in targets)
    assert f"git clone {base or '<this repository>'} " in text
    if not url:
        assert "(docs/sweeps.md)" in text and "![" not in text and given["project_urls"] == {}
        return
    assert re.search(rf"!\[[^\]]*\]\({base}/raw/v{i2p.__version__}/docs/figures/", text)
    own = re.compile(rf"{base}/(?:blob|raw)/v{i2p.__version__}/")
    pages = [own.sub("", target) for target in targets if target.startswith(base)]
    assert len(pages) > 20 and all((root / page.partition("#")[0]).exists() for page in pages)
    assert given["project_urls"]["Repository"] == base


def test_public_names_resolve() -> None:
    for name in i2p.__all__:
        assert getattr(i2p, name) is not None
    assert set(i2p.__all__) <= set(dir(i2p))


# Forks of a process that has loaded torch and nothing of the project: as good as fresh ones, in a fiftieth of the time
FORKS = """
import importlib, os, sys, torch
for order in sys.argv[1:]:
    if not os.fork():
        try:
            for name in order.split(","):
                home, _, attribute = name.rpartition(".")
                getattr(importlib.import_module(home), attribute)
        except BaseException as error:
            print(f"{order}: {type(error).__name__}: {error}".splitlines()[0], flush=True)
        os._exit(0)
    os.wait()
"""


def public_names() -> list[str]:
    """Every name that the package and its parts promise, with the module that promises it."""
    parts = (part.name for part in iter_modules(i2p.__path__) if part.ispkg)
    homes = ("image2point", *(f"image2point.{part}" for part in parts))
    return [f"{home}.{name}" for home in homes for name in getattr(import_module(home), "__all__", ())]


def failures(orders: Iterable[Sequence[str]], before: str = "") -> list[str]:
    """What goes wrong where the names of each order are used one after the other, in a process of its own."""
    program = [sys.executable, "-c", before + FORKS, *(",".join(order) for order in orders)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def late_names() -> list[str]:
    """Those that are loaded when they are first used; the others come with the module that promises them."""
    late = [f"image2point.collapse.{name}" for name in ("CollapseMetric", "CollapseCallback")]
    return [name for name in public_names() if name.count(".") == 1] + late


def test_every_public_name_works_alone() -> None:
    """Names that load late each in a process of its own; of the others, all of a module in one, the last first."""
    names, late = public_names(), late_names()
    assert {"image2point.lift", "image2point.voxels.voxelize", "image2point.config.load_config", *late} <= set(names)
    homes = {name.rpartition(".")[0] for name in names}
    together = [[name for name in reversed(names) if name.rpartition(".")[0] == home] for home in sorted(homes)]
    assert not failures([*([name] for name in late), *together])


def test_a_name_that_does_not_work_is_reported() -> None:
    assert failures([["image2point.lift"], ["image2point.nothing"]]) == [
        "image2point.nothing: AttributeError: module 'image2point' has no attribute 'nothing'"
    ]


UNMENDED = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if not type(finder).__module__.startswith("image2point")]
for name in [name for name in sys.modules if name.startswith("image2point")]:
    del sys.modules[name]
"""
"""What `make` runs at the start of Python is undone, so that a program stands as in anyone's environment."""


def test_collapse_metric_works_after_a_failed_import_of_its_own_dependency() -> None:
    program = (
        f"{UNMENDED}try:\n    import torchmetrics\nexcept RuntimeError:\n    pass\n"
        "import image2point\nimage2point.collapse.CollapseMetric(3, 4)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


NEEDING_TORCHVISION = ("torchvision", "timm", "torchmetrics", "lightning.pytorch", "ocnn")


def test_what_needs_torchvision_loads_after_the_package() -> None:
    packages = [name for name in NEEDING_TORCHVISION if find_spec(name.partition(".")[0])]
    assert not failures([["image2point.__name__", f"{name}.__name__"] for name in packages], before=UNMENDED)


@pytest.mark.skipif(not Path(sys.prefix, ".ready").exists(), reason="an environment that make has not set up")
def test_what_needs_torchvision_loads_by_itself() -> None:
    packages = [name for name in NEEDING_TORCHVISION if find_spec(name.partition(".")[0])]
    assert not failures([[f"{name}.__name__"] for name in packages])


@pytest.mark.parametrize("missing", ["torchvision::nms", "another::operator"])
def test_a_torchvision_without_its_operators_is_mended(missing: str, tmp_path: Path) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("from torchvision.ops import boxes\n")
    (package / "ops.py").write_text(f"import torch\ntorch.library.register_fake({missing!r})(len)\nboxes = 1\n")
    program = (
        f"{UNMENDED}sys.path.insert(0, {str(tmp_path)!r})\n"
        "import image2point\nimport torchvision\nprint(torchvision.boxes)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if missing == "torchvision::nms":
        assert done.stdout == "1\n"
    else:
        assert "another::operator does not exist" in done.stderr


@pytest.mark.slow
def test_public_names_work_in_any_order() -> None:
    late = late_names()
    pairs = [[first, second] for first in late for second in late if first != second]
    assert not failures([*([name] for name in public_names()), *pairs])
