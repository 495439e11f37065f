"""Triton's compiler accepts every kernel for a Hopper GPU, and multiplies on its tensor cores; this needs no GPU.

The interpreter that the other tests use checks no types and knows no shared memory. The compiler needs a process in
which the interpreter is off.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

REAL = ("momentum", "eps")
SHARED_MEMORY = 227 * 1024  # bytes that a program may have on an H100 or H200


def test_every_kernel_compiles_for_hopper() -> None:
    pytest.importorskip("triton", reason="triton is not installed (it comes with the extra `test` on Linux)")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    finished = subprocess.run([sys.executable, Path(__file__)], env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert finished.stdout.count("wgmma") == 6


def build(kernel: Any, pointers: dict[str, str | None], constants: dict[str, Any], **options: int) -> Any:
    """Compile for compute capability 9.0, pointers aligned and channels in sixteens, as they nearly always are."""
    import triton
    from triton.backends.compiler import GPUTarget

    constants = constants | {name: None for name, kind in pointers.items() if kind is None}
    constants |= {name: 1 for name in ("GROUPS", "w_out") if name in kernel.arg_names}
    signature, aligned = {}, {}
    for place, name in enumerate(kernel.arg_names):
        signature[name] = (
            "constexpr" if name in constants else pointers.get(name) or ("fp32" if name in REAL else "i32")
        )
        if name in pointers or name.startswith(("C", "w_")):
            aligned[place,] = [["tt.divisibility", 16]]
    source = triton.compiler.ASTSource(
        kernel,
        signature,
        {(kernel.arg_names.index(name),): value for name, value in constants.items()},
        {place: hint for place, hint in aligned.items() if signature[kernel.arg_names[place[0]]] != "constexpr"},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert compiled.metadata.shared <= SHARED_MEMORY, (kernel.__name__, constants, compiled.metadata.shared)
    print(kernel.__name__, constants, "wgmma" if "wgmma" in compiled.asm["ptx"] else "", flush=True)
    return compiled


def main() -> None:
    from image2point.voxels import triton_norm
    from image2point.voxels.conv import triton_depthwise, triton_epilogue, triton_forward, triton_table, triton_weight

    def tail(kind: str) -> dict[str, str | None]:
        return dict.fromkeys(("scale_ptr", "shift_ptr", "residual_ptr"), kind)

    bare: dict[str, str | None] = dict.fromkeys(tail("*fp32"))
    table = dict.fromkeys(("rows_ptr", "count_ptr", "column_ptr", "index_ptr", "members_ptr", "starts_ptr"), "*i32")

    def tile(cut: tuple[int, ...], inputs: int) -> tuple[dict[str, int], dict[str, int]]:
        sides = {"ROWS": cut[0], "OUTPUTS": cut[1], "INPUTS": inputs}
        return sides, {"num_warps": cut[3], "num_stages": cut[4]}

    dot = {"PRECISION": "ieee", "WIDEN": False}
    for kind, depth, parts, activation, precision in (
        ("*bf16", 3, 1, "silu", "ieee"),
        ("*bf16", 1, 2, "identity", "ieee"),
        ("*fp16", 27, 1, "identity", "ieee"),
        ("*fp32", 3, 1, "identity", "tf32"),
        ("*fp32", 1, 1, "relu6", "ieee"),
    ):
        cut = triton_forward._TILES[0]
        sides, options = tile(cut, cut[2] if kind != "*fp32" else cut[2] // 2)
        pointers = {**table, "x_ptr": kind, "w_ptr": kind, "y_ptr": kind if parts == 1 else "*fp32"}
        pointers |= bare if activation == "identity" else tail(kind)
        constants = {**dot, **sides, "DEPTH": depth, "PARTS": parts, "ACTIVATION": activation, "PRECISION": precision}
        build(triton_forward._multiply, pointers, constants, **options)
    for depth in (1, 3):
        cut = triton_weight._TILES[0]
        sides, options = tile(cut, cut[2])
        pointers = {**table, "x_ptr": "*bf16", "gradient_ptr": "*bf16", "partial_ptr": "*fp32"}
        build(triton_weight._weight_gradient, pointers, {**dot, **sides, "DEPTH": depth}, **options)

    channels = {"DEPTH": 3, "MULTIPLIER": 1, "ROWS": 32, "CHANNELS": 64}
    pointers = {**table, "x_ptr": "*bf16", "w_ptr": "*bf16", "y_ptr": "*bf16", **tail("*bf16")}
    build(triton_depthwise._multiply, pointers, {**channels, "ACTIVATION": "hardswish"})
    pointers = {**table, "x_ptr": "*bf16", "gradient_ptr": "*bf16", "partial_ptr": "*fp32"}
    build(triton_depthwise._weight_gradient, pointers, channels)
    pointers = {"partial_ptr": "*fp32", "y_ptr": "*bf16", **tail("*bf16")}
    build(triton_epilogue._sum_parts, pointers, {"PARTS": 4, "ACTIVATION": "relu", "ROWS": 32, "CHANNELS": 128})
    table = dict.fromkeys((*table, "columns_ptr", "reads_ptr", "taps_ptr", "bits_ptr", "order_ptr"), "*i32")
    build(triton_table._rank, {**table, "key_ptr": "*i16"}, {"ROWS": 256})
    build(triton_table._cut, {**table, "order_ptr": "*i64"}, {"ROWS": 64})
    norm(triton_norm)


def norm(kernels: Any) -> None:
    sizes, rows = (
        {"PARTS": 64, "ROWS": 32, "CHANNELS": 64},
        ("x_ptr", "y_ptr", "gradient_ptr", "data_ptr", "residual_ptr"),
    )
    for kind, activation in (("*bf16", "relu"), ("*fp32", "relu6"), ("*fp32", "identity")):
        outside = None if activation == "identity" else "*u8"
        for kernel in (kernels._moments, kernels._normalise, kernels._sums, kernels._gradient):
            names = [name for name in kernel.arg_names if name.endswith("_ptr")]
            pointers: dict[str, str | None] = {name: kind if name in rows else "*fp32" for name in names}
            pointers |= {"tracked_ptr": "*i64"} if "tracked_ptr" in names else {}
            pointers |= {"outside_ptr": outside} if "outside_ptr" in names else {}
            pointers["real_ptr"] = "*i64" if kind == "*bf16" else None
            constants = {**sizes, "ACTIVATION": activation} if kernel is kernels._normalise else sizes
            build(kernel, pointers, constants)


if __name__ == "__main__":
    main()
