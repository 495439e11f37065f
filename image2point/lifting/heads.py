"""Fresh heads: from one feature vector per cloud to class scores.

Whatever the head, in eval mode the scores are linear in the features that `LiftedNetwork.embed` gives:
`scores == features @ weight.T + bias` with `weight, bias = network.linear_classifier()`. NC2 of the classifier, NC3 and
NC4 are measured on that pair.
"""

from __future__ import annotations

from typing import get_args

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from image2point.config.lifting import Head
from image2point.errors import InputError
from image2point.lifting.layers import VectorBatchNorm

HEADS: tuple[str, ...] = get_args(Head)


class BatchNormHead(nn.Linear):
    """A linear layer with batch norm on the class scores, as Image2Point's released code has it.

    Scores of any size, such as those of undivided `repeat` kernels under frozen norms, begin at the scale of one. The
    linear layer has no bias, which the norm would take away. Over several processes the norm counts the clouds of all.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.norm = ScoreNorm(out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))

    def effective(self) -> tuple[Tensor, Tensor]:
        """The linear layer that this is in eval mode: with s = γ / √(running variance + ε), weight s · W and bias
        β − s · running mean."""
        norm = self.norm
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        return scale[:, None] * self.weight, norm.bias - scale * norm.running_mean


class ScoreNorm(VectorBatchNorm):
    """Batch norm of class scores [B, C]. One cloud alone has no variance: in training too, it is normalised by the
    running statistics, which it leaves as they are."""

    def _normalise(self, rows: Tensor) -> Tensor:
        alone = not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)
        if self.training and len(rows) == 1 and alone:
            return self._by_running_statistics(rows)
        return super()._normalise(rows)


class CosineHead(nn.Linear):
    """scale · cos(w_c, h) for the class rows w_c, on features h that are brought to length 1 before (`unit_length`).

    The one scale trains too, from 10 on (Gidaris and Komodakis, CVPR 2018). There is no bias. The rows begin at length
    1, in the directions of a fresh linear head.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.scale = nn.Parameter(torch.empty(1))

    def forward(self, x: Tensor) -> Tensor:
        """Features of length 1 [B, p] → class scores [B, C]."""
        return F.linear(x, self.effective()[0])

    def effective(self) -> tuple[Tensor, None]:
        """The linear layer that this is on features of length 1: scale · w_c / ‖w_c‖, no bias."""
        return self.scale * unit_length(self.weight), None


class FrameHead(CosineHead):
    """scale · m_c · h on features h of length 1, with class rows m_c that never train (`simplex_frame`).

    The scale trains, from 10 on: features behind a ReLU reach a part of each row alone, so that no fixed scale suits
    all networks. The rows are a buffer, which the state dict has under the name of the weight.

    Source: Zhu et al. 2021 (a fixed frame as classifier); Yang et al. 2022, whose features have a fixed length too.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        rows = self.weight.detach()
        del self.weight
        self.register_buffer("weight", rows)

    def effective(self) -> tuple[Tensor, None]:
        """The linear layer that this is on features of length 1: scale · m_c, no bias."""
        return self.scale * self.weight, None


def simplex_frame(classes: int, width: int, draw: torch.Generator) -> Tensor:
    """A simplex equiangular tight frame: rows [classes, width] of length 1, with the cosine −1 / (classes − 1) between
    any two, the smallest that all pairs can have; turned at random.

    Raises:
        InputError: where there are fewer than two classes, or more than width + 1, for which there is none.

    >>> rows = simplex_frame(3, 2, torch.Generator().manual_seed(0))
    >>> (rows @ rows.T).round(decimals=6).tolist()
    [[1.0, -0.5, -0.5], [-0.5, 1.0, -0.5], [-0.5, -0.5, 1.0]]
    """
    if not 2 <= classes <= width + 1:
        raise InputError(
            f"head='etf': a simplex frame of features of width {width} has 2 to {width + 1} rows, one for each class, "
            f"and there are {classes} classes; use head='cosine', whose rows train"
        )
    turned = torch.linalg.qr(torch.randn(width, classes - 1, generator=draw, dtype=torch.float64)).Q
    corners = torch.linalg.qr(torch.eye(classes, dtype=torch.float64)[:, 1:] - 1 / classes).Q
    return unit_length(corners @ turned.T)


def fresh_head(kind: str, width: int, classes: int, draw: torch.Generator, dtype: torch.dtype) -> nn.Linear:
    """A head for features [B, width]: weights normal of standard deviation 0.01, the same numbers for every kind but
    `etf`, whose rows are a frame.

    Raises:
        InputError: as `simplex_frame` does.
    """
    with torch.device("meta"):
        layers = {"linear": nn.Linear, "batchnorm": BatchNormHead, "cosine": CosineHead, "etf": FrameHead}
        head = layers[kind](width, classes).to(dtype)
    head.to_empty(device="cpu")
    with torch.no_grad():
        head.weight.copy_(torch.empty(classes, width).normal_(0.0, 0.01, generator=draw))
        if head.bias is not None:
            head.bias.zero_()
        if isinstance(head, BatchNormHead):
            head.norm.reset_parameters()
        if isinstance(head, FrameHead):
            head.weight.copy_(simplex_frame(classes, width, draw))
        if isinstance(head, CosineHead):
            head.weight.copy_(unit_length(head.weight))
            head.scale.fill_(10.0)
    return head


def effective(layer: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Weight [C, p] and bias [C] (or None) of the linear layer that a head is in eval mode, whatever its mode now."""
    if isinstance(layer, BatchNormHead | CosineHead):
        return layer.effective()
    return layer.weight, layer.bias


def unit_length(rows: Tensor) -> Tensor:
    """Each row brought to length 1; a row of zeros stays."""
    return F.normalize(rows, dim=1)
