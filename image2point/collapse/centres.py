"""The second pass: which class mean is nearest to each feature, and does the network agree."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from image2point.collapse.inputs import (
    StatisticsError,
    as_float64,
    as_tensor,
    check_labels,
    check_matrix,
    check_means,
    row_blocks,
    same_means,
)

# Squared distances that agree to this share of (‖h−g‖ + max‖μ−g‖)² are a tie: else rounding would decide.
TIE = 1e-12

COUNTS = ("samples", "correct", "without_centre", "singletons", "compared", "disagreed", "chose_absent")


class CentreDecisions:
    """Nearest-class-centre decisions on features, given the class means of the training set.

    `centres` [C, d] are usually `Statistics.means` of the training features; a row of NaN is a class without
    a mean, which is never chosen. Samples of such a class count as errors of NCC, and `without_centre` says
    how many there were. NC4 compares with the network's choice among the classes that have a mean: where it
    prefers another, `chose_absent` counts that.

    `count` [C] is the number of samples behind each centre, for use with those very samples: a class of one sample
    is its own centre, so that its sample tells nothing. `singletons` counts them, and NCC leaves them out.

    Ties go to the lowest class index: among centres whose squared distances agree to 1e-12 of
    (‖h−g‖ + max‖μ−g‖)², g the mean of the centres, and among logits that are equal. So the decision does not
    hang on how a sum was rounded, nor on the batch that a sample came in.

    Source: NC4 of Papyan, Han and Donoho 2020; NCC of Galanti, György and Hutter 2022.
    """

    def __init__(self, centres: Any, device: str | torch.device | None = None, count: Any = None) -> None:
        self.centres, present = check_means(centres, "centres", device)
        self.device = self.centres.device
        self._present = present.nonzero()[:, 0]
        means = self.centres[present]
        self._origin = means.mean(0)
        self._means = means - self._origin
        self._norms = self._means.square().sum(1)
        self._counts = dict.fromkeys(COUNTS, 0)
        self._single = torch.zeros(len(self.centres), dtype=torch.bool, device=self.device)
        if count is not None:
            self._single |= as_tensor(count, "count").to(self.device) == 1

    @torch.no_grad()
    def nearest(self, features: Any) -> Tensor:
        """Index of the nearest centre, int64 [n], for features [n, d]."""
        return self._nearest(check_matrix(features, "features", "n", self.centres.shape[1]))

    def _nearest(self, features: Tensor) -> Tensor:
        chosen = torch.empty(len(features), dtype=torch.int64, device=self.device)
        width = max(self.centres.shape)
        for start, block in row_blocks(features, width):
            h = as_float64(block, self.device) - self._origin
            # ‖h−μ‖² without ‖h‖², which no comparison needs; centred, so that little cancels.
            scores = self._norms - 2 * h @ self._means.mT
            slack = TIE * (h.norm(dim=1, keepdim=True) + self._norms.max().sqrt()).square()
            tied = scores <= scores.min(1, keepdim=True).values + slack
            chosen[start : start + len(block)] = self._present[tied.to(torch.uint8).argmax(1)]
        return chosen

    @torch.no_grad()
    def update(self, features: Any, labels: Any, logits: Any = None) -> CentreDecisions:
        """Add features [n, d] with labels [n] and, for NC4, the network's logits [n, C] (bias included).

        Where the head ends in a norm of the logits, these are the logits after it. Returns self.
        """
        classes = len(self.centres)
        features = check_matrix(features, "features", "n", self.centres.shape[1])
        labels = check_labels(labels, len(features), classes).to(self.device)
        if logits is not None:
            logits = check_matrix(logits, "logits", "n", classes)
            if len(logits) != len(features):
                raise StatisticsError(f"logits: expected {len(features)} rows, found {len(logits)}")
        chosen = self._nearest(features)
        known, single = torch.isin(labels, self._present), self._single[labels]
        self._counts["samples"] += int((~single).sum())
        self._counts["correct"] += int((chosen == labels)[~single].sum())
        self._counts["without_centre"] += int((~known).sum())
        self._counts["singletons"] += int(single.sum())
        if logits is not None:
            among = self._present.to(logits.device)
            own = among[logits[:, among].argmax(1)]
            self._counts["compared"] += len(labels)
            self._counts["disagreed"] += int((own.to(self.device) != chosen).sum())
            self._counts["chose_absent"] += int((own != logits.argmax(1)).sum())
        return self

    @property
    def counts(self) -> dict[str, int]:
        """`COUNTS` by name: of NCC samples, correct, without_centre (label of a class without a mean) and singletons
        (left out); of NC4 compared, disagreed and chose_absent."""
        return dict(self._counts)

    @property
    def ncc_accuracy(self) -> float:
        """Share of samples whose nearest centre is their own class's; NaN where only samples that are centres came."""
        if self._counts["samples"] == 0 and self._counts["singletons"]:
            return math.nan
        return self._share("correct", "samples", "no sample was given: call update first")

    @property
    def nc4(self) -> float:
        """NC4: share of samples where the network's choice, among classes with a centre, is not the nearest centre."""
        return self._share("disagreed", "compared", "nc4 needs update(features, labels, logits=...)")

    def _share(self, part: str, whole: str, otherwise: str) -> float:
        if self._counts[whole] == 0:
            raise StatisticsError(otherwise)
        return self._counts[part] / self._counts[whole]

    def merge(self, other: CentreDecisions) -> CentreDecisions:
        """The decisions of both together; StatisticsError unless both used the same centres (to 1e-9)."""
        if not same_means(self.centres, other.centres):
            raise StatisticsError("cannot merge decisions that were made with different centres")
        merged = CentreDecisions(self.centres)
        merged._single = self._single | other._single.to(self.device)
        merged._counts = {name: self._counts[name] + other._counts[name] for name in COUNTS}
        return merged

    def state(self) -> dict[str, Tensor]:
        """`centres` [C, d], `counts` int64 [7] (in the order of COUNTS) and `single` bool [C] (classes whose centre is
        a single sample), for gathering over processes."""
        counts = torch.tensor([self._counts[name] for name in COUNTS])
        return {"centres": self.centres, "counts": counts, "single": self._single}

    @classmethod
    def from_state(cls, state: dict[str, Tensor], device: str | torch.device | None = None) -> CentreDecisions:
        """Decisions from what `state` gave; counts summed over processes are as good. Without `single` (as earlier
        versions wrote it), no centre is that of a single sample."""
        if set(state) - {"single"} != {"centres", "counts"} or state["counts"].shape != (len(COUNTS),):
            raise StatisticsError(
                f"state: expected centres [C, d], counts [{len(COUNTS)}] and, if need be, single [C], found "
                + (", ".join(f"{name} {list(tensor.shape)}" for name, tensor in state.items()) or "none")
            )
        new = cls(state["centres"], device)
        if "single" in state:
            if state["single"].shape != new._single.shape:
                raise StatisticsError(
                    f"state: expected single {list(new._single.shape)}, found {list(state['single'].shape)}"
                )
            new._single |= state["single"].to(new.device).bool()
        new._counts = dict(zip(COUNTS, state["counts"].tolist(), strict=True))
        return new
