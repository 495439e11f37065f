"""What collapse statistics cost: memory, time per million samples, digits, and share of the forward pass.

    python scripts/benchmark_statistics.py                                # 21,841 classes of 2,048 features
    python scripts/benchmark_statistics.py --forward resnet50 --clouds data/modelnet40_ply_hdf5_2048

The other approach, as existing packages take it, is written out here: two passes in the precision of the features, the
first for the class means, by a product with one-hot labels (or, to be fair to it, by their indices), the second for the
pooled d×d covariance around them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import torch
from torch import Tensor

from image2point import lift
from image2point.benchmarks.clouds import modelnet_voxels
from image2point.collapse import CentreDecisions, Statistics

Batches = Callable[..., Iterator[tuple[Tensor, Tensor]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=21_841)
    parser.add_argument("--dim", type=int, default=2_048)
    parser.add_argument("--samples", type=int, default=20_000, help="timed samples; the report is per million")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--offset", type=float, default=100.0, help="of the features from the origin, for the digits")
    parser.add_argument("--forward", help="a timm network to set the cost against, on random 224-pixel images")
    parser.add_argument("--clouds", type=Path, help="folder of ModelNet40: the network lifted too, on its clouds")
    parser.add_argument("--repeats", type=int, default=5, help="of each forward pass")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"torch {torch.__version__}, {options.threads} threads; {options.classes:,} classes × {options.dim:,} features"
    )

    report_memory(options.classes, options.dim)
    batches = drawn(options.classes, options.dim, options.samples, options.batch, options.offset)
    report_time(options.classes, options.dim, options.samples, batches)
    if options.forward:
        report_forward(options.forward, options.clouds, options.repeats)


def drawn(classes: int, dim: int, samples: int, batch: int, offset: float) -> Batches:
    """Batches of float32 features of unit variance, the same in each pass; made once, a few, and taken in turn."""
    generator = torch.Generator().manual_seed(0)
    kept = [offset + torch.randn(batch, dim, generator=generator) for _ in range(4)]
    labels = torch.randint(0, classes, (samples,), generator=generator)

    def batches(first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for turn, start in enumerate(range(0, samples, batch), first):
            block = labels[start : start + batch]
            yield kept[turn % len(kept)][: len(block)], block

    return batches


def report_memory(classes: int, dim: int) -> None:
    print("\nmemory of the state")
    for covariance in ("none", "pooled"):
        state = Statistics(classes, dim, covariance).state()
        size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
        print(f'  covariance="{covariance}"'.ljust(28) + f"{size / 2**20:12,.1f} MiB")
    print('  covariance="class"'.ljust(28) + f"{(classes * (dim + dim**2 + 2)) * 8 / 2**20:12,.1f} MiB (computed)")


def report_time(classes: int, dim: int, samples: int, batches: Batches) -> None:
    """Processor time, of all threads together: it hardly minds what else the machine does."""
    rows: list[tuple[str, float, float]] = []
    for covariance in ("none", "pooled"):
        S = added(Statistics(classes, dim, covariance), batches)
        variance = float(S.squares.sum() / S.count.sum())
        # The second time every class of the batches has a mean already, as nearly always among a million samples;
        # the features are others, since the same ones would move no mean.
        again = Statistics.from_state(S.state())
        start = time.process_time()
        added(again, lambda: batches(1))
        seconds = time.process_time() - start
        rows.append((f'one pass, float64, covariance="{covariance}"', seconds, variance))
    for how, one_hot in (("one-hot products", True), ("indices", False)):
        start = time.process_time()
        variance = two_passes(classes, dim, batches, one_hot)
        rows.append((f"two passes, float32, d×d, means by {how}", time.process_time() - start, variance))

    truth = exact_variance(S.mean, batches)
    print(f"\nprocessor time for a million samples (from {samples:,}), and the relative error of tr Σ_W")
    for name, seconds, variance in rows:
        print(f"  {name:<52}{seconds / samples * 1e6:10.1f} s   {abs(variance / truth - 1):9.1e}")


def added(S: Statistics, batches: Batches) -> Statistics:
    for features, labels in batches():
        S.update(features, labels)
    return S


def two_passes(classes: int, dim: int, batches: Batches, one_hot: bool) -> float:
    """tr Σ_W by class means in the first pass, then the pooled covariance around them, all in float32."""
    totals, count = torch.zeros(classes, dim), torch.zeros(classes)
    for features, labels in batches():
        if one_hot:
            member = (labels[:, None] == torch.arange(classes)).to(features).mT
            totals += member @ features
            count += member.sum(1)
        else:
            totals.index_add_(0, labels, features)
            count += torch.bincount(labels, minlength=classes)
    means = totals / count.clamp(min=1)[:, None]
    scatter = torch.zeros(dim, dim)
    for features, labels in batches():
        residuals = features - means[labels]
        scatter += residuals.mT @ residuals
    return float(scatter.diagonal().sum() / count.sum())


def exact_variance(means: Tensor, batches: Batches) -> float:
    """Residuals around the final means, in float64."""
    total, count = 0.0, 0
    for features, labels in batches():
        total += float((features.double() - means[labels]).square().sum())
        count += len(labels)
    return total / count


def report_forward(arch: str, clouds: Path | None, repeats: int, batch: int = 32) -> None:
    """What measuring adds to the forward pass that makes the features of a batch; in turn, medians.

    Measuring is what a run does with them: the update of the statistics, and the decisions by the nearest class mean.
    Of images, 1,000 classes are taken, each batch with new ones; of clouds, the 40 of ModelNet40.
    """
    from image2point.networks.timm_import import load_timm

    network = load_timm().create_model(arch, pretrained=False, num_classes=0).eval()
    images = torch.randn(batch, 3, 224, 224)
    print(f"\nshare of the forward pass of {batch} samples, medians of {repeats} in processor time")
    report_share(f"{arch}, images of 224 pixels", lambda: network(images), 1000, repeats)
    if clouds:
        lifted = lift(arch, weights="random", num_classes=40).eval()
        voxels = modelnet_voxels(clouds, batch, 0.05)
        # The plans stay with the sites after the first pass: what is timed is the network alone.
        name = f"{arch} lifted, {len(voxels.features):,} voxels of ModelNet40"
        report_share(name, lambda: lifted.embed(voxels.replace(voxels.features))[0], 40, repeats)


def report_share(name: str, forward: Callable[[], Tensor], classes: int, repeats: int) -> None:
    with torch.inference_mode():
        features = forward()
    # Other features each time, and classes that were seen before: a batch that is repeated moves no mean.
    shape, generator = (len(features), features.shape[1]), torch.Generator().manual_seed(0)
    drawn = [features + features.std() * torch.randn(shape, generator=generator) for _ in range(4)]
    labels = torch.randint(0, classes, (len(features),), generator=generator)
    batch = cycle(drawn)
    kept = {covariance: Statistics(classes, features.shape[1], covariance) for covariance in ("none", "pooled")}
    centres = CentreDecisions(torch.randn(classes, features.shape[1]))

    def run() -> None:
        with torch.inference_mode():
            forward()

    contenders: dict[str, Callable[[], object]] = {"forward": run}
    for covariance, S in kept.items():
        contenders[f'update, covariance="{covariance}"'] = lambda S=S: S.update(next(batch), labels)  # type: ignore[misc]
    contenders["decisions"] = lambda: centres.update(next(batch), labels)
    times = taking_turns(contenders, repeats)
    print(f"  {name}: forward {times['forward'] * 1e3:,.1f} ms")
    for work in list(contenders)[1:]:
        print(f"    {work:<32}{times[work] * 1e3:10.1f} ms   {100 * times[work] / times['forward']:6.2f} %")
    whole = times['update, covariance="pooled"'] + times["decisions"]
    print(f"    {'all that a run measures':<32}{whole * 1e3:10.1f} ms   {100 * whole / times['forward']:6.2f} %")


def taking_turns(contenders: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median processor time of each. A busy machine would lengthen the long forward pass more than short updates."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats + 1):
        for name, work in contenders.items():
            start = time.process_time()
            work()
            if turn:  # the first warms
                times[name].append(time.process_time() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}


if __name__ == "__main__":
    main()
