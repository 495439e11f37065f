"""Checks on what callers hand in, and the arithmetic type that everything here is computed in."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from image2point.errors import InputError

# Elements of float64 that one intermediate may hold (32 MiB): longer work is done in blocks of this size.
BLOCK = 2**22

LARGEST = 1e70
"""Of the numbers that are taken: sums of their fourth powers are finite. Only float64 holds larger ones."""


class StatisticsError(InputError):
    """Features, labels, a file or a request that collapse statistics cannot use; the message says why."""


def float64_device(device: str | torch.device) -> torch.device:
    """`device`, if it exists here and holds float64 numbers."""
    try:
        chosen = torch.device(device)
        torch.zeros((), dtype=torch.float64, device=chosen)
    except (TypeError, RuntimeError, AssertionError) as error:
        raise StatisticsError(
            f"collapse statistics are float64, and device {str(device)!r} cannot hold them ({error}); "
            "use device='cpu': the features may stay where they are"
        ) from error
    return chosen


def as_tensor(values: Any, what: str) -> Tensor:
    """A detached tensor of `values` (tensor, array or nested lists; Python floats become float64).

    The unsigned types with which torch does no arithmetic (uint16, uint32, uint64) become int64.
    """
    try:
        given = values.detach() if isinstance(values, Tensor) else torch.as_tensor(np.ascontiguousarray(values))
        return given.long() if given.dtype in (torch.uint16, torch.uint32, torch.uint64) else given
    except (TypeError, ValueError) as error:
        raise StatisticsError(f"{what}: expected a numeric tensor or array, found {error}") from error


def as_float64(values: Tensor, device: torch.device) -> Tensor:
    """`values` on `device` in float64. Moved first: where they are may have no float64."""
    return values.to(device).to(torch.float64)


def check_matrix(values: Any, what: str, rows: str, columns: int) -> Tensor:
    """A floating-point matrix [rows, columns] of finite numbers up to LARGEST, or StatisticsError naming the first bad
    row."""
    matrix = as_tensor(values, what)
    if matrix.ndim != 2 or matrix.shape[1] != columns:
        raise StatisticsError(f"{what}: expected shape [{rows}, {columns}], found {list(matrix.shape)}")
    if not matrix.is_floating_point():
        raise StatisticsError(f"{what}: expected a floating-point dtype, found {matrix.dtype}")
    for start, block in row_blocks(matrix):
        good = torch.isfinite(block)
        if matrix.dtype == torch.float64:
            good &= block.abs() <= LARGEST
        if not good.all():
            row, column = (~good).nonzero()[0].tolist()
            value = block[row, column].item()
            expected = f"numbers up to {LARGEST:g} (scale them)" if math.isfinite(value) else "finite numbers"
            raise StatisticsError(f"{what}: expected {expected}, found {value} in row {start + row}, column {column}")
    return matrix


def check_features(features: Any, what: str = "features") -> Tensor:
    """A finite floating-point matrix [n, d] of any width d, or StatisticsError."""
    given = as_tensor(features, what)
    return check_matrix(given, what, "n", given.shape[-1] if given.ndim else 0)


def check_labelled(features: Any, labels: Any, what: str = "") -> tuple[Tensor, Tensor]:
    """Features [n, d] and labels [n] in 0, 1, …, on the device of the features; `what` (with a blank) names the set."""
    matrix = check_features(features, f"{what}features")
    return matrix, check_labels(as_tensor(labels, f"{what}labels"), len(matrix)).to(matrix.device)


def check_means(means: Any, what: str, device: str | torch.device | None = None) -> tuple[Tensor, Tensor]:
    """(class means [C, d] in float64 on `device`, which classes have one bool [C]); `device` None leaves them in place.

    A row of NaN is a class without samples. StatisticsError where a row is neither that nor finite.
    """
    given = as_tensor(means, what)
    if given.ndim != 2 or not given.is_floating_point():
        raise StatisticsError(
            f"{what}: expected class means [C, d] of a floating type, found {list(given.shape)} of {given.dtype}"
        )
    given = as_float64(given, float64_device(given.device if device is None else device))
    present = ~given.isnan().all(1)
    if not present.any() or not torch.isfinite(given[present]).all():
        raise StatisticsError(
            f"{what}: expected at least one class mean, and each row finite or, for a class without samples, "
            f"wholly NaN; found {int(present.sum())} present of {len(given)}"
        )
    return given, present


def same_means(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two sets of class means [C, d] agree to 1e-9 of the largest number, absent classes included."""
    scale = float(ours.nan_to_num().abs().max())
    return theirs.shape == ours.shape and torch.allclose(
        ours, theirs.to(ours.device), rtol=0.0, atol=1e-9 * scale, equal_nan=True
    )


def check_labels(labels: Any, rows: int, num_classes: int | None = None) -> Tensor:
    """Class indices [rows] in 0..num_classes−1 as int64, or StatisticsError naming the first bad row.

    `num_classes` None takes 0, 1, …
    """
    given = as_tensor(labels, "labels")
    if given.ndim != 1 or len(given) != rows:
        raise StatisticsError(
            f"labels: expected shape [{rows}], one per row of the features, found {list(given.shape)}"
        )
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        raise StatisticsError(f"labels: expected an integer dtype, found {given.dtype}")
    given = given.to(torch.int64)
    if num_classes is None:
        num_classes = 1 + max(0, int(given.max())) if rows else 1
    outside = (given < 0) | (given >= num_classes)
    if outside.any():
        row = int(outside.nonzero()[0])
        raise StatisticsError(
            f"labels: expected 0..{num_classes - 1} for {num_classes} classes, found {int(given[row])} in row {row}"
        )
    return given


def check_seed(seed: int) -> int:
    """A seed of numpy's random numbers, or StatisticsError."""
    if seed < 0:
        raise StatisticsError(f"seed: expected 0 or more, found {seed}")
    return seed


def row_blocks(matrix: Tensor, width: int | None = None) -> list[tuple[int, Tensor]]:
    """Pairs (first row, block of rows) such that rows × `width` (the matrix's own, by default) fits BLOCK."""
    rows = max(1, BLOCK // max(1, matrix.shape[1] if width is None else width))
    return [(start, matrix[start : start + rows]) for start in range(0, len(matrix), rows)]
