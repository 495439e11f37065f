"""Fixtures that several test folders share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

# The tensors of the tests are small: a second thread costs more than it brings, the more so on a busy machine.
torch.set_num_threads(1)

# Without a GPU, Triton's kernels run in its interpreter. Triton reads this when it is first imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the real ModelNet40 and real ImageNet weights, where this machine has it."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not (folder / "modelnet40_ply_hdf5_1024" / "shape_names.txt").is_file():
        pytest.skip("real ModelNet40 data is not beside this checkout (../shared/data)")
    return folder
