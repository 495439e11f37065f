"""The transposed convolution of decoders: `ConvTranspose2d`."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from image2point.lifting.kernels import AXES
from image2point.lifting.records import Options
from image2point.lifting.rules.sizes import both, equal
from image2point.lifting.rules.values import Chain, FinerSites, Value, need, on
from image2point.lifting.variance import factor
from image2point.voxels import TiedTransposedConv, TransposedConv


def transposed_convolution(conv: nn.ConvTranspose2d, x: Value, options: Options) -> Chain:
    """Transposed convolution onto the sites of an earlier map of the finer scale (`voxels.TransposedConv`).

    On a grid it gives what the 2D layer gives as far as the finer map reaches, so `output_padding` says nothing new.
    """
    need(x.kind == "voxels" and x.axes == "BCHW", f"a transposed convolution of features laid out as {x.axes}")
    assert not isinstance(conv.padding, str)
    size, padding = both(conv.kernel_size), both(conv.padding)
    stride, dilation = equal(conv.stride, "stride"), equal(conv.dilation, "dilation")
    for p, k in zip(padding, size, strict=True):
        need(p <= dilation * (k - 1), f"padding {p} beyond a kernel of size {k}")
    need(
        x.stride % stride == 0,
        f"a transposed convolution of stride {stride} at stride {x.stride}: it would be finer than the voxels",
    )
    narrow = 0 if size[0] <= size[1] else 1
    paddings = list(padding)
    paddings.insert(AXES.index(options.axis), padding[narrow])
    kernel = conv.weight.detach()
    rule = "repeat" if options.rule == "tied" else options.rule
    need(rule != "rotate" or (size[0] == size[1] and padding[0] == padding[1]), f"kernel size {size} under rotate")
    lifted = inflate_transposed(kernel, rule, options.depth_axis, stride, padding[narrow], dilation)
    # An output reads one tap in `stride` along each axis, the depth too.
    scale = factor(kernel, lifted, size[narrow] / stride if rule == "repeat" else 1, options.variance)
    if options.variance == "occupancy":
        scale *= stride**0.5
    tied = options.rule == "tied"
    with torch.device("meta"):
        layer = (TiedTransposedConv if tied else TransposedConv)(
            conv.in_channels,
            conv.out_channels,
            (lifted.shape[2], lifted.shape[3], lifted.shape[4]),
            stride=stride,
            padding=(paddings[0], paddings[1], paddings[2]),
            dilation=dilation,
            groups=conv.groups,
            bias=conv.bias is not None,
            axis=options.depth_axis,
            depth_padding=options.depth_padding,
            engine=options.engine,
        )
    layer.weight = nn.Parameter((kernel if tied else lifted) * scale)
    if conv.bias is not None:
        layer.bias = nn.Parameter(conv.bias.detach().clone())
    chain = on(x, layer, stride=1)
    finer = x.stride // stride
    return replace(chain, result=replace(chain.result, stride=finer), others=(FinerSites(finer),) if stride > 1 else ())


def inflate_transposed(kernel: Tensor, rule: str, axis: str, stride: int, padding: int, dilation: int) -> Tensor:
    """Fill the depth of a transposed 3D kernel from a 2D kernel, as `kernels.inflate` does for an ordinary one.

    Along the depth, output o gets tap k of the input slice (o + padding − k · dilation) / stride where that is whole:
    one tap in `stride`, by its phase. "repeat" is undivided; "mean" divides each slice by the number of taps of its
    phase, so that an input constant along depth gives the 2D response; "center" keeps the slices `padding` …
    `padding + stride − 1`, through which each output slice gets what its parent ⌊o / stride⌋ gives in 2D; "rotate" is
    the mean of the "center" kernel and its two turns.

    Args:
        kernel: [C_in, C_out / groups, K1, K2].

    Returns:
        [C_in, C_out / groups, Kx, Ky, Kz].

    >>> kernel = torch.ones(1, 1, 4, 4)
    >>> inflate_transposed(kernel, "mean", "z", stride=2, padding=1, dilation=1)[0, 0, 0, 0]
    tensor([0.5000, 0.5000, 0.5000, 0.5000])
    >>> inflate_transposed(kernel, "center", "z", stride=2, padding=1, dilation=1)[0, 0, 0, 0]
    tensor([0., 1., 1., 0.])
    """
    size = min(kernel.shape[2:])
    phases = torch.arange(size) * dilation % stride
    counts = torch.bincount(phases, minlength=stride)
    need(bool(counts.all()), f"a transposed convolution of stride {stride} that leaves gaps (kernel size {size})")
    if rule == "rotate":
        flipped = kernel.transpose(2, 3)
        turns = {"x": kernel, "y": flipped, "z": kernel} if axis != "y" else {"x": flipped, "y": kernel, "z": flipped}
        planes = [inflate_transposed(w, "center", a, stride, padding, dilation) for a, w in turns.items()]
        return (planes[0] + planes[1] + planes[2]) / 3
    profile = torch.ones(size, dtype=torch.float64)
    if rule == "mean":
        profile /= counts[phases]
    elif rule == "center":
        at = torch.arange(size) * dilation - padding
        profile *= (at >= 0) & (at < stride)
        need(int(profile.sum()) == stride, f"padding {padding} of a transposed convolution under {rule}")
    shape = [1, 1, 1, 1, 1]
    depth = 2 + AXES.index(axis)
    shape[depth] = size
    return kernel.unsqueeze(depth) * profile.to(kernel).view(shape)
