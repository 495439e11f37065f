"""What a finished run leaves behind, written atomically: weights, arrays, the summary."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from image2point import files
from image2point.lifting.artefact import write_tensors
from image2point.runs import Run


def save_weights(network: nn.Module, path: Path) -> None:
    """Write the state dict as safetensors."""
    with files.writing(path) as temporary:
        write_tensors(network, temporary)


def save_arrays(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Write an npz file; the same arrays give the same bytes."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]  # numpy's stubs take a name for `allow_pickle`
    files.write_bytes(path, content.getvalue())


def save_summary(run: Run, summary: dict[str, Any]) -> None:
    """Write summary.json, with which the run is finished: so it is the last file, and nothing is left to resume."""
    files.write_text(run.summary, json.dumps(summary, indent=1))
    shutil.rmtree(run.checkpoint, ignore_errors=True)
