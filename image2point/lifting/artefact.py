"""A lifted network as a folder: `weights.safetensors`, and `network.json` with all that it takes to make it again and
to use it. `jobs/artefact.py` makes the network of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, cast

from torch import Tensor, nn

from image2point.errors import InputError, listed, one_line
from image2point.files import is_there, sha256, shown, target_path, write_text, writing
from image2point.inference.usage import Usage, usage_of
from image2point.lifting.records import Lifting
from image2point.lifting.settings import Settings, first_change
from image2point.networks.weights import licence_of

FORMAT = 1
WEIGHTS, CONTENT = "weights.safetensors", "network.json"
LARGEST = 32 * 2**20
"""Bytes of a network.json; that of a network of a thousand layers has one."""


@dataclass(frozen=True)
class Facts:
    """What is known of a network beside how it is made and used.

    scores: what it is worth, by name. licence: of its weights; None where it is not known. policy: under which it was
    trained last. sha256: of the weights that the scores are those of.
    """

    scores: Mapping[str, float] = field(default_factory=dict)
    licence: str | None = None
    policy: str | None = None
    sha256: str | None = None


class Savable(Protocol):
    """What of a `LiftedNetwork` goes into a folder."""

    _facts: Facts | None
    _policy: str | None
    _classifier: str | None

    _usage: Usage | None
    _lifting: Lifting
    _made: Settings

    def state_dict(self) -> dict[str, Any]: ...
    def get_submodule(self, target: str) -> nn.Module: ...


@dataclass(frozen=True)
class Artefact:
    """What a folder holds: the record of the lifting, how the network is used, and what is known of it."""

    lifting: Lifting
    usage: Usage | None
    facts: Facts

    def to_json(self) -> str:
        return json.dumps(
            {
                "format": FORMAT,
                "use": None if self.usage is None else self.usage.model_dump(mode="json"),
                "policy": self.facts.policy,
                "scores": dict(self.facts.scores),
                "licence": self.facts.licence,
                "sha256": self.facts.sha256,
                "lifting": self.lifting.to_dict(),
            },
            indent=1,
            allow_nan=False,
        )


def save(network: Savable, folder: str | Path, scores: Mapping[str, float] | None, licence: str | None) -> Path:
    """See `LiftedNetwork.save`."""
    home = target_path(folder)
    if is_there(home / WEIGHTS) and not is_there(home / CONTENT):
        raise InputError(f"{shown(home)} holds the {WEIGHTS} of something else, such as a run; save to another folder")
    lifting = recorded(network)
    with writing(home / WEIGHTS) as temporary:
        write_tensors(network, temporary)
        digest = sha256(temporary)
        # Before anything is replaced: a score that is no number ends here.
        content = Artefact(lifting, network._usage, _facts(network, digest, scores, licence)).to_json()
    write_text(home / CONTENT, content)
    return home


def described(network: Savable) -> str:
    """What `network.json` says, for a network that goes elsewhere as a program: the scores it has and no digest."""
    return Artefact(network._lifting, network._usage, replace(network._facts or Facts(), sha256=None)).to_json()


def recorded(network: Savable) -> Lifting:
    """The record of the network as it is now.

    Raises InputError where modules were added, replaced or set otherwise, or tensors tied: the record could not make
    them again. A linear classifier of another number of classes is no such thing.
    """
    lifting, classifier, tensors = network._lifting, network._classifier, network.state_dict()
    if changed := first_change(cast(nn.Module, network), network._made, free=classifier) or _tied(tensors):
        raise InputError(
            f"{changed}, which a folder could not give back. Save its state_dict, and make it by your own code"
        )
    known = {record.name: record.shape for record in (*lifting.parameters, *lifting.buffers)}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    other = sorted(name for name in known.keys() | found.keys() if known.get(name) != found.get(name))
    if not other:
        return lifting
    layer = network.get_submodule(classifier) if classifier else None
    if (
        all(name.rpartition(".")[0] == classifier for name in other)
        and type(layer) is nn.Linear
        and layer.bias is not None
    ):
        shapes = {name: shape for name, shape in found.items() if name in other}
        return replace(
            lifting,
            options=replace(lifting.options, num_classes=found[f"{classifier}.weight"][0]),
            parameters=tuple(replace(r, shape=shapes.get(r.name, r.shape)) for r in lifting.parameters),
        )
    raise InputError(
        f"the network has other tensors than it was lifted with ({listed(other)}), so a folder could not give it back. "
        "Save its state_dict, and make it by your own code"
    )


def _tied(tensors: Mapping[str, Tensor]) -> str | None:
    """The first two of these that are one tensor, in words; None where there are none."""
    names: dict[int, str] = {}
    for name, tensor in tensors.items():
        if tensor.numel() and (first := names.setdefault(tensor.data_ptr(), name)) != name:
            return f"net.{first} and net.{name} are one tensor"
    return None


def read(folder: Path) -> tuple[Artefact, dict[str, Tensor]]:
    """What a folder holds, which may be a stranger's, and its tensors.

    Raises InputError where a file is missing, damaged or of another save.
    """
    artefact, weights = parsed(read_content(folder / CONTENT), str(folder / CONTENT)), folder / WEIGHTS
    tensors, digest = read_tensors(weights)
    if artefact.facts.sha256 not in (None, digest):
        raise InputError(
            f"{weights} is not the file that {CONTENT} speaks of, as after a save that was interrupted; save again"
        )
    return artefact, tensors


def write_tensors(network: Any, path: Path) -> None:
    """Write the state dict of a module as safetensors."""
    from safetensors.torch import save_file

    save_file(apart(network.state_dict()), path)


def apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors takes them: on the CPU, contiguous, and each in memory of its own.

    >>> one = nn.Linear(2, 2).weight
    >>> len({tensor.data_ptr() for tensor in apart({"a": one, "b": one}).values()})
    2
    """
    found, memory = dict[str, Tensor](), set[int]()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if place in memory else tensor
        memory.add(place)
    return found


def read_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a safetensors file, and its sha256; InputError where it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path), sha256(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read: {one_line(error)}") from None


def read_content(path: Path) -> Any:
    """The content of a network.json."""
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(f"{path} has {path.stat().st_size:,} bytes; expected at most {LARGEST:,}")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read: {one_line(error)}") from None


def parsed(content: Any, where: str) -> Artefact:
    """An artefact from plain values. Raises InputError, which begins with `where`, for what is none."""
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise InputError(f"{where}: expected the description of a network, with its format")
    if content["format"] > FORMAT:
        raise InputError(
            f"{where} has the format {content['format']}, this version knows up to {FORMAT}; install a newer one"
        )
    try:
        lifting = lifting_of(content["lifting"], where)
        scores = {str(name): float(value) for name, value in content["scores"].items()}
        texts = {name: content[name] for name in ("licence", "policy", "sha256")}
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{where}: damaged, {type(error).__name__}: {one_line(error)}") from None
    if wrong := [name for name, text in texts.items() if not isinstance(text, str | None)]:
        raise InputError(f"{where}: expected text or null under {wrong[0]}, found {texts[wrong[0]]!r:.80}")
    use = content.get("use")
    if not isinstance(use, dict | None):
        raise InputError(f"{where}: expected settings under use, found {use!r:.80}")
    return Artefact(lifting, None if use is None else usage_of(use, f"{where}: "), Facts(scores, **texts))


def lifting_of(values: Any, where: str) -> Lifting:
    """The record of a lifting from plain values. Raises InputError, which begins with `where`, for what is none."""
    try:
        lifting = Lifting.from_dict(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{where}: damaged, {type(error).__name__}: {one_line(error)}") from None
    texts = {"network": lifting.network, "decoder": lifting.decoder, "skip": lifting.skip, "start": lifting.start}
    axis = lifting.options.axis
    if wrong := [name for name, text in texts.items() if not isinstance(text, str | None)]:
        raise InputError(f"{where}: expected text under {wrong[0]}, found {texts[wrong[0]]!r:.80}")
    if not isinstance(axis, str) and not (isinstance(axis, dict) and all(isinstance(a, str) for a in axis.values())):
        raise InputError(f"{where}: expected text or a table of texts under options.axis, found {axis!r:.80}")
    return lifting


def _facts(network: Savable, digest: str, scores: Mapping[str, float] | None, licence: str | None) -> Facts:
    """What is known of the network; the scores that it had are kept where its weights are still the same."""
    before = network._facts or Facts()
    if scores is None:
        scores = before.scores if before.sha256 == digest else {}
    scores = {str(name): float(value) for name, value in scores.items()}
    if wrong := [name for name, value in scores.items() if not math.isfinite(value)]:
        raise InputError(f"scores: expected finite numbers, found {wrong[0]} = {scores[wrong[0]]}; leave it out")
    licence = licence or before.licence or licence_of(network._lifting.weights.source, network._lifting.network)
    return Facts(scores, licence, network._policy or before.policy, digest)
