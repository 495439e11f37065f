"""How many of timm's ConvNets can be lifted, and how exactly: tries them all and writes docs/coverage.md.

    python scripts/coverage.py run                    # all of them; the same command goes on where it stopped
    python scripts/coverage.py run --shard 0/4        # every fourth, for several processes side by side
    python scripts/coverage.py run --failed           # once more those that failed
    python scripts/coverage.py run --only resnet18 convnext_atto
    python scripts/coverage.py write                  # the document, from all results; prints its summary

Every result is one line of JSON in runs/coverage/*.jsonl, and what is there already is not done again. An architecture
counts only if it runs forward and satisfies the equivalences that apply to it (tests/lifting/equivalence.py) at
random weights, with a relative error below 1e-10. One above 30 million parameters is lifted and run on the meta device,
which has shapes but no values, and counts through a smaller one of the same file of timm that is built of the same
blocks and uses every operation that it uses; where there is none, it is compared itself, up to 100 million.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from image2point import InputError
from image2point.files import write_text
from image2point.lifting import LiftedNetwork, LiftError
from image2point.lifting.graph import trace
from image2point.networks.timm_import import load_timm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "lifting"))
import equivalence  # noqa: E402

TOLERANCE = 1e-10
LARGEST = 30_000_000
LARGEST_ALONE = 100_000_000
CLASSES = 7
KINDS = ("convnet", "hybrid", "other", "test")

# Networks that are smaller than any of their file, made with arguments of timm's, for large ones to count through.
SHRUNK: dict[str, tuple[str, dict[str, Any]]] = {
    "vgg11(mlp_ratio=0.05)": ("vgg11", {"mlp_ratio": 0.05}),
    "vgg11_bn(mlp_ratio=0.05)": ("vgg11_bn", {"mlp_ratio": 0.05}),
}

# Files of timm whose networks mix tokens by attention, state spaces or MLPs over positions.
OTHER_FILES = """
    beit cait coat convit crossvit davit deepseek_vit deit efficientvim eva gcvit gemma4_vit hiera hieradet_sam2 levit
    mlp_mixer mvitv2 naflexvit nest pit pvt_v2 qwen3_vit sequencer swin_transformer swin_transformer_v2
    swin_transformer_v2_cr tiny_vit tnt twins vision_transformer vision_transformer_hybrid vision_transformer_relpos
    vision_transformer_sam visformer vitamin volo xcit
"""
# Files whose networks have convolutions and attention, and names of other files' networks that do.
HYBRID_FILES = """
    byoanet cpubone csatv2 edgenext efficientformer efficientformer_v2 efficientvit_mit efficientvit_msra iformer
    lowformer maxxvit mobilenetv5 mobilevit nextvit shvit swiftformer
"""
HYBRID_NAMES = (
    "bat_", "caformer", "fastvit_ma", "fastvit_mci", "fastvit_sa", "mobilenetv4_hybrid", "resnet50_clip",
    "resnet50x4_clip", "resnet50x16_clip", "resnet50x64_clip", "resnet101_clip",
)  # fmt: skip

Record = dict[str, Any]


def file_of(name: str) -> str:
    """File of timm that defines an architecture."""
    return load_timm().model_entrypoint(SHRUNK[name][0] if name in SHRUNK else name).__module__.rpartition(".")[2]


def kind_of(name: str) -> str:
    """ConvNet, hybrid, attention and others, or a network that timm only has for its own tests."""
    file = file_of(name)
    if name.startswith("test_"):
        return "test"
    if file in OTHER_FILES.split():
        return "other"
    is_hybrid = file in HYBRID_FILES.split() or (name.startswith(HYBRID_NAMES) and not name.endswith("_gap"))
    return "hybrid" if is_hybrid else "convnet"


def by_kind() -> dict[str, list[str]]:
    names: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for name in load_timm().list_models():
        names[kind_of(name)].append(name)
    return names


# ------------------------------------------------------------------------------------------------ one architecture


def create(name: str) -> nn.Module:
    model, arguments = SHRUNK.get(name, (name, {}))
    return load_timm().create_model(model, num_classes=CLASSES, **arguments)


def measure(name: str, largest: int) -> Record:
    """Lift one architecture and compare, or only run it without values where it is large."""
    start = time.monotonic()
    record: Record = {"name": name, "file": file_of(name)}
    try:
        with torch.device("meta"), _NothingDrawn():
            network = create(name)
        record["parameters"] = sum(p.numel() for p in network.parameters())
        record["operations"], record["blocks"] = vocabulary(network, name)
        large = record["parameters"] > largest
        if not large:
            torch.manual_seed(0)
            network = equivalence.randomise(create(name))
        record.update(run_on_meta(network) if large else compare(network))
    except InputError as error:
        record["reason"] = str(error)
    except Exception as error:  # a failure of ours, to be listed like any other
        record["reason"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return {**record, "seconds": round(time.monotonic() - start, 1), "at": time.time()}


class _NothingDrawn(TorchFunctionMode):
    """Leaves out random initialisation, which has no effect on the meta device and takes long there."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_):
            return args[0]
        return func(*args, **(kwargs or {}))


def vocabulary(network: nn.Module, name: str) -> tuple[list[str], list[str]]:
    """The operations of a network, and the classes of the blocks they lie in, by name."""
    traced = trace(network, name)
    used = set()
    for node in traced.graph.nodes:
        module = traced.module(node)
        if module is not None:
            used.add(type(module).__name__)
        elif node.op in ("call_function", "call_method"):
            used.add(getattr(node.target, "__name__", str(node.target)))
    blocks = {type(module).__name__ for module in network.modules() if next(module.children(), None) is not None}
    return sorted(used), sorted(blocks)


def lifted(network: nn.Module, **options: Any) -> tuple[LiftedNetwork, str | None]:
    """The network lifted for sparse voxels; or for dense grids, with the reason why not for sparse voxels."""
    try:
        return equivalence.lifted(network, **options), None
    except LiftError as refused:
        if "substrate='dense'" not in str(refused):
            raise
        return equivalence.lifted(network, **options, substrate="dense"), str(refused)


def run_on_meta(network: nn.Module) -> Record:
    """Lift a network that has no values and run it on a grid, for its shapes."""
    with torch.device("meta"), torch.no_grad():
        net, refused = lifted(network, rule="mean")
        scores = net(torch.empty(2, net.lifting.options.in_channels, 64, 64, 16, dtype=torch.float64))
    if list(scores.shape) != [2, CLASSES]:
        raise RuntimeError(f"gives {list(scores.shape)} instead of {[2, CLASSES]}")
    return {"refused": refused}


def compare(network: nn.Module) -> Record:
    """The equivalences that apply."""
    errors: dict[str, float] = {}
    net, refused = lifted(network, rule="repeat")
    substrate = net.lifting.options.substrate
    if substrate == "sparse":
        errors["masked"] = equivalence.sparse_against_masked(net)
    full = equivalence.occupied_against_plain(net)
    if full is not None:
        errors["full"] = full
    outputs = equivalence.turned(net)
    net = equivalence.lifted(network, rule="repeat", axis="x", substrate=substrate)  # the memory of the other is free
    errors["axes"] = equivalence.worst(equivalence.turned(net), outputs)
    del net
    errors["image"], completed = equivalence.depth_constant(network, substrate=substrate)
    return {"errors": errors, "completed": completed, "refused": refused}


# ------------------------------------------------------------------------------------------------------------ runs


def run(arguments: argparse.Namespace) -> None:
    shard, shards = (int(n) for n in arguments.shard.split("/"))
    torch.set_num_threads(arguments.threads)
    arguments.results.mkdir(parents=True, exist_ok=True)
    names = arguments.only or [*SHRUNK, *by_kind()["convnet"]][shard::shards]
    done = read(arguments.results)
    if arguments.failed:
        names = [name for name in names if name in done and verdict(done[name]) in ("fails", "inexact")]
    elif not arguments.only:
        names = [name for name in names if name not in done]
    path = arguments.results / f"shard-{shard}-of-{shards}.jsonl"

    def add(name: str, largest: int) -> None:
        record = done[name] = measure(name, largest)
        with path.open("a") as file:  # one short line: it is written whole or, after a kill, left out by `read`
            file.write(json.dumps(record) + "\n")
        shown = f"{name:40} {verdict(record):12} {record['seconds']:6.1f} s  {record.get('reason', '')[:160]}"
        print(shown, flush=True)

    for name in names:
        add(name, arguments.largest)
    for name in names:  # now that all smaller ones are there
        record = done[name]
        alone = verdict(record) == "large" and not stands(record, done)["dense"]
        if alone and record["parameters"] <= LARGEST_ALONE:
            add(name, LARGEST_ALONE)


def read(folder: Path) -> dict[str, Record]:
    """All records so far, by name; the latest one counts."""
    found: dict[str, Record] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # the process was stopped while it wrote
                continue
            if record.get("at", 0) >= found.get(record["name"], {}).get("at", 0):
                found[record["name"]] = record
    return found


def verdict(record: Record) -> str:
    if "reason" in record:
        return "fails"
    if "errors" not in record:
        return "large"
    return "exact" if max(record["errors"].values()) < TOLERANCE else "inexact"


def stands(record: Record, records: dict[str, Record]) -> Record:
    """Whether an architecture counts, dense and sparse: by its own numbers, or through a smaller one's."""
    state, smaller = verdict(record), None
    if state == "large":
        able = [
            other
            for other in records.values()
            if other["file"] == record["file"]
            and verdict(other) == "exact"
            and other["parameters"] < record["parameters"]
            and (other["refused"] is None or record["refused"] is not None)
            and all(set(record[part]) <= set(other[part]) for part in ("operations", "blocks"))
        ]
        smaller = max(able, key=lambda other: other["parameters"], default=None)
    counts = state == "exact" or smaller is not None
    return {
        "dense": counts,
        "sparse": counts and record.get("refused") is None,
        "smaller": smaller["name"] if smaller else None,
    }


# -------------------------------------------------------------------------------------------------------- document

HEAD = """# Coverage

Written by `make coverage`; `scripts/coverage.py --help` says how to do failures again and to spread the work over
processes. All ConvNets of timm are tried at random weights. One counts as lifted if it runs
forward and satisfies the equivalences that apply to it, with a relative error below 1e-10 in float64:

- **image**: under `mean`, on an image repeated along depth, it gives the 2D network's stage maps and class scores (its
  layers without padding completed at the far border, as voxels have it);
- **masked**: sparse voxels and masked grids give the same stage maps and scores (of what lifts to sparse voxels);
- **full**: so do occupied voxels and a plain grid, where every cell is occupied (not asked of networks with layers that
  treat the border of an image in a way of their own);
- **axes**: lifted along x instead of z, it gives the same for the turned cloud.

An architecture above 30 million parameters is lifted, and run forward, without values; its numbers are those of a
smaller one of the same file of timm that is built of the same blocks and uses every operation that it uses. Where there
is no such one, it is compared itself.
"""


def write(arguments: argparse.Namespace) -> None:
    records = read(arguments.results)
    names = by_kind()
    rows = {name: {**records[name], **stands(records[name], records)} for name in names["convnet"] if name in records}
    lines = summary(names, rows)
    write_text(arguments.out, "\n".join([HEAD, *lines, "", *details(names, rows), ""]))
    print("\n".join(lines))
    print(f"{arguments.out} written")


def summary(names: dict[str, list[str]], rows: dict[str, Record]) -> list[str]:
    """The totals."""
    total = len(names["convnet"])
    dense, sparse = ([r for r in rows.values() if r[substrate]] for substrate in ("dense", "sparse"))
    own = [r for r in dense if r["smaller"] is None]
    lines = [
        f"timm {load_timm().__version__} has {total} ConvNets; {len(rows)} were tried.",
        "",
        f"- dense: **{len(dense)}** of {total} ({_percent(dense, total)});",
        f"- sparse: **{len(sparse)}** of {total} ({_percent(sparse, total)});",
        f"- by their own numbers: {len(own)}; through a smaller one: {len(dense) - len(own)};",
    ]
    if own:
        worst, kind, name = max((error, kind, r["name"]) for r in own for kind, error in r["errors"].items())
        lines.append(f"- worst error of those that count: {worst:.1e} ({kind}, `{name}`).")
    failing = [name for name, r in rows.items() if not r["dense"]]
    lines += ["", f"Not counted: {_code(failing)}." if failing else "None of those tried fails."]
    return lines


def details(names: dict[str, list[str]], rows: dict[str, Record]) -> list[str]:
    """What is behind the totals."""
    lines = [
        "## By file of timm",
        "",
        "| file | ConvNets | tried | dense | sparse | worst error |",
        "|---|" + "---:|" * 5,
    ]
    for file, members in _by_file(names["convnet"]):
        mine = [rows[name] for name in members if name in rows]
        errors = [error for r in mine if r["dense"] and "errors" in r for error in r["errors"].values()]
        dense, sparse = (sum(r[substrate] for r in mine) for substrate in ("dense", "sparse"))
        worst = f"{max(errors):.0e}" if errors else ""
        lines.append(f"| {file} | {len(members)} | {len(mine)} | {dense} | {sparse} | {worst} |")
    lines += ["", "## What does not count, and why", ""]
    lines += [f"- `{r['name']}`: {_why(r)}" for r in rows.values() if not r["dense"]] or ["Everything tried counts."]
    lines += ["", "## What lifts to dense grids only, and why", ""]
    lines += _grouped(
        (str(r["refused"]).replace(f" {r['name']} ", " "), name)
        for name, r in rows.items()
        if r["dense"] and not r["sparse"]
    )
    lines += ["", "## Large ones, after the smaller one that they count through", ""]
    lines += _grouped((f"`{r['smaller']}`", name) for name, r in rows.items() if r["smaller"])
    lines += ["", "## With layers that lose the border of an image in 2D", ""]
    lines.append(_code(name for name, r in rows.items() if r.get("completed")) + ".")
    for kind, title in (("hybrid", "hybrids of convolution and attention"), ("other", "attention and other networks")):
        lines += ["", f"## Not ConvNets: {len(names[kind])} {title}", ""]
        lines += [_folded(f"{file} ({len(members)})", members) for file, members in _by_file(names[kind])]
    lines += ["", f"Nor are timm's {len(names['test'])} networks for its own tests (`test_*`) counted."]
    return lines


def _why(record: Record) -> str:
    if "reason" in record:
        return str(record["reason"])
    if "errors" not in record:
        return "large, and no smaller one of the same file that counts has all of its blocks and operations"
    return "errors " + ", ".join(f"{kind} {error:.0e}" for kind, error in record["errors"].items())


def _grouped(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """One line for each heading, with its names."""
    groups = defaultdict(list)
    for heading, name in pairs:
        groups[heading].append(name)
    return [f"- {heading}: {_code(names)}" for heading, names in groups.items()] or ["None."]


def _by_file(names: list[str]) -> list[tuple[str, list[str]]]:
    groups = defaultdict(list)
    for name in names:
        groups[file_of(name)].append(name)
    return sorted(groups.items())


def _folded(title: str, names: list[str]) -> str:
    return f"<details><summary>{title}</summary>{', '.join(names)}</details>"


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def _percent(part: list[Any], total: int) -> str:
    return f"{100 * len(part) / total:.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    runner = commands.add_parser("run", help="try architectures")
    runner.add_argument("--shard", default="0/1", help="i/n: every n-th architecture from the i-th on")
    which = runner.add_mutually_exclusive_group()
    which.add_argument("--only", nargs="+", help="these architectures, and again if they were tried before")
    which.add_argument("--failed", action="store_true", help="those that failed, again")
    runner.add_argument("--largest", type=int, default=LARGEST, help="parameters up to which numbers are compared")
    runner.add_argument("--threads", type=int, default=1)
    runner.set_defaults(call=run)
    writer = commands.add_parser("write", help="write the document and print its summary")
    writer.add_argument("--out", type=Path, default=ROOT / "docs" / "coverage.md")
    writer.set_defaults(call=write)
    for command in (runner, writer):
        command.add_argument("--results", type=Path, default=ROOT / "runs" / "coverage")
    arguments = parser.parse_args()
    arguments.call(arguments)


if __name__ == "__main__":
    main()
