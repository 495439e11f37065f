"""What a lifting did: the options it ran with, and where every parameter of the 3D network comes from."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, fields
from math import prod
from typing import Any

from image2point.config.lifting import DEFAULTS
from image2point.networks.weights import WeightsReport
from image2point.roles import DECODER, ORIGINS, ROLES

FATES = ("used", "replaced", "skipped")


@dataclass(frozen=True)
class Options:
    """How a network was lifted: the arguments of `image2point.lift`, with `auto` resolved."""

    rule: str
    axis: str | dict[str, str]
    variance: str
    substrate: str
    stem: str
    patch: int | None
    stride_in: str
    downsample: str
    in_channels: int
    num_classes: int | None
    head: str
    control: str
    depth_padding: str
    engine: str
    seed: int
    until: str | None = None

    @property
    def depth_axis(self) -> str:
        """The depth axis, in the options of one operation, where it is one of x, y, z."""
        assert isinstance(self.axis, str)
        return self.axis


@dataclass(frozen=True)
class ParameterRecord:
    """One tensor of the 3D network.

    Attributes:
        role: "input" (stem convolutions and the norms among and right after them), "output" (after global pooling, or
            the last convolution of a network that gives a map), "norm" (every other norm), "body", or "decoder".
        origin: "inflated" from a 2D kernel, "copied", "fresh", or "trained": fresh in the lifted network that this one
            began as.
        source: name and shape of the 2D tensor it comes from; None where fresh.
    """

    name: str
    shape: tuple[int, ...]
    role: str
    origin: str
    source: str | None
    source_shape: tuple[int, ...] | None


@dataclass(frozen=True)
class SourceRecord:
    """One tensor of the 2D weights: "used", "replaced" by fresh values, or "skipped" (nothing in 3D needs it)."""

    name: str
    shape: tuple[int, ...]
    fate: str


@dataclass(frozen=True)
class Lifting:
    """The record of one lifting, as stored in `lifting.json`.

    Attributes:
        decoder, decoder_width: of a segmenter (`image2point.segmenter`), else None.
        skip: the block that a skip connection leads from (`lifting.skip`).
        additions: what policies added (`lifting.additions`), each with the block that was left out, in that order.
        start: of a network that began as another lifted one: where that was, and the sha256 of its weights.
    """

    network: str
    options: Options
    weights: WeightsReport
    parameters: tuple[ParameterRecord, ...]
    buffers: tuple[ParameterRecord, ...]
    sources: tuple[SourceRecord, ...]
    decoder: str | None = None
    decoder_width: float | None = None
    skip: str | None = None
    additions: tuple[tuple[str, str], ...] = ()
    start: str | None = None

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Tensors of the 2D weights by fate, tensors of the 3D network by origin, and its parameters by both.

        Keys: `source` and `target` count tensors (buffers included), `origin` and `role` count parameters.
        """
        fates = Counter(record.fate for record in self.sources)
        tensors = Counter(record.origin for record in (*self.parameters, *self.buffers))
        by_origin: Counter[str] = Counter()
        by_role: Counter[str] = Counter()
        for record in self.parameters:
            by_origin[record.origin] += prod(record.shape)
            by_role[record.role] += prod(record.shape)
        origins = ORIGINS if tensors["trained"] else ORIGINS[:3]
        return {
            "source": _filled(fates, FATES),
            "target": _filled(tensors, origins),
            "origin": _filled(by_origin, origins),
            "role": _filled(by_role, (*ROLES, DECODER) if by_role[DECODER] else ROLES),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the counts included."""
        return {**asdict(self), "counts": self.counts}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Lifting:
        """The record that `to_dict` wrote."""

        def records(name: str) -> tuple[ParameterRecord, ...]:
            entries: list[dict[str, Any]] = [
                {key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()} for entry in values[name]
            ]
            return tuple(ParameterRecord(**entry) for entry in entries)

        # Options that are younger than the record were what is the default now.
        younger = {field.name for field in fields(Options)} - values["options"].keys()
        before = {name: getattr(DEFAULTS, name) for name in younger}
        weights = {**values["weights"], "missing": tuple(values["weights"]["missing"])}
        return Lifting(
            network=values["network"],
            options=Options(**before, **values["options"]),
            weights=WeightsReport(**weights),
            parameters=records("parameters"),
            buffers=records("buffers"),
            sources=tuple(SourceRecord(s["name"], tuple(s["shape"]), s["fate"]) for s in values["sources"]),
            decoder=values.get("decoder"),
            decoder_width=values.get("decoder_width"),
            skip=values.get("skip"),
            additions=tuple((str(name), str(block)) for name, block in values.get("additions", ())),
            start=values.get("start"),
        )


def _filled(counter: Counter[str], names: tuple[str, ...]) -> dict[str, int]:
    return {"total": counter.total(), **{name: counter[name] for name in names}}
