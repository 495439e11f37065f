"""How many of timm's ConvNets can be lifted, and how exactly: tries them all and writes docs/coverage.md.

    python scripts/coverage.py run --shard 0/4      # one shard of the work; go on with the same command
    python scripts/coverage.py run --only resnet18 convnext_atto
    python scripts/coverage.py write                # the table, from all shards

Every result is one line of JSON in runs/coverage/*.jsonl, and what is there already is not done again. An architecture
counts only if it runs forward and satisfies the equivalences that apply to it (image2point/lifting/equivalence.py) at
random weights, with a relative error below 1e-10. Architectures above 30 million parameters are lifted without memory
for their weights, and count through a smaller one of the same file of timm that uses every operation they use.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from image2point import InputError
from image2point._timm import load_timm
from image2point.files import write_text
from image2point.lifting import equivalence
from image2point.lifting.graph import find_stem, trace
from image2point.lifting.records import Options
from image2point.lifting.rewrite import Rewriter

ROOT = Path(__file__).resolve().parent.parent
TOLERANCE = 1e-10
LARGEST = 30_000_000

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


def file_of(name: str) -> str:
    """File of timm that defines an architecture."""
    return load_timm().model_entrypoint(name).__module__.rpartition(".")[2]


def kind_of(name: str) -> str:
    """ConvNet, hybrid, or attention and others."""
    file = file_of(name)
    if file in OTHER_FILES.split():
        return "other"
    is_hybrid = file in HYBRID_FILES.split() or (name.startswith(HYBRID_NAMES) and not name.endswith("_gap"))
    return "hybrid" if is_hybrid else "convnet"


def measure(name: str, largest: int) -> dict[str, Any]:
    """Lift one architecture, and compare."""
    timm, start = load_timm(), time.monotonic()
    record: dict[str, Any] = {"name": name, "file": file_of(name)}
    try:
        with torch.device("meta"):
            network = timm.create_model(name, num_classes=7)
        record["parameters"] = sum(p.numel() for p in network.parameters())
        record["operations"] = lift_on_meta(network, name)
        if record["parameters"] <= largest:
            torch.manual_seed(0)
            record.update(compare(timm.create_model(name, num_classes=7)))
    except InputError as error:
        record["reason"] = str(error)
    except Exception as error:  # a failure of ours, to be listed like any other
        record["reason"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    record["seconds"] = round(time.monotonic() - start, 1)
    return record


def lift_on_meta(network: nn.Module, name: str) -> list[str]:
    """Lift a network that has no memory for its weights; the operations that it uses, by name."""
    traced = trace(network, name)
    options = Options(rule="mean", stem="inflate", downsample="exact", num_classes=None)
    with torch.no_grad(), torch.device("meta"):
        Rewriter(traced, find_stem(traced), options).run()
    used = set()
    for node in traced.graph.nodes:
        module = traced.module(node)
        if module is not None:
            used.add(type(module).__name__)
        elif node.op in ("call_function", "call_method"):
            used.add(getattr(node.target, "__name__", str(node.target)))
    return sorted(used)


def compare(network: nn.Module) -> dict[str, Any]:
    """The equivalences that apply."""
    network = equivalence.randomise(network)
    errors: dict[str, float] = {}
    errors["image"], completed = equivalence.depth_constant(network)
    errors["masked"] = equivalence.sparse_against_masked(network)
    full = equivalence.sparse_against_plain(network)
    if full is not None:
        errors["full"] = full
    errors["axes"] = equivalence.axes_exchanged(network)
    return {"errors": errors, "completed": completed}


# ------------------------------------------------------------------------------------------------------- shards


def run(arguments: argparse.Namespace) -> None:
    shard, shards = (int(n) for n in arguments.shard.split("/"))
    torch.set_num_threads(arguments.threads)
    names = arguments.only or [n for n in load_timm().list_models() if kind_of(n) == "convnet"][shard::shards]
    arguments.results.mkdir(parents=True, exist_ok=True)
    done = {} if arguments.only else read(arguments.results)
    path = arguments.results / ("only.jsonl" if arguments.only else f"shard-{shard}-of-{shards}.jsonl")
    for name in names:
        if name in done:
            continue
        record = measure(name, arguments.largest)
        with path.open("a") as file:  # one short line: it is written whole or, after a kill, left out by `read`
            file.write(json.dumps(record) + "\n")
        print(
            f"{name:40} {verdict(record):12} {record['seconds']:6.1f} s  {record.get('reason', '')[:160]}", flush=True
        )


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """All records so far, by name; the last one counts."""
    found = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # the process was stopped while it wrote
                continue
            found[record["name"]] = record
    return found


def verdict(record: dict[str, Any]) -> str:
    if "reason" in record:
        return "fails"
    if "errors" not in record:
        return "large"
    return "exact" if max(record["errors"].values()) < TOLERANCE else "inexact"


# -------------------------------------------------------------------------------------------------------- table

HEAD = """# Coverage

Written by `scripts/coverage.py`. An architecture counts if it lifts at random weights, runs forward, and satisfies the
equivalences that apply to it, with a relative error below 1e-10 in float64:

- **image**: under `mean`, on an image repeated along depth, it gives the 2D network's class scores (layers without
  padding completed at the far border, as voxels have it);
- **masked**: sparse voxels and masked grids give the same stage maps and scores;
- **full**: sparse voxels and a plain grid do, where every cell is occupied (not asked of networks with layers that
  treat the border of an image in a way of their own);
- **axes**: lifted along x instead of z, it gives the same for the turned cloud.
"""


def write(arguments: argparse.Namespace) -> None:
    records = read(arguments.results)
    write_text(arguments.out, document(records))
    print(f"{arguments.out} written from {len(records)} records")


def document(records: dict[str, dict[str, Any]]) -> str:
    """docs/coverage.md."""
    kinds: dict[str, list[str]] = {"convnet": [], "hybrid": [], "other": []}
    for name in load_timm().list_models():
        kinds[kind_of(name)].append(name)
    rows = [{**records[name], **through(records[name], records)} for name in kinds["convnet"] if name in records]
    dense = [r for r in rows if r["dense"]]
    sparse = [r for r in rows if r["sparse"]]
    errors = [(max(r["errors"].values()), r["name"]) for r in rows if r["verdict"] == "exact"]
    total = len(kinds["convnet"])
    lines = [
        HEAD,
        f"timm {load_timm().__version__}: {total} ConvNets, of which {len(rows)} were tried. "
        f"Dense: **{len(dense)}** ({_percent(dense, rows)}), sparse: **{len(sparse)}** ({_percent(sparse, rows)}).",
    ]
    if errors:
        worst, name = max(errors)
        lines += ["", f"Worst error of those that count: {worst:.1e} ({name})."]
    lines += [
        "",
        "## By file of timm",
        "",
        "| file | ConvNets | tried | dense | sparse | worst error |",
        "|---|---|---|---|---|---|",
    ]
    by_file = Counter(file_of(name) for name in kinds["convnet"])
    for file, count in sorted(by_file.items()):
        mine = [r for r in rows if r["file"] == file]
        worst_here = max((max(r["errors"].values()) for r in mine if r["verdict"] == "exact"), default=None)
        shown = "" if worst_here is None else f"{worst_here:.0e}"
        numbers = (count, len(mine), sum(r["dense"] for r in mine), sum(r["sparse"] for r in mine))
        lines.append(f"| {file} | {' | '.join(map(str, numbers))} | {shown} |")
    failing = [r for r in rows if not (r["dense"] and r["sparse"])]
    lines += ["", "## What does not count, and why", ""]
    lines += [f"- `{r['name']}`: {_why(r)}" for r in failing] or ["Nothing."]
    large = [r for r in rows if r.get("smaller")]
    lines += ["", "## Large ones, and the smaller one that they count through", ""]
    lines += [f"- `{r['name']}` ({r['parameters'] / 1e6:.0f} M): `{r['smaller']}`" for r in large] or ["None."]
    completed = [r for r in rows if r.get("completed")]
    lines += ["", "## With layers that lose the border of an image in 2D, and their number", ""]
    lines += [", ".join(f"`{r['name']}` ({r['completed']})" for r in completed) or "None.", ""]
    lines += [f"## Not ConvNets: {len(kinds['hybrid'])} hybrids", "", ", ".join(f"`{n}`" for n in kinds["hybrid"]), ""]
    lines += [f"## Not ConvNets: {len(kinds['other'])} others", "", ", ".join(f"`{n}`" for n in kinds["other"]), ""]
    return "\n".join(lines)


def through(record: dict[str, Any], records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Whether it counts, dense and sparse, itself or through a smaller one."""
    state = verdict(record)
    if state != "large":
        errors = record.get("errors", {})
        dense = "reason" not in record and errors["image"] < TOLERANCE
        return {"verdict": state, "dense": dense, "sparse": state == "exact"}
    able = [
        other
        for other in records.values()
        if other["file"] == record["file"]
        and verdict(other) == "exact"
        and set(record["operations"]) <= set(other["operations"])
    ]
    smaller = max(able, key=lambda other: other["parameters"], default=None)
    return {
        "verdict": state, "dense": smaller is not None, "sparse": smaller is not None,
        "smaller": smaller["name"] if smaller else None,
    }  # fmt: skip


def _why(record: dict[str, Any]) -> str:
    if "reason" in record:
        return str(record["reason"])
    if "errors" not in record:
        return "large, and no smaller one of the same file that counts uses all of its operations"
    return f"errors {_numbers(record)}"


def _numbers(record: dict[str, Any]) -> str:
    return ", ".join(f"{name} {error:.0e}" for name, error in record.get("errors", {}).items())


def _percent(part: list[Any], whole: list[Any]) -> str:
    return f"{100 * len(part) / len(whole):.1f} %" if whole else "none tried"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    runner = commands.add_parser("run", help="try architectures")
    runner.add_argument("--shard", default="0/1", help="i/n: every n-th architecture from the i-th on")
    runner.add_argument("--only", nargs="*", help="these architectures, and again if they were tried before")
    runner.add_argument("--largest", type=int, default=LARGEST, help="parameters up to which numbers are compared")
    runner.add_argument("--threads", type=int, default=1)
    runner.set_defaults(call=run)
    writer = commands.add_parser("write", help="write the document")
    writer.add_argument("--out", type=Path, default=ROOT / "docs" / "coverage.md")
    writer.set_defaults(call=write)
    for command in (runner, writer):
        command.add_argument("--results", type=Path, default=ROOT / "runs" / "coverage")
    arguments = parser.parse_args()
    arguments.call(arguments)


if __name__ == "__main__":
    main()
