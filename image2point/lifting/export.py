"""Lifted networks for other programs: `torch.export` files and ONNX files of what runs on grids."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from image2point.errors import InputError, one_line
from image2point.files import shown, target_path, writing
from image2point.lifting.artefact import described
from image2point.lifting.network import LiftedNetwork
from image2point.networks.interface import modes_kept
from image2point.voxels import DenseVoxels

logger = logging.getLogger("image2point")

METADATA = "image2point"
"""The entry of a file, beside its program, that holds what `network.json` of a saved network says."""

_ONNX_PACKAGES = ("onnx", "onnxscript")
_LARGEST_ONNX = 2**31 - 2**20  # bytes: what one file of this format can hold, less the graph


def export(network: LiftedNetwork, example: Tensor | DenseVoxels, path: str | Path) -> Path:
    """Write a network, in eval mode, as a program that needs neither this package nor timm.

    The program takes what the example is: `grid` [B, C, X, Y, Z], or `grid` and the bool `mask` [B, 1, X, Y, Z] of its
    occupied cells, and gives `logits` [B, classes], of a segmenter [B, classes, X, Y, Z]. The batch is free, the size
    of the grid is the example's, numbers are of the network's own type. A network that was trained on sparse voxels
    gives with the mask what it gave on them, and something else without it. How points become the grid, and the names
    of the classes, go along as far as the network was told (`network.use`), as JSON: the entry `image2point` in the
    metadata of ONNX files, `image2point.json` among the extra files of others.

    Args:
        example: a grid, or `vox.dense(size)`; only its form and size count.
        path: `NAME.onnx` for ONNX, `NAME.pt2` for `torch.export.load`. An existing file is replaced.

    Returns:
        The path.

    Raises:
        InputError: on another suffix or another kind of example, where ONNX's packages are missing, where weights are
            too large for an ONNX file, or where the program cannot be made.

    >>> import tempfile, torch, image2point as i2p
    >>> net = i2p.lift("test_efficientnet", weights="random", num_classes=3)
    >>> voxels = i2p.voxelize([torch.rand(50, 3)], 0.2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export(net, voxels.dense((6, 6, 6)), f"{folder}/net.pt2").name
    'net.pt2'
    """
    path = target_path(path)
    if path.suffix not in (".onnx", ".pt2"):
        raise InputError(f"{path}: expected a name that ends with .onnx (ONNX) or .pt2 (torch.export)")
    if path.suffix == ".onnx":
        _check_onnx(network)
    program, content = _trace(network, example), described(network)
    with writing(path) as temporary:
        if path.suffix == ".onnx":
            _save_onnx(program, temporary, content)
        else:
            with temporary.open("wb") as stream:
                torch.export.save(program, stream, extra_files={f"{METADATA}.json": content})
    logger.info("%s written to %s", network.lifting.network, shown(path))
    return path


class _Program(nn.Module):
    """The network as a function of tensors; the network's children are its own, so that tensors keep their names."""

    def __init__(self, network: LiftedNetwork) -> None:
        super().__init__()
        self._modules.update(network._modules)
        self.__dict__["_run"] = network.forward  # past nn.Module; the network itself would be one more child

    def forward(self, grid: Tensor, mask: Tensor | None = None) -> Tensor:
        # Not by calling it: the children would be known by their place in the network, which is no part of this module.
        scores = self.__dict__["_run"](grid if mask is None else DenseVoxels(grid, mask))
        return scores.grid if isinstance(scores, DenseVoxels) else scores


def _trace(network: LiftedNetwork, example: Tensor | DenseVoxels) -> torch.export.ExportedProgram:
    inputs = _inputs(network, example)
    batch = torch.export.Dim("batch")
    try:
        with modes_kept(network), torch.no_grad():
            network.eval()
            return torch.export.export(
                _Program(network).eval(), inputs, dynamic_shapes=tuple({0: batch} for _ in inputs), strict=False
            )
    except InputError:
        raise
    except Exception as error:  # whatever torch.export raises at what it cannot trace
        reason = one_line(error, 300)
        raise InputError(
            f"torch.export cannot trace {network.lifting.network} ({type(error).__name__}: {reason})"
        ) from error


def _inputs(network: LiftedNetwork, example: Tensor | DenseVoxels) -> tuple[Tensor, ...]:
    """Two clouds of the example's form, as a batch of one would stay one: zeros, every cell occupied."""
    if isinstance(example, DenseVoxels):
        grid = example.grid
    elif isinstance(example, Tensor) and example.ndim == 5:
        grid = example
    else:
        found = f"a tensor {list(example.shape)}" if isinstance(example, Tensor) else type(example).__name__
        raise InputError(
            f"export: expected an example grid [B, C, X, Y, Z], or DenseVoxels as `vox.dense((64, 64, 64))` gives "
            f"them, found {found}"
        )
    parameter = next(network.parameters())
    zeros = parameter.new_zeros(2, *grid.shape[1:])
    if isinstance(example, Tensor):
        return (zeros,)
    return zeros, torch.ones(2, 1, *grid.shape[2:], dtype=torch.bool, device=parameter.device)


def _check_onnx(network: LiftedNetwork) -> None:
    missing = [package for package in _ONNX_PACKAGES if find_spec(package) is None]
    if missing:
        raise InputError(f"ONNX files need {' and '.join(missing)}: pip install 'image2point[export]'")
    size = sum(t.nbytes for t in network.state_dict().values())
    if size > _LARGEST_ONNX:
        raise InputError(
            f"{network.lifting.network} has {size / 2**30:.1f} GiB of weights, and an ONNX file holds 2; write .pt2"
        )
    dtype = next(network.parameters()).dtype
    if dtype == torch.bfloat16:
        raise InputError(
            f"{network.lifting.network} is of bfloat16, which ONNX has no convolutions of; export network.float(), or "
            "write .pt2"
        )
    if dtype == torch.float64:
        logger.warning(
            "%s is of float64: ONNX Runtime has no such convolutions on CPUs; export network.float() to run it there",
            network.lifting.network,
        )


def _save_onnx(program: torch.export.ExportedProgram, path: Path, content: str) -> None:
    names = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    model = torch.onnx.export(program, (), input_names=names, output_names=["logits"], verbose=False, dynamo=True)
    assert model is not None
    model.model.metadata_props[METADATA] = content
    model.save(path, external_data=False)
