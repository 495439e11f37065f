"""A saved network, made again: of a folder, of a run directory, or from the hub; and one that begins as another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from image2point import config as configuration
from image2point import runs
from image2point.config.inputs import Input
from image2point.datasets.arrays import read_arrays
from image2point.datasets.features import feature_width
from image2point.datasets.registry import is_centred
from image2point.decoders import segmenter, site_head
from image2point.errors import InputError, one_line
from image2point.finetune import add_parameters, freeze_as_it_is
from image2point.inference.usage import Usage, usage_of
from image2point.lifting import LiftedNetwork, Lifting, Options, lift
from image2point.lifting.additions import as_folded
from image2point.lifting.artefact import CONTENT, Facts, lifting_of, read, read_tensors
from image2point.lifting.heads import fresh_head
from image2point.lifting.hub import fetch
from image2point.lifting.kernels import generator
from image2point.lifting.layers import SiteLinear
from image2point.lifting.settings import changing
from image2point.lifting.skip import add_skip
from image2point.networks.timm_networks import has_architecture
from image2point.objects import url_of
from image2point.storage import fetched
from image2point.tasks.registry import TASKS

if TYPE_CHECKING:
    from image2point.config import Config
    from image2point.runs import Run

HUB = "hf:"


def load(source: str | Path, network: nn.Module | None = None) -> LiftedNetwork:
    """A network that was saved, or that of a finished run with its chosen weights; in eval mode, on the CPU.

    It is frozen as its last policy froze it: the same parameters train, and after `net.train()` the same norms follow
    the batch. `freeze` with another policy changes that. What somebody froze without a policy trains again.

    Args:
        source: a folder that `net.save` wrote, a run directory, the URL of either (s3://..., gs://..., hf://...), or
            `hf:OWNER/NAME[@REVISION]` on the Hugging Face hub. Neither 2D weights nor data are needed.
        network: the 2D module, with any weights, where the network was lifted from one and not from a name of timm's.

    Raises:
        InputError: where there is no such network, it is damaged, or the module does not fit.

    >>> net = load("tests/runs/before_tasks")
    >>> net.lifting.network, net.lifting.options.num_classes
    ('test_efficientnet', 3)
    """
    home = home_of(source)
    if not (home / CONTENT).exists():
        return _of_run(runs.open_run(source))
    artefact, tensors = read(home)
    made = filled(again(artefact.lifting, network), tensors, str(home))
    made._lifting, made._usage, made._facts = artefact.lifting, artefact.usage, artefact.facts
    if artefact.facts.policy is not None:
        try:
            freeze_as_it_is(made, artefact.facts.policy)
        except InputError as error:
            raise InputError(f"{home / CONTENT}, under policy: {error}") from None
    return made


def home_of(source: str | Path) -> Path:
    """Where what `load` takes lies on this machine; what is on the hub or at a URL is fetched."""
    on_hub = str(source).startswith(HUB) and not url_of(source)
    return fetch(str(source).removeprefix(HUB)) if on_hub else fetched(source)


def again(lifting: Lifting, network: nn.Module | None = None) -> LiftedNetwork:
    """A network of the same layers as the one whose record this is, with random weights.

    Raises InputError where it was lifted from a given module and that is not given, and for options that do not go
    together.
    """
    if network is None and (lifting.weights.source == "module" or not has_architecture(lifting.network)):
        raise InputError(
            f"{lifting.network} was lifted from a module and not from a name of timm's; give that 2D module too, with "
            "any weights: load(..., network=MyNetwork())"
        )
    options: dict[str, Any] = {each.name: getattr(lifting.options, each.name) for each in fields(Options)}
    options |= {"weights": "random", "variance": "none", "control": "none"}
    make: Callable[..., LiftedNetwork] = lift
    if lifting.decoder:
        make = segmenter
        options |= {"decoder": lifting.decoder, "width": lifting.decoder_width or 1.0}
    try:
        made = make(lifting.network if network is None else network, **options)
    except (RuntimeError, MemoryError) as error:  # a stranger's numbers may ask for any memory
        raise InputError(f"the network that was recorded cannot be made: {one_line(error, 300)}") from None
    with changing(made):
        as_folded(made, lifting)
    for addition, block in lifting.additions:
        made._add(addition, block)
    return add_skip(made, lifting.skip) if lifting.skip else made


def filled(network: LiftedNetwork, tensors: dict[str, Tensor], where: str) -> LiftedNetwork:
    """The network with these tensors and of their number type, in eval mode.

    Raises InputError, which begins with `where`, where they do not fit.
    """
    kinds = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if len(kinds) == 1:
        network.to(kinds.pop())
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{where}: the weights do not fit the network: {one_line(error, 300)}") from None
    return network.eval()


def _of_run(run: Run) -> LiftedNetwork:
    from image2point.jobs.block_choice import resolved

    classes, summary = run.read_classes(), run.read_summary()
    config = configuration.load_config(run.config)
    lifting, policy = recorded(run), resolved(config, run)
    tensors, digest = read_tensors(run.weights)
    network = again(lifting)
    add_parameters(network, policy)  # earlier versions kept no skip in the record
    filled(network, tensors, f"{run.weights} and {run.lifting}")
    network._lifting = replace(lifting, skip=network.lifting.skip)
    freeze_as_it_is(network, policy)
    final = summary.get("final")
    told = final.items() if isinstance(final, dict) else ()
    scores = {name: value for name, value in told if isinstance(value, float) and isfinite(value)}
    network._usage, network._facts = usage_of_run(config, classes, run), Facts(scores, None, policy, digest)
    return network


def recorded(run: Run) -> Lifting:
    """The record of a run's lifting. Raises InputError where it is damaged."""
    return lifting_of(run.read_lifting(), str(run.lifting))


def usage_of_run(config: Config, classes: tuple[str, ...], run: Run) -> Usage:
    """How the network of a run is used on clouds that are like the ones of its data."""
    scenes, names = TASKS[config.task].of_points, Input.model_fields
    given = {name: getattr(config.data, name) for name in names}
    return usage_of(
        {
            **given,
            "points": None if scenes else config.data.points,
            "classes": classes,
            "normalise": not scenes and normalises(config, run),
            "near_origin": scenes and not centred(config, run),
            "tiles": config.data.tiles,
        }
    )


def centred(config: Config, run: Run) -> bool:
    """Whether the scenes of a run lie around their sensor, and not near their smallest coordinates.

    Of prepared data the summary says it, by the dataset that they were made of; of runs from before it did, the stored
    test scenes: they are as the network saw them, and the smallest coordinates of those near the origin are 0 or above,
    but for rounding.
    """
    if config.data.name != "prepared":
        return is_centred(config.data.name)
    data = run.read_summary().get("data") if run.finished else None
    if isinstance(data, dict) and isinstance(data.get("centred"), bool):
        return bool(data["centred"])
    if not run.examples.is_file():
        return False
    points = read_arrays(run.examples, ("points",)).get("points")
    return points is not None and bool(points.size) and float(points.min()) < -0.5


def normalises(config: Config, run: Run) -> bool:
    """Whether the clouds of a run were moved and scaled into the unit sphere.

    What `data.normalise` leaves open the summary says, of data that were prepared as they are or normalised; else the
    stored test clouds say it: they are as the network saw them. A run without any is taken to have normalised, as
    datasets of whole clouds do. Synthetic shapes are made to fill the unit sphere, but for up to a seventh; whoever
    gives them again as they were passes `normalise=False`.
    """
    if config.data.normalise is not None:
        return config.data.normalise
    data = run.read_summary().get("data") if run.finished else None
    if isinstance(data, dict) and isinstance(data.get("normalised"), bool):
        return bool(data["normalised"])
    if not run.examples.is_file():
        return True
    points = read_arrays(run.examples, ("points",)).get("points")
    if points is None or points.ndim != 3 or not points.size:
        return True
    return 0.5 < float(np.linalg.norm(points, axis=2).max()) < 1.01  # thinned clouds may lack their farthest point


# ---------------------------------------------------------------------------------------------------- second transfers


def begins_elsewhere(weights: str) -> bool:
    """Whether `network.weights` names a lifted network to begin with: `run:PATH` or `hf:OWNER/NAME`."""
    return weights.startswith(("run:", HUB))


def continued(config: Config, classes: int) -> LiftedNetwork:
    """The lifted network that `network.weights` names, with a fresh last layer, and a fresh decoder where it has none
    and the task needs one.

    Raises InputError as `load` does, where the config says another lifting or other input features than that network
    has, and where it scores points and the task asks for clouds.
    """
    settings, source = config.network, config.network.weights
    start = load(source.removeprefix("run:"))
    before, scenes = start.lifting, TASKS[config.task].of_points
    _check_same(config, before, source)
    if before.decoder and not scenes:
        raise InputError(f"{source} scores points, and has nothing that scores a cloud; set task=segmentation")
    digest = (start._facts or Facts()).sha256
    start._lifting = replace(
        before,
        start=f"{source}{f' (sha256 {digest[:12]})' if digest else ''}",
        parameters=tuple(replace(r, origin="trained") if r.origin == "fresh" else r for r in before.parameters),
        buffers=tuple(replace(r, origin="trained") if r.origin == "fresh" else r for r in before.buffers),
    )
    if scenes and not before.decoder:
        return segmenter(start, classes, settings.decoder or "light", settings.decoder_width or 1.0)
    return _new_head(start, classes, config.seed)


def _check_same(config: Config, lifting: Lifting, source: str) -> None:
    """InputError where the config says another lifting than the network had, with what to set."""
    wanted = config.network.lift_options
    had = {
        "arch": lifting.network,
        **{name: getattr(lifting.options, name) for name in wanted if hasattr(lifting.options, name)},
    }
    wanted = {"arch": config.network.arch, **wanted}
    if lifting.decoder:
        had |= {"decoder": lifting.decoder, "decoder_width": lifting.decoder_width}
        wanted |= {"decoder": config.network.decoder or "light", "decoder_width": config.network.decoder_width or 1.0}
    open_words = {"stem": "auto", "downsample": "auto", "patch": None}
    other = [
        f"network.{name}={'null' if value is None else value}"
        for name, value in had.items()
        if name not in ("engine", "substrate") and wanted[name] not in (value, open_words.get(name, value))
    ]
    if other:
        raise InputError(f"{source} was lifted otherwise than this config says; set {' '.join(other)}")
    if (width := feature_width(config.data.features)) != lifting.options.in_channels:
        raise InputError(
            f"{source} takes {lifting.options.in_channels} input channels, data.features = "
            f"{', '.join(config.data.features)} are {width}"
        )


def _new_head(network: LiftedNetwork, classes: int, seed: int) -> LiftedNetwork:
    """The network with a fresh last layer for so many classes, in place."""
    path = network._classifier
    if path is None:
        raise InputError(f"{network.lifting.network} has no classifier that a new one could replace")
    old, lifting, draw = network.get_submodule(path), network.lifting, generator(seed, path)
    if not isinstance(old, nn.Linear):
        raise InputError(f"net.{path} is a {type(old).__name__}, and no linear layer that a new one could replace")
    make = site_head if isinstance(old, SiteLinear) else partial(fresh_head, lifting.options.head)
    new = make(old.in_features, classes, draw, old.weight.dtype)
    owner, _, name = path.rpartition(".")
    with changing(network):
        network.get_submodule(owner)._modules[name] = new.train(old.training)
    shapes = {f"{path}.{name}": tuple(tensor.shape) for name, tensor in new.state_dict().items()}
    network._lifting = replace(
        lifting,
        options=replace(lifting.options, num_classes=classes),
        parameters=tuple(
            replace(r, shape=shapes[r.name], origin="fresh", source=None, source_shape=None) if r.name in shapes else r
            for r in lifting.parameters
        ),
        buffers=tuple(
            replace(r, shape=shapes[r.name], origin="fresh") if r.name in shapes else r for r in lifting.buffers
        ),
    )
    network._usage, network._facts = None, None
    return network
