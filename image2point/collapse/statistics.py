"""Streaming statistics of labelled features: one pass, float64, exact under merging.

The second-moment shortcut E‖h‖² − ‖E h‖² loses every digit when features sit far from the origin. Here every
batch is measured around its own class means, and batches are joined by the pairwise update of Chan, Golub and
LeVeque ("Updating formulae and a pairwise algorithm for computing sample variances", 1979): for two sets of
n_a and n_b samples whose means differ by δ, the centred second moments add up to
M_a + M_b + δδᵀ n_a n_b / (n_a + n_b). Third and fourth moments move with their mean by the binomial formula.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from image2point import files
from image2point.collapse.inputs import (
    StatisticsError,
    as_float64,
    as_tensor,
    check_labels,
    check_matrix,
    float64_device,
    row_blocks,
)

COVARIANCES = ("none", "pooled", "class")
FORMAT = {"format": "image2point.collapse.Statistics", "version": "1"}


class Statistics:
    """Counts, means, variances and within-class scatter of C classes of d-dimensional features.

    `covariance` says how much of the within-class second moment is kept:

    - "none": the total variance of each class; O(C·d) memory.
    - "pooled": and the scatter Σ(h−μ_c)(h−μ_c)ᵀ summed over all classes; + d². The default: NC1 needs it.
    - "class": the scatter of each class; + C·d². The directional CDNV needs it.

    `moments=4` keeps third and fourth moments of ‖h−μ_c‖ as well, which `moment_bound` needs: + C·d. To be moved from
    one mean to another they need the class covariances.

    The numbers are the same (to rounding) whatever the batching, the order and the number of merged parts.
    Features may be of any floating type and on any device; they are widened to float64 before any arithmetic.

    Attributes (treat as read-only): `count` int64 [C], `mean` [C, d] (zero for a class not seen: see
    `means`), `squares` [C] = Σ‖h−μ_c‖², `scatter` [d, d], [C, d, d] or None, `cubes` [C, d] = Σ‖h−μ_c‖²(h−μ_c) and
    `fourths` [C] = Σ‖h−μ_c‖⁴ or None.
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        covariance: str = "pooled",
        device: str | torch.device = "cpu",
        moments: int = 2,
    ) -> None:
        if num_classes < 1 or dim < 1:
            raise StatisticsError(f"expected num_classes ≥ 1 and dim ≥ 1, found {num_classes} and {dim}")
        if covariance not in COVARIANCES:
            raise StatisticsError(f"covariance: expected one of {', '.join(COVARIANCES)}, found {covariance!r}")
        if moments not in (2, 4) or (moments == 4 and covariance != "class"):
            raise StatisticsError(
                'moments: expected 2, or 4 together with covariance="class"; '
                f"found {moments} with covariance={covariance!r}"
            )
        self.num_classes, self.dim, self.covariance, self.moments = num_classes, dim, covariance, moments
        self.device = float64_device(device)
        self.count = torch.zeros(num_classes, dtype=torch.int64, device=self.device)
        self.mean = self._zeros(num_classes, dim)
        self.squares = self._zeros(num_classes)
        self.scatter: Tensor | None = None
        if covariance != "none":
            self.scatter = self._zeros(*([num_classes] if covariance == "class" else []), dim, dim)
        self.cubes = self._zeros(num_classes, dim) if moments == 4 else None
        self.fourths = self._zeros(num_classes) if moments == 4 else None

    # ---- what was seen -----------------------------------------------------------------------------

    @property
    def means(self) -> Tensor:
        """Class means [C, d]; a row of NaN for a class without samples, whose mean does not exist."""
        return self.mean.masked_fill((self.count == 0)[:, None], torch.nan)

    @property
    def variances(self) -> Tensor:
        """Var_c = E‖h−μ_c‖² [C], the plug-in estimate (1/n_c); NaN for a class of fewer than two samples."""
        return (self.squares / self.count).masked_fill(self.count < 2, torch.nan)

    @property
    def present(self) -> Tensor:
        """Indices of the classes with at least one sample."""
        return (self.count > 0).nonzero()[:, 0]

    @property
    def absent(self) -> Tensor:
        """Indices of the classes without a sample."""
        return (self.count == 0).nonzero()[:, 0]

    @property
    def singletons(self) -> Tensor:
        """Indices of the classes with one sample, which has no variance."""
        return (self.count == 1).nonzero()[:, 0]

    def __repr__(self) -> str:
        return (
            f"Statistics(num_classes={self.num_classes}, dim={self.dim}, covariance={self.covariance!r}, "
            f"samples={int(self.count.sum())}, absent={len(self.absent)})"
        )

    # ---- accumulation ------------------------------------------------------------------------------

    @torch.no_grad()
    def update(self, features: Any, labels: Any) -> Statistics:
        """Add a batch: features [n, d] of any floating type, labels [n] of any integer type; n may be 0.

        Nothing is added if anything in the batch is unusable: a label outside 0..C−1, a NaN or an infinity
        (both errors name the row), a wrong shape or dtype. Returns self.
        """
        features = check_matrix(features, "features", "n", self.dim)
        labels = check_labels(labels, len(features), self.num_classes).to(self.device)
        for start, block in row_blocks(features):
            self._add(as_float64(block, self.device), labels[start : start + len(block)])
        return self

    def _add(self, features: Tensor, labels: Tensor) -> None:
        # Only the classes that occur are touched: the cost of a batch does not grow with C.
        present, member, count = torch.unique(labels, return_inverse=True, return_counts=True)
        mean = self._zeros(len(present), self.dim).index_add_(0, member, features) / count[:, None]
        residuals = features - mean[member]
        norms = residuals.square().sum(1)
        squares = self._zeros(len(present)).index_add_(0, member, norms)

        if self.cubes is not None:
            cubes = self._zeros(len(present), self.dim).index_add_(0, member, norms[:, None] * residuals)
            fourths = self._zeros(len(present)).index_add_(0, member, norms.square())

            def spread(a: Tensor) -> Tensor:
                along = (residuals * a[member]).sum(1, keepdim=True)
                return self._zeros(len(present), self.dim).index_add_(0, member, along * residuals)

            self._join_high(present, (count, mean, squares, cubes, fourths), spread)
        shift = self._join(present, count, mean, squares)
        if self.scatter is not None:
            # The correction δδᵀ n_a n_b / (n_a + n_b) is the outer product of one more row per class.
            rows, classes = torch.cat([residuals, shift]), torch.cat([labels, present])
            if self.covariance == "pooled":
                # With many classes, most rows are zero: a class's only sample in the batch, or its first ever.
                rows = rows[rows.any(1)]
                self.scatter.addmm_(rows.mT, rows)
            else:
                _add_outer_products(self.scatter, rows, classes)

    def _join(self, classes: Tensor, count: Tensor, mean: Tensor, squares: Tensor) -> Tensor:
        """Chan's update of count, mean and squares; returns δ·√(n_a n_b / (n_a + n_b)) [k, d]."""
        before = self.count[classes]
        # A class with no sample on either side stays as it is; the clamp only avoids 0 / 0.
        total = (before + count).clamp(min=1).to(torch.float64)
        delta = mean - self.mean[classes]
        self.count[classes] = before + count
        self.mean[classes] += delta * (count / total)[:, None]
        shift = delta * (before / total * count).sqrt()[:, None]
        self.squares[classes] += squares + shift.square().sum(1)
        return shift

    def _join_high(
        self,
        classes: Tensor,
        theirs: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
        their_spread: Callable[[Tensor], Tensor],
    ) -> None:
        """Add cubes and fourths of other samples of `classes` [k]; before `_join`, since it looks at the old means.

        `theirs` are count, mean, squares, cubes, fourths, `their_spread` is a [k, d] → Σ(h−μ)(h−μ)ᵀa [k, d].
        """
        assert self.scatter is not None and self.cubes is not None and self.fourths is not None
        scatter = self.scatter
        count = self.count[classes]
        total = (count + theirs[0]).clamp(min=1).to(torch.float64)[:, None]
        delta = theirs[1] - self.mean[classes]  # the joint mean lies between the two
        ours = (count, None, self.squares[classes], self.cubes[classes], self.fourths[classes])

        def our_spread(a: Tensor) -> Tensor:
            return torch.stack([scatter[c] @ row for c, row in zip(classes.tolist(), a, strict=True)])

        before = _moved(ours, -delta * theirs[0][:, None] / total, our_spread)
        added = _moved(theirs, delta * count[:, None] / total, their_spread)
        self.cubes[classes], self.fourths[classes] = before[0] + added[0], before[1] + added[1]

    @torch.no_grad()
    def merge(self, other: Statistics) -> Statistics:
        """The statistics of both sets of samples together, on this one's device; neither is changed."""
        for name in ("num_classes", "dim", "covariance", "moments"):
            if getattr(self, name) != getattr(other, name):
                raise StatisticsError(
                    f"cannot merge statistics with {name} {getattr(self, name)!r} and {getattr(other, name)!r}"
                )
        merged = Statistics.from_state(self.state(), self.device)
        theirs = {name: tensor.to(self.device) for name, tensor in other.state().items()}
        everyone = torch.arange(self.num_classes, device=self.device)
        if merged.cubes is not None:
            high = (theirs["count"], theirs["mean"], theirs["squares"], theirs["cubes"], theirs["fourths"])
            merged._join_high(everyone, high, lambda a: (theirs["scatter"] @ a[:, :, None])[:, :, 0])
        shift = merged._join(everyone, theirs["count"], theirs["mean"], theirs["squares"])
        if merged.scatter is not None:
            merged.scatter += theirs["scatter"]
            if self.covariance == "pooled":
                merged.scatter.addmm_(shift.mT, shift)
            else:
                for start, block in row_blocks(shift, self.dim**2):
                    merged.scatter[start : start + len(block)].baddbmm_(block[:, :, None], block[:, None, :])
        return merged

    @torch.no_grad()
    def by_superclass(self, superclass: Any) -> Statistics:
        """The statistics of the same samples under coarser labels: class c counts as `superclass[c]`, [C].

        Exact, as if the samples had been added under those labels; without the moments above the second. CDNV at two
        levels of a hierarchy is `metrics` of both (Luthra, Salunkhe and Galanti 2026). An index that is left out is a
        superclass without samples. StatisticsError where `superclass` is not one index 0, 1, … for each class.

        >>> fine = Statistics(4, 1).update([[0.0], [2.0], [10.0], [12.0]], [0, 1, 2, 3])
        >>> fine.by_superclass([0, 0, 1, 1]).means.flatten().tolist()
        [1.0, 11.0]
        """
        given = as_tensor(superclass, "superclass")
        given = check_labels(given, self.num_classes).to(self.device)
        merged = Statistics(1 + int(given.max()), self.dim, self.covariance, self.device)
        for member in range(self.num_classes):  # by Chan's update, one class at a time
            own, group = slice(member, member + 1), given[member : member + 1]
            shift = merged._join(group, self.count[own], self.mean[own], self.squares[own])
            if merged.scatter is not None:
                between = shift.mT @ shift
                if self.covariance == "pooled":
                    merged.scatter += between
                else:
                    assert self.scatter is not None
                    merged.scatter[group] += self.scatter[member] + between
        if self.covariance == "pooled" and merged.scatter is not None and self.scatter is not None:
            merged.scatter += self.scatter
        return merged

    # ---- storage -----------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """The tensors that say everything, for gathering over processes; shared, not copied."""
        tensors = {"count": self.count, "mean": self.mean, "squares": self.squares}
        optional = {"scatter": self.scatter, "cubes": self.cubes, "fourths": self.fourths}
        return tensors | {name: tensor for name, tensor in optional.items() if tensor is not None}

    @classmethod
    def from_state(cls, state: dict[str, Tensor], device: str | torch.device = "cpu") -> Statistics:
        """Statistics from a copy of what `state` gave; StatisticsError where tensors do not fit together."""
        missing = {"count", "mean", "squares"} - set(state)
        if missing or state["mean"].ndim != 2:
            raise StatisticsError(
                "state: expected tensors count [C], mean [C, d], squares [C], perhaps scatter, cubes, fourths; found "
                + (", ".join(f"{name} {list(tensor.shape)}" for name, tensor in state.items()) or "none")
            )
        ndim = state["scatter"].ndim if "scatter" in state else 0
        covariance = {0: "none", 2: "pooled", 3: "class"}.get(ndim, f"of {ndim} dimensions")
        num_classes, dim = state["mean"].shape
        new = cls(num_classes, dim, covariance, device, 4 if "cubes" in state else 2)
        for name, own in new.state().items():
            if name not in state:
                raise StatisticsError(f"state: {name} is missing beside {', '.join(state)}")
            given = state[name]
            if given.shape != own.shape or given.dtype != own.dtype:
                raise StatisticsError(
                    f"state: expected {name} {list(own.shape)} of {own.dtype}, "
                    f"found {list(given.shape)} of {given.dtype}"
                )
            own.copy_(given)
            if not torch.isfinite(own).all() or (name in ("count", "squares", "fourths") and (own < 0).any()):
                raise StatisticsError(f"state: {name} holds a negative, infinite or NaN value")
        return new

    @classmethod
    def sharing(cls, state: dict[str, Tensor]) -> Statistics:
        """Statistics over the very tensors of a `state`, unchecked: `update` changes them in place."""
        new = cls.__new__(cls)
        new.count, new.mean, new.squares = state["count"], state["mean"], state["squares"]
        new.scatter, new.cubes, new.fourths = state.get("scatter"), state.get("cubes"), state.get("fourths")
        new.moments = 2 if new.cubes is None else 4
        new.num_classes, new.dim = new.mean.shape
        new.covariance = COVARIANCES[0 if new.scatter is None else new.scatter.ndim - 1]
        new.device = new.count.device
        return new

    def save(self, path: str | Path) -> None:
        """Write a safetensors file atomically: `path` holds the old content or the new one, never a part."""
        from safetensors.torch import save

        tensors = {name: tensor.contiguous().cpu() for name, tensor in self.state().items()}
        files.write_bytes(path, save(tensors, metadata=FORMAT))

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> Statistics:
        """Read what `save` wrote."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}) != FORMAT:
                    raise StatisticsError(
                        f"{path}: expected a file written by Statistics.save (metadata {FORMAT}), "
                        f"found metadata {file.metadata()}"
                    )
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (OSError, SafetensorError) as error:
            raise StatisticsError(f"{path}: cannot be read as collapse statistics ({error})") from error
        return cls.from_state(state, device)

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self.device)


def _moved(
    moments: tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor], a: Tensor, spread: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """(Σ‖r+a‖²(r+a), Σ‖r+a‖⁴) per class from the moments of r, where Σr = 0; a [k, d]."""
    count, _, squares, cubes, fourths = moments
    norm = a.square().sum(1)
    across = spread(a)
    moved = cubes + 2 * across + (squares + count * norm)[:, None] * a
    along = 4 * (across * a).sum(1) + 4 * (cubes * a).sum(1) + 2 * norm * squares
    return moved, fourths + along + count * norm.square()


def _add_outer_products(scatter: Tensor, rows: Tensor, classes: Tensor) -> None:
    """scatter[c] += Σ rowᵀrow over the rows [n, d] of class c, by one batched product.

    Rows are sorted by class and cut into pieces of up to g = ⌈n/k⌉ rows, each of one of the k classes that
    occur. However unequal the classes, there are at most 2k pieces: padded to g rows, at most 2(n + k) rows.
    """
    present, member, count = torch.unique(classes, return_inverse=True, return_counts=True)
    size = -(-len(rows) // len(present))
    pieces = (count + size - 1) // size
    order = member.argsort(stable=True)
    member = member[order]
    place = torch.arange(len(rows), device=rows.device) - (count.cumsum(0) - count)[member]
    padded = rows.new_zeros(int(pieces.sum()), size, rows.shape[1])
    padded[(pieces.cumsum(0) - pieces)[member] + place // size, place % size] = rows[order]
    scatter.index_add_(0, present.repeat_interleave(pieces), padded.mT @ padded)
