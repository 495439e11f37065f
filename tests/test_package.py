"""The package as its users meet it first: light to import, with the public names that it promises."""

from __future__ import annotations

import subprocess
import sys

import image2point as i2p

HEAVY = ("timm", "torchvision", "open3d", "lightning", "matplotlib", "plotly", "h5py", "pydantic", "tensorboard", "ray")


def test_import_loads_nothing_heavy() -> None:
    program = (
        "import sys, torch\nbefore = set(sys.modules)\n"
        "import image2point\nimage2point.voxelize, image2point.collapse.Statistics\n"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "image2point" in loaded
    assert not set(HEAVY) & set(loaded)


def test_public_names_resolve() -> None:
    for name in i2p.__all__:
        assert getattr(i2p, name) is not None
    assert set(i2p.__all__) <= set(dir(i2p))
