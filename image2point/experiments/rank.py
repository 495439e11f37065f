"""Which checkpoint should be inflated? Candidates scored on the training clouds, without any fine-tuning.

Each candidate is lifted as a transfer config says. Its features before the classifier are those of a network on its
first step of training: batch norms that follow the batch under the config's policy hold statistics of sparse voxels
(`norms="train"`, one pass over the training clouds), not those that ImageNet left, which fit no voxels and which
training would throw away anyhow. Test clouds play no part.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch

from image2point import config as configuration
from image2point.collapse import StatisticsError, null, transfer_scores
from image2point.collapse.layers import gathered
from image2point.collapse.scores import COLLAPSE, SCORES, SHARES
from image2point.config import Config
from image2point.config.lifting import Ablation
from image2point.errors import InputError
from image2point.experiments.measure import Subject, open_subject
from image2point.finetune import freeze
from image2point.jobs.artefact import begins_elsewhere
from image2point.lifting import LiftedNetwork
from image2point.lifting.observe import body_blocks
from image2point.report.numbers import UNDEFINED, beside_null
from image2point.report.plain import Table
from image2point.roles import read_policy
from image2point.training.batches import batches, shuffled
from image2point.training.recalibration import recalibrate
from image2point.units import ALONE, Crew

NORMS = ("train", "stored")
CONTROLS: tuple[str, ...] = get_args(Ablation)
FEATURES = "features"

Candidates = Mapping[str, Sequence[str]]
"""Name of a candidate → its settings (key=value) over the transfer config."""


@dataclass(frozen=True)
class Ranked:
    """A scored candidate: `scores` by name (bigger is better), over `samples` clouds with features of width `dim`.

    `nulls`: of the measures of collapse among them, mean and deviation with permuted labels, signed as the score.
    `seconds` are those of the whole candidate: reading, lifting, features and scores.
    """

    name: str
    settings: tuple[str, ...]
    scores: dict[str, float]
    nulls: dict[str, tuple[float, float]]
    samples: int
    dim: int
    seconds: float


def from_models(models: Sequence[str], controls: Sequence[str] = ()) -> dict[str, list[str]]:
    """Candidates from texts `ARCH=WEIGHTS,KEY=VALUE,...`, each KEY a setting of the section `network`.

    Without `=WEIGHTS` the weights are those of the config. The name of a candidate is its text.

    Raises:
        InputError: where a text is none of these, or one is given twice.
    """
    found: dict[str, list[str]] = {}
    for text in models:
        first, *rest = text.split(",")
        arch, _, weights = first.partition("=")
        if not arch or not all("=" in each for each in rest):
            raise InputError(
                f"--model {text!r} should be ARCH=WEIGHTS,KEY=VALUE,..., for example "
                "resnet50=file:resnet50.safetensors,stride_in=conv1"
            )
        if text in found:
            raise InputError(f"--model {text} is given twice")
        given = [f"weights={weights}"] if weights else []
        found[text] = [f"network.{each}" for each in (f"arch={arch}", *given, *rest)]
    return with_controls(found, controls)


def with_controls(candidates: Candidates, controls: Sequence[str]) -> dict[str, list[str]]:
    """Each candidate, followed by its controls (`network.control`): what it is worth without what it has learnt."""
    unknown = [name for name in controls if name not in CONTROLS]
    if unknown:
        raise InputError(f"controls: expected some of {', '.join(CONTROLS)}, found {unknown[0]!r}")
    found: dict[str, list[str]] = {}
    for name, settings in candidates.items():
        found[name] = list(settings)
        found |= {f"{name}, {control}": [*settings, f"network.control={control}"] for control in controls}
    return found


def with_ends(path: Path, candidates: Candidates, overrides: Sequence[str] = ()) -> dict[str, list[str]]:
    """Each candidate, followed by its network cut behind each block of the body (`network.until`), but for the last
    where nothing but the classifier follows.

    Raises InputError where the config at `path` is not that of a transfer, and for what was lifted already.
    """
    found: dict[str, list[str]] = {}
    for name, settings in candidates.items():
        weights = configuration.load_config(path, [*overrides, *settings]).network.weights
        if begins_elsewhere(weights):
            raise InputError(
                f"{name}: {weights} is lifted already, and --ends cuts 2D networks; name one, ARCH=WEIGHTS"
            )
        found[name] = list(settings)
        whole = _blank(path, [*overrides, *settings])
        blocks = body_blocks(whole)
        if _body(_blank(path, [*overrides, *settings, f"network.until={blocks[-1]}"])) == _body(whole):
            blocks = blocks[:-1]
        found |= {f"{name}, until {block}": [*settings, f"network.until={block}"] for block in blocks}
    return found


def _blank(path: Path, settings: Sequence[str]) -> LiftedNetwork:
    """The network of a config with random weights, and without what a part of it may not have."""
    plain = ("network.weights=random", "network.axis=z", "network.head=linear")
    network = open_subject(path, [*settings, *plain]).network
    assert isinstance(network, LiftedNetwork)
    return network


def _body(network: LiftedNetwork) -> list[str]:
    """The names of all parameters but those behind global pooling."""
    return [record.name for record in network.lifting.parameters if record.role != "output"]


def rank_candidates(
    path: Path,
    candidates: Candidates,
    overrides: Sequence[str] = (),
    norms: str = "train",
    folds: int = 5,
    crew: Crew = ALONE,
) -> list[Ranked]:
    """Score every candidate over the transfer config at `path`; see `score`. The crew scores one each at a time.

    What is wrong with any candidate's settings is said before the first is scored.
    """
    if not candidates:
        raise InputError("there is nothing to rank: name candidates with --model ARCH=WEIGHTS")
    for settings in candidates.values():
        configuration.load_config(path, [*overrides, *settings])
    planned = [(name, [*overrides, *settings]) for name, settings in candidates.items()]
    return list(scores_of(path, planned, norms, folds, crew))


def scores_of(
    path: Path, planned: Sequence[tuple[str, Sequence[str]]], norms: str, folds: int, crew: Crew
) -> Iterator[Ranked]:
    """`score` for each name and its settings, in order."""
    return crew.results(partial(partial, _score, path, norms, folds), planned)


def _score(path: Path, norms: str, folds: int, planned: tuple[str, Sequence[str]]) -> Ranked:
    try:
        return score(path, *planned, norms, folds)
    except InputError as error:
        name = planned[0]
        raise error if str(error).startswith(name) else InputError(f"{name}: {error}") from None


def score(path: Path, name: str, settings: Sequence[str], norms: str = "train", folds: int = 5) -> Ranked:
    """Score the network that the config at `path` begins with under `settings`.

    Args:
        norms: "train" as above; "stored" leaves the statistics that came with the weights, as `image2point measure`
            does before training, where nothing says how the network will be trained.
        folds: of the cross-validation, see `collapse.transfer_scores`.
    """
    if norms not in NORMS:
        raise InputError(f"norms: expected one of {', '.join(NORMS)}, found {norms!r}")
    began = time.monotonic()
    asked = configuration.load_config(path, settings).network
    open_stem = asked.stem == "auto" and not begins_elsewhere(asked.weights)
    # Behind a fresh stem, random numbers would be scored.
    subject = open_subject(path, [*settings, "network.stem=inflate"] if open_stem else settings)
    if norms == "train":
        settle(subject)
    samples = subject.samples("train")
    features = gathered(subject.source(samples, [FEATURES]))[FEATURES]
    labels = torch.as_tensor(samples.labels)
    try:
        scores = transfer_scores(features, labels, folds)
    except StatisticsError as error:
        raise InputError(f"{name} cannot be scored on {len(samples)} training clouds: {error}") from None
    nulls = {key: (-mean, sd) for key, (mean, sd) in null(features, labels, COLLAPSE).items()}
    return Ranked(name, tuple(settings), scores, nulls, len(samples), features.shape[1], time.monotonic() - began)


def _has(network: LiftedNetwork, block: str) -> bool:
    return any(record.name.startswith(f"{block}.") for record in network.lifting.parameters)


def settle(subject: Subject, policy: str | None = None) -> None:
    """Give the norms that follow the batch under a policy (the config's own unless given) the statistics of the
    training clouds. Where a policy trains a block that is not there, or not chosen yet, those of `io` follow."""
    config, network = subject.config, subject.network
    if not isinstance(config, Config) or not isinstance(network, LiftedNetwork):
        raise InputError(f"{subject.where} should be the config of a transfer, found one of a pre-training")
    policy = policy or config.finetune.policy
    block = read_policy(policy).block
    freeze(
        network, "io" if block == "auto" or (block and config.network.until and not _has(network, block)) else policy
    )
    samples, training, first = subject.samples("train"), config.training, next(network.parameters())
    plan = shuffled(len(samples), training.batch_size, config.seed, epoch=0)
    clouds = batches(samples, plan, subject.recipe, None, training.workers, first.device.type == "cuda")
    with subject.fabric.autocast():
        recalibrate(network, (batch.to(first.device, first.dtype).voxels for batch in clouds))
    network.eval().requires_grad_(False)


def table(found: Sequence[Ranked], by: str = "logme") -> Table:
    """A line for each candidate, the best by one of the scores first; each score with its place in brackets.

    An undefined (NaN) score has no place and comes last.
    """
    lines = []
    for one in sorted(found, key=lambda each: (each.scores[by] != each.scores[by], -each.scores[by])):
        cells = []
        for name in SCORES:
            value = one.scores[name]
            place = 1 + sum(other.scores[name] > value for other in found)
            cells.append(shown(name, value) + (f" ({place})" if value == value else ""))
        lines.append((one.name, *cells, f"{one.seconds:.1f}"))
        nulls = (beside_null(one.scores[key], *one.nulls[key]) if key in one.nulls else "" for key in SCORES)
        lines.append(("  null", *nulls, ""))
    notes = (
        f"Bigger is better: measures of collapse count negatively. In the order of {TITLES[by]}; places in brackets.",
        f"{found[0].samples} training clouds; accuracies by cross-validation within them.",
        "Null: with permuted labels, ± s.d. over permutations, and the score as a share of it. GBC and the H-score "
        "depend on the number of samples too, and compare candidates on the same clouds.",
    )
    return Table(("candidate", *map(headline, SCORES), "seconds"), tuple(lines), notes)


def shown(name: str, value: float) -> str:
    """A score as text, accuracies in per cent."""
    if value != value:
        return UNDEFINED
    return f"{100 * value:.1f}" if name in SHARES else f"{value:.4g}"


def headline(name: str) -> str:
    """What a score is called in tables and figures."""
    return TITLES[name] + (" (%)" if name in SHARES else "")


TITLES = {
    "nc1_trace_ratio": "−tr Σ_W / tr Σ_B",
    "cdnv": "−CDNV",
    "cdnv_directional": "−directional CDNV",
    "logme": "LogME",
    "gbc": "GBC",
    "h_score": "shrunk H-score",
    "ncc": "nearest mean",
    "probe": "linear probe",
}


def to_dict(path: Path, overrides: Sequence[str], norms: str, folds: int, found: Sequence[Ranked]) -> dict[str, Any]:
    """Everything that was found, for JSON."""
    candidates = [asdict(one) for one in found]
    return {"config": str(path), "overrides": list(overrides), "norms": norms, "folds": folds, "candidates": candidates}
