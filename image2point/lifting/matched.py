"""Images that match a cloud: what a 2D network must see so that its layers can be compared with the lifted ones.

A cloud matches its projection along the depth axis: a pixel shows the mean feature of the voxels behind it. A sheet
across the depth axis, one voxel thick, then gives the responses of its picture under `repeat`, and a wall along the
depth axis gives them under `mean`. A real surface lies between the two: there `repeat` responds up to K times as
strongly as the image network, and `mean` down to a K-th. A slice of the cloud instead of the projection would match
`center` alone, and be nearly empty.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from image2point.lifting.activations import MaskedImages, evaluating, layer_outputs
from image2point.lifting.completed import Completed
from image2point.lifting.kernels import AXES
from image2point.lifting.network import LiftedNetwork
from image2point.voxels import Sites, VoxelConv, VoxelTensor

MULTIPLE = 32
"""The sides of a projection are multiples of this, so that its strided maps have the cells that voxels have."""
_SIDE = 128


def projection(x: VoxelTensor, axis: str = "z", channels: int = 3, scale: int = 1) -> MaskedImages:
    """Project voxels along an axis: each pixel is the mean over the voxels of its column, empty pixels are zero.

    Rows and columns of the image are the two other axes, in order, as those of a lifted kernel are.

    Args:
        x: voxels with features [N, C].
        channels: channels of the image (see `image_channels`).
        scale: pixels per voxel.

    Returns:
        image [B, channels, H, W] with sides that are multiples of `MULTIPLE`, and the pixels that show a voxel.
    """
    rows, columns = (1 + a for a in range(3) if AXES[a] != axis)
    features = image_channels(x.features, channels)
    place = x.coordinates[:, [0, rows, columns]].long()
    height, width = (int(side) + 1 for side in place[:, 1:].amax(0))
    pixels, pixel = torch.unique((place[:, 0] * height + place[:, 1]) * width + place[:, 2], return_inverse=True)
    mean = features.new_zeros(len(pixels), channels).index_add_(0, pixel, features)
    mean /= torch.bincount(pixel).unsqueeze(1)
    image = features.new_zeros(x.batch_size * height * width, channels)
    image[pixels] = mean
    mask = torch.zeros(len(image), 1, dtype=torch.bool, device=x.device)
    mask[pixels] = True
    return MaskedImages(*(_enlarged(t.view(x.batch_size, height, width, -1), scale) for t in (image, mask)))


def image_channels(features: Tensor, channels: int) -> Tensor:
    """Features [N, C] as the channels of an image [N, channels] to which the 2D stem responds as the 3D stem does to C.

    The inverse of `kernels.adapt_input`: one feature is shown by all channels; otherwise channel j shows the sum of
    the features j, j + channels, ..., times channels / C.
    """
    count = features.shape[1]
    if count == channels:
        return features
    if count == 1:
        return features.expand(-1, channels)
    padded = F.pad(features, (0, -count % channels))
    return padded.unflatten(1, (-1, channels)).sum(1) * (channels / count)


def pixels_per_voxel(image_network: nn.Module, net: LiftedNetwork) -> int:
    """How many pixels a voxel must span for both networks to give maps of one resolution.

    More than 1 where a stem of stride 1 replaced a strided one. Both networks run once on a small input, up to the
    last convolution that they have in common.
    """
    in_2d, in_3d = dict(image_network.named_modules()), dict(net.named_modules())
    convolutions = [name for name in layer_outputs(net) if isinstance(in_3d[name], VoxelConv)]
    shared = [name for name in convolutions if isinstance(in_2d.get(name), nn.Conv2d)]
    if not shared:
        return 1
    found: dict[str, int] = {}

    def see_map(module: nn.Module, inputs: object, output: Tensor) -> None:
        found["pixels"] = _SIDE // output.shape[2]

    def see_voxels(module: nn.Module, inputs: object, output: VoxelTensor) -> None:
        found["voxels"] = output.stride

    handles = [
        in_2d[shared[-1]].register_forward_hook(see_map),
        in_3d[shared[-1]].register_forward_hook(see_voxels),
    ]
    parameter = next(net.parameters())
    point = Sites(torch.zeros(1, 4, dtype=torch.int32, device=parameter.device), 1)
    try:
        with evaluating(image_network), evaluating(net), Completed():
            image_network(parameter.new_zeros(1, image_in_channels(image_network), _SIDE, _SIDE))
            net(VoxelTensor(parameter.new_ones(1, net.lifting.options.in_channels), point))
    finally:
        for handle in handles:
            handle.remove()
    return max(found["pixels"] // found["voxels"], 1)


def image_in_channels(network: nn.Module) -> int:
    """Channels of the images that a 2D network takes."""
    return next(m.in_channels for m in network.modules() if isinstance(m, nn.Conv2d))


def extruded(image: Tensor, axis: str, depth: int) -> Tensor:
    """An image [B, C, H, W] repeated along the depth axis of a grid [B, C, X, Y, Z]."""
    return image.unsqueeze(2 + AXES.index(axis)).repeat_interleave(depth, 2 + AXES.index(axis))


def _enlarged(maps: Tensor, scale: int) -> Tensor:
    """[B, H, W, C] → [B, C, scale · H, scale · W], and zeros on the far sides up to a multiple of MULTIPLE."""
    maps = maps.permute(0, 3, 1, 2).repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    height, width = maps.shape[2:]
    return F.pad(maps, (0, -width % MULTIPLE, 0, -height % MULTIPLE))
