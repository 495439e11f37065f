"""State dicts as the world stores them: inside a checkpoint, behind a prefix, in any number type.

Training scripts wrap weights in many ways: other entries beside them (epoch, optimizer, arguments), a prefix before
every name (`module.` by DataParallel, `model.` by Lightning, `_orig_mod.` by torch.compile, `module.encoder_q.` by
MoCo), several copies (an EMA, teacher and student). `find_tensors` finds what belongs to a network by the network's own
names, and `converted` checks each value once it has the network's number type.
"""

from __future__ import annotations

import pickle
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from image2point.errors import InputError, one_line

# Parts of a name that wrappers insert anywhere in it.
_INSERTED = {"module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}
# Of several copies that fit a network equally well: those to take, as the scripts that write them do, and to leave.
_TAKEN = ("ema", "teacher", "encoder_q", "base_encoder", "online_encoder", "online_network")
_LEFT = ("student", "encoder_k", "momentum_encoder", "target_encoder", "target_network")
_DEEPEST = 4  # dicts inside dicts


@dataclass(frozen=True)
class Tensors:
    """The tensors of a file that belong to one network, under that network's names.

    Attributes:
        note: what was taken and what was stripped, for the log; empty where nothing was.
    """

    tensors: dict[str, Tensor]
    note: str = ""


# ---------------------------------------------------------------------------------------------------------- reading


def read_content(path: Path) -> object:
    """What a safetensors file or a file of torch.save holds. No code of the file runs.

    Objects of unknown classes (`argparse.Namespace`, NumPy scalars, a config) become empty stand-ins of that name.

    Raises:
        InputError: where the file is missing or damaged.
    """
    if not path.is_file():
        raise InputError(f"weights file {path} does not exist" if not path.exists() else f"{path} is not a file")
    try:
        with path.open("rb") as stream:
            if stream.read(9)[8:] == b"{":  # after 8 bytes of length
                from safetensors.torch import load_file

                return load_file(path)
        return _read_torch(path)
    except Exception as error:  # readers of damaged files raise nearly anything
        raise InputError(
            f"weights file {path} cannot be read ({_reason(error)}). Expected a safetensors file, or a state dict "
            "saved by torch.save; no code in a file is run"
        ) from error


def _reason(error: Exception) -> str:
    """Why a file cannot be read, without torch's advice to run its code."""
    text = str(error)
    if match := re.search(r"GLOBAL (\S+) whose module", text):
        return f"it calls {match[1]}"
    if "TorchScript" in text:
        return "it is a TorchScript archive; save the state_dict() of the network that it was made from"
    if isinstance(error, pickle.UnpicklingError | EOFError):
        return "it is empty, cut off, or of another kind"
    return f"{type(error).__name__}: {one_line(text, 200)}"


class _StandIn:
    """An object of a class that is not loaded; it keeps nothing."""

    def __new__(cls, *_: Any) -> _StandIn:
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def _read_torch(path: Path) -> object:
    """torch.load with weights_only=True, and a stand-in for each class or function that it does not know."""
    known, stand_ins = torch.serialization.get_safe_globals(), dict[str, Any]()
    try:
        while True:
            try:
                # Until all names are known, tensors are not read: the device `meta` holds no values.
                with path.open("rb") as stream:
                    content = torch.load(stream, map_location="meta" if stand_ins else "cpu", weights_only=True)
                    if not stand_ins:
                        return content
                    stream.seek(0)
                    return torch.load(stream, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError as error:
                match = re.search(r"GLOBAL (\S+) was not an allowed global", str(error))
                if match is None or match[1] in stand_ins or len(stand_ins) > 200:
                    raise
                module, _, name = match[1].rpartition(".")
                stand_in = type(name, (_StandIn,), {"__module__": module or "builtins", "__qualname__": name})
                stand_ins[match[1]] = stand_in
                torch.serialization.add_safe_globals([stand_in])
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(known)


# ---------------------------------------------------------------------------------------------------------- finding


def find_tensors(content: object, names: Collection[str], where: str) -> Tensors:
    """The tensors in a file's content that belong to a network, without the prefix before their names.

    Every dict in the content is looked at, and every prefix that ends at a dot; the pair that names the most tensors of
    the network is taken. Of pairs that name equally many, an EMA, a teacher (DINO) or a query encoder (MoCo) is taken.

    Args:
        names: of the network's tensors; without them, the dict with the most tensors is taken as it is.
        where: the file, for errors.

    Raises:
        InputError: where there is no dict of tensors, or several fit equally well.

    >>> state = {"epoch": 3, "state_dict": {"module.fc.bias": torch.zeros(2), "module.fc.weight": torch.zeros(2, 4)}}
    >>> found = find_tensors(state, ["fc.weight", "fc.bias"], "w.pth")
    >>> list(found.tensors), found.note
    (['fc.bias', 'fc.weight'], "entry 'state_dict'; 'module.' stripped from 2 names")
    """
    entries = dict(_dicts_of_tensors(content))
    if not entries:
        raise InputError(f"weights file {where}: expected a state dict (name → tensor), found {_describe(content)}")
    wanted = frozenset(names)
    inserted = _INSERTED - {part for name in wanted for part in name.split(".")}
    entries = {entry: _without(inserted, tensors) for entry, tensors in entries.items()}
    fits: Counter[tuple[str, str]] = Counter()
    for entry, tensors in entries.items():
        fits.update((entry, name[:cut]) for name in tensors for cut in _cuts(name) if name[cut:] in wanted)
    entry, prefix = max(entries, key=lambda each: len(entries[each])), ""
    others: list[tuple[str, str]] = []
    if fits:
        best = max(fits, key=lambda pair: (fits[pair], -_rank(pair)))
        if 2 * fits[best] >= min(len(wanted), len(entries[best[0]])):
            entry, prefix = best
            others = [pair for pair in fits if pair != best and fits[pair] == fits[best]]
    tensors = entries[entry]
    chosen = _under(prefix, tensors)
    ties = [pair for pair in others if _rank(pair) == _rank((entry, prefix))]
    if not all(_equal(chosen, _under(cut, entries[other])) for other, cut in ties):
        raise InputError(
            f"weights file {where}: {' and '.join(map(_called, [(entry, prefix), *ties]))} fit the network equally "
            "well; store the one you want by itself: torch.save(checkpoint[...], PATH)"
        )
    notes = [f"entry {entry!r}"] if entry else []
    notes += [f"{prefix!r} stripped from {len(chosen)} names"] if prefix else []
    notes += [f"{' and '.join(map(_called, others))} would fit as well"] if others else []
    aside = [name for name in tensors if not name.startswith(prefix)]
    if aside:
        kinds = ", ".join(dict.fromkeys(name.split(".")[0] for name in aside))
        some = "1 tensor" if len(aside) == 1 else f"{len(aside)} tensors"
        notes.append(f"{some} without that prefix left aside ({one_line(kinds)})")
    return Tensors(chosen, "; ".join(notes))


def _dicts_of_tensors(content: object, path: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Each dict that holds tensors under names, and its place: '', 'model', 'teacher.state_dict'."""
    if not isinstance(content, dict) or depth > _DEEPEST:
        return
    named = {name: value for name, value in content.items() if isinstance(name, str)}
    if tensors := {n: value for n, value in named.items() if isinstance(value, Tensor) and not value.is_nested}:
        yield path, tensors
    for name, value in named.items():
        yield from _dicts_of_tensors(value, f"{path}.{name}" if path else name, depth + 1)


def _without(inserted: Collection[str], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names without such parts anywhere behind the first one, as long as they stay distinct."""
    parts = ((name.split("."), tensor) for name, tensor in tensors.items())
    renamed = {".".join([first, *(p for p in rest if p not in inserted)]): tensor for (first, *rest), tensor in parts}
    return renamed if len(renamed) == len(tensors) else tensors


def _cuts(name: str) -> Iterator[int]:
    """Where a prefix of a name may end."""
    yield 0
    yield from (match.end() for match in re.finditer(r"\.", name))


def _rank(pair: tuple[str, str]) -> int:
    """0 for a copy that is preferred, 2 for one that is left, 1 for all others."""
    text = ".".join(pair)
    if any(re.search(rf"(^|[._]){word}($|[._])", text) for word in _TAKEN):
        return 0
    return 2 if any(word in text for word in _LEFT) else 1


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two copies hold the same values, as where a file stores one state dict under two names."""

    def same(a: Tensor, b: Tensor) -> bool:
        plain = all(t.layout == torch.strided and not t.is_meta for t in (a, b))
        return plain and a.dtype == b.dtype and torch.equal(a, b)

    return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)


def _called(pair: tuple[str, str]) -> str:
    entry, prefix = pair
    return " with ".join([*([f"entry {entry!r}"] if entry else []), *([f"prefix {prefix!r}"] if prefix else [])]) or (
        "the names without a prefix"
    )


def _describe(content: object) -> str:
    if isinstance(content, dict) and content:
        name, value = next(iter(content.items()))
        if not isinstance(name, str):
            return f"a dict with keys such as {name!r}, which are not names"
        if type(value).__name__ == "_reconstruct" and isinstance(value, _StandIn):
            return f"a dict whose entry {one_line(name)!r} is a NumPy array; store torch.from_numpy(array)"
        whole = "; save net.state_dict() rather than the network itself" if isinstance(value, _StandIn) else ""
        return f"a dict whose entry {one_line(name)!r} is a {type(value).__name__}{whole}"
    if isinstance(content, _StandIn):
        return f"a pickled {type(content).__name__}; save net.state_dict() rather than the network itself"
    return "an empty dict" if isinstance(content, dict) else f"a {type(content).__name__}"


# ----------------------------------------------------------------------------------------------------------- values


def converted(tensor: Tensor, like: Tensor) -> Tensor:
    """A stored tensor in the number type of the network's own, on the CPU.

    Raises:
        ValueError: where that would change its meaning: it says what the tensor is and what to do.

    >>> converted(torch.ones(2, dtype=torch.float64), torch.zeros(2)).dtype
    torch.float32
    >>> converted(torch.tensor([1e300], dtype=torch.float64), torch.zeros(1))
    Traceback (most recent call last):
        ...
    ValueError: holds values beyond what float32 can hold, up to 1e+300
    """
    if tensor.is_meta:
        raise ValueError("has a shape but no values (device meta); store it after the network was filled")
    if tensor.is_quantized:
        raise ValueError(f"is quantised ({_type(tensor)}); store tensor.dequantize()")
    if tensor.layout != torch.strided:
        raise ValueError(f"is stored as {_word(tensor.layout)}; store tensor.to_dense()")
    if tensor.is_complex() and not like.is_complex():
        raise ValueError(f"is complex ({_type(tensor)}), where the network has {_type(like)}")
    if like.is_floating_point() and not tensor.is_floating_point():
        raise ValueError(f"holds {_type(tensor)}, where the network has {_type(like)}; are these quantised weights?")
    wide = tensor.detach().to("cpu")
    wide = wide.to(torch.float64) if wide.is_floating_point() else wide
    if not bool(torch.isfinite(wide).all()):
        raise ValueError("holds NaN or infinite values")
    value = wide.to(like.dtype)
    if not bool(torch.isfinite(value).all()):
        largest = float(wide.abs().max())
        raise ValueError(f"holds values beyond what {_type(like)} can hold, up to {largest:.3g}")
    return value


def wrong_value(name: str, tensor: Tensor) -> str:
    """What is wrong with a network's tensor of that name; empty where nothing is."""
    if tensor.is_meta or not (tensor.is_floating_point() or tensor.is_complex()):
        return ""
    if not bool(torch.isfinite(tensor).all()):
        return "holds NaN or infinite values"
    if name.endswith("running_var") and bool((tensor < 0).any()):
        return f"holds negative variances, down to {float(tensor.min()):.3g}"
    return ""


def _type(tensor: Tensor) -> str:
    return _word(tensor.dtype)


def _word(kind: object) -> str:
    return str(kind).removeprefix("torch.")
