"""The state of an unfinished run on disk: tensors in safetensors, the rest in JSON, both or neither.

A checkpoint is a folder that is filled under a temporary name and then renamed, so it exists whole or not at all.
Its name says how far the run was: `epoch-0003-step-000012`.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from image2point.errors import InputError
from image2point.lifting.artefact import apart
from image2point.training import sharding

TENSORS, REST = "tensors.safetensors", "rest.json"


def save(folder: Path, name: str, tensors: dict[str, Tensor], rest: dict[str, Any]) -> None:
    """Write a checkpoint `name` and then remove the others.

    Where writing fails (a full disk, no permission), the earlier checkpoint stays and InputError says so.
    """
    target, temporary = folder / name, folder / f".{name}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        save_file(apart(tensors), temporary / TENSORS)
        (temporary / REST).write_text(json.dumps(rest), encoding="utf-8")
        for path in (temporary / TENSORS, temporary / REST, temporary):
            _flush(path)
        if not target.exists():  # the same place in the same run: the same content
            temporary.rename(target)
            _flush(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        kept = latest(folder)
        state = f"the checkpoint {kept.name} is intact" if kept else "there is no earlier checkpoint"
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"cannot write a checkpoint to {folder}: {reason}; {state}; make room and continue with --resume"
        ) from None
    for other in folder.iterdir():
        if other != target:
            shutil.rmtree(other, ignore_errors=True)


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint."""
    return max((path for path in folder.glob("epoch-*") if path.is_dir()), default=None)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save` wrote; InputError where it is damaged."""
    try:
        return load_file(path / TENSORS), json.loads((path / REST).read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"the checkpoint {path} cannot be read: {error}; start again with --overwrite") from None


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimizer as `PARAMETER NUMBER.NAME` → tensor."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": sharding.whole(value)
        for number, slots in state.items()
        for name, value in slots.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave. Settings such as the learning rate come from the config."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = sharding.part(tensor, parameters[int(number)])
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
