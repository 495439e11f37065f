"""Every setting of the optimiser, exactly: runs that train the last layer alone against the formulas, written out.

Under the policy `head` the features are constants, so that a run is logistic regression on them, in double precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import PLACES, rows, run_transfer, separable
from torch import Tensor

import image2point as i2p
from image2point.datasets.cloud import Cloud
from image2point.datasets.transforms import Augmentation, augment, rng_for

SEED, CLOUDS, BATCH, EPOCHS, STEPS = 5, 18, 7, 3, 3  # batches of 6
SETTINGS = (
    "finetune.policy=head", "training.precision=64", "data.validation=0", "data.augmentation=null", f"seed={SEED}",
    f"training.epochs={EPOCHS}", f"training.batch_size={BATCH}", "training.schedule=constant", "training.momentum=0",
    "training.weight_decay=0", "collapse.every=0", "collapse.final=[]", "training.lr=0.4",
)  # fmt: skip


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that did not train, beside its data."""
    folder = tmp_path_factory.mktemp("steps")
    return run_transfer(separable(folder / "data", *SETTINGS, "training.epochs=0"), folder).path


def features(start: Path, clouds: list[np.ndarray]) -> Tensor:
    with torch.no_grad():
        return i2p.load(start).embed(i2p.voxelize(clouds, 0.3).double())[0]


def training_clouds(start: Path) -> list[np.ndarray]:
    return [np.load(start.parent / f"data/train/{name}/{number}.npy") for name in PLACES for number in range(6)]


def by_hand(
    start: Path,
    step: Callable[[list[Tensor], list[Tensor], int], None],
    smoothing: float = 0.0,
    clip: float = math.inf,
    seen: Callable[[int, np.ndarray], Tensor] | None = None,
) -> tuple[list[Tensor], list[tuple[float, float]]]:
    """Weight and bias after all steps, and (loss, accuracy) of each epoch, seen as training went on.

    step: changes (weight, bias) by their gradients at step number k. seen: features of clouds in an epoch.
    """
    stored = load_file(start / "weights.safetensors")
    values = [stored["fc.weight"], stored["fc.bias"]]
    fixed, labels = features(start, training_clouds(start)), torch.arange(CLOUDS) // 6
    said, k = [], 0
    for epoch in range(1, EPOCHS + 1):
        loss = hits = 0.0
        for batch in np.array_split(np.random.default_rng((SEED, epoch)).permutation(CLOUDS), STEPS):
            x = fixed[batch] if seen is None else seen(epoch, batch)
            logits = x @ values[0].T + values[1]
            wanted = torch.full((len(batch), 3), smoothing / 3, dtype=torch.float64)
            wanted[torch.arange(len(batch)), labels[batch]] += 1 - smoothing
            loss -= float((wanted * (logits - logits.logsumexp(1, keepdim=True))).sum())
            hits += float((logits.argmax(1) == labels[batch]).sum())
            error = (logits.softmax(1) - wanted) / len(batch)
            gradients = [error.T @ x, error.sum(0)]
            length = math.sqrt(sum(float(g.square().sum()) for g in gradients))
            step(values, [g * min(1.0, clip / (length + 1e-6)) for g in gradients], k)
            k += 1
        said.append((loss / CLOUDS, hits / CLOUDS))
    return values, said


def sgd(lr: Callable[[int], float], momentum: float = 0.0, nesterov: bool = False, decay: float = 0.0):  # type: ignore[no-untyped-def]
    velocity: list[Tensor] = []

    def step(values: list[Tensor], gradients: list[Tensor], k: int) -> None:
        gradients = [g + decay * v for g, v in zip(gradients, values, strict=True)]
        velocity[:] = [momentum * v + g for v, g in zip(velocity, gradients, strict=True)] if velocity else gradients
        for i, g in enumerate(gradients):
            values[i] = values[i] - lr(k) * (g + momentum * velocity[i] if nesterov else velocity[i])

    return step


def adamw(lr: float, first: float, decay: float):  # type: ignore[no-untyped-def]
    means, squares = [torch.zeros(())] * 2, [torch.zeros(())] * 2

    def step(values: list[Tensor], gradients: list[Tensor], k: int) -> None:
        for i, g in enumerate(gradients):
            means[i], squares[i] = first * means[i] + (1 - first) * g, 0.999 * squares[i] + 0.001 * g.square()
            mean, square = means[i] / (1 - first ** (k + 1)), squares[i] / (1 - 0.999 ** (k + 1))
            values[i] = values[i] * (1 - lr * decay) - lr * mean / (square.sqrt() + 1e-8)

    return step


def constant(k: int) -> float:
    return 0.4


def cosine_by_iteration(k: int) -> float:
    """1.5 epochs of warm-up are 4.5 steps; then a half cosine over the other 4.5."""
    return min(0.4, 0.4 * (k + 1) / 4.5) if k < 4.5 else 0.2 * (1 + math.cos(math.pi * (k - 4.5) / 4.5))


def cosine_by_epoch(k: int) -> float:
    """The first epoch is the warm-up, and ends at the peak; the second begins the cosine."""
    return (0.4, 0.4, 0.2 * (1 + math.cos(math.pi / 2)))[k // STEPS]


CASES = {
    "plain": ((), sgd(constant), {}),
    "momentum and decay": (("momentum=0.8", "weight_decay=0.1"), sgd(constant, 0.8, decay=0.1), {}),
    "nesterov": (("momentum=0.8", "nesterov=true"), sgd(constant, 0.8, nesterov=True), {}),
    "adamw": (("optimizer=adamw", "lr=0.05", "momentum=0.7", "weight_decay=0.3"), adamw(0.05, 0.7, 0.3), {}),
    "smoothing": (("label_smoothing=0.3",), sgd(constant), {"smoothing": 0.3}),
    "clip": (("gradient_clip=0.02",), sgd(constant), {"clip": 0.02}),
    "cosine by iteration": (("schedule=cosine", "warmup_epochs=1.5"), sgd(cosine_by_iteration), {}),
    "cosine by epoch": (("schedule=cosine", "warmup_epochs=1", "step_per=epoch"), sgd(cosine_by_epoch), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_takes_exactly_these_steps(start: Path, case: str) -> None:
    settings, step, options = CASES[case]
    overrides = [f"name={case.replace(' ', '_')}", *(f"training.{text}" for text in settings)]
    compare(start, overrides, *by_hand(start, step, **options))


def test_augmented_clouds_follow_from_seed_epoch_and_number(start: Path) -> None:
    clouds = training_clouds(start)
    changes = Augmentation(points=40, rotate="z", scale=(0.8, 1.2), scale_probability=0.5, shift=0.1,
                           shift_probability=1.0, jitter=0.02, jitter_probability=0.5)  # fmt: skip

    def seen(epoch: int, batch: np.ndarray) -> Tensor:
        return features(start, [augment(Cloud(clouds[i]), changes, rng_for(SEED, epoch, int(i))).points for i in batch])

    overrides = [
        "name=augmented", "data.points=40", "data.augmentation.rotate=z", "data.augmentation.scale=[0.8, 1.2]",
        "data.augmentation.scale_probability=0.5", "data.augmentation.shift=0.1",
        "data.augmentation.shift_probability=1", "data.augmentation.jitter=0.02",
        "data.augmentation.jitter_probability=0.5",
    ]  # fmt: skip
    compare(start, overrides, *by_hand(start, sgd(constant), seen=seen))


def compare(start: Path, overrides: list[str], values: list[Tensor], said: list[tuple[float, float]]) -> None:
    run = run_transfer(separable(start.parent / "data", *SETTINGS, *overrides), start.parent).path
    stored, before = load_file(run / "weights.safetensors"), load_file(start / "weights.safetensors")
    moved = {name for name in stored if not torch.equal(stored[name], before[name])}
    assert moved == {"fc.weight", "fc.bias"}
    for name, value in zip(("fc.weight", "fc.bias"), values, strict=True):
        torch.testing.assert_close(stored[name], value, rtol=1e-9, atol=1e-12)
    table = rows(run)[1:]
    assert [(float(row["train_loss"]), float(row["train_accuracy"])) for row in table] == [
        (pytest.approx(loss, rel=1e-9), pytest.approx(accuracy)) for loss, accuracy in said
    ]
    assert len({accuracy for _, accuracy in said}) > 1  # or a wrong accuracy could go unnoticed
