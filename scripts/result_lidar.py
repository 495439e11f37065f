"""The tables of docs/results.md on airborne lidar."""

from __future__ import annotations

from result_cells import NOTHING, mean_in_percent, mean_share, noted
from result_rows import Row, stored

from image2point.report.plain import markdown_table


def lidar(split: str) -> str:
    """A line for each arm of a split of airborne lidar, scored at the points, and one for features made by hand."""
    rows, hand = stored(f"lidar_{split}"), [row for row in stored("lidar_baseline") if row["data"] == split]
    if not rows:
        return NOTHING
    classes = list(rows[0]["per_class"])
    lines = []
    for arm, policy, control in dict.fromkeys((row["arm"], row["policy"], row["control"]) for row in rows):
        own = [row for row in rows if (row["arm"], row["policy"], row["control"]) == (arm, policy, control)]
        lines.append(
            [
                arm,
                policy,
                ", ".join(str(row["seed"]) for row in own),
                mean_in_percent(own, "test_miou"),
                ", ".join(mean_share([row["test_miou"]]) for row in own),
                *(mean_share([row["per_class"][name] for row in own]) for name in classes),
                mean_share([row["test_accuracy"] for row in own]),
                ", ".join(f"{row['chosen_lr']:g}" for row in own),
                f"{sum(row['seconds'] for row in own) / len(own):.0f}",
            ]
        )
    for row in hand:
        shares = [*(row["per_class"][name] for name in classes), row["test_accuracy"]]
        score = mean_share([row["test_miou"]])
        by_hand = ["features made by hand", "–", "–", score, "–", *(mean_share([s]) for s in shares), "–"]
        lines.append([*by_hand, f"{row['seconds']}"])
    headings = [
        "arm",
        "policy",
        "seeds",
        "mIoU (%)",
        "of each seed",
        *classes,
        "accuracy (%)",
        "chosen rate",
        "seconds",
    ]
    return noted(markdown_table(headings, lines, list(range(3, len(headings)))), rows)


def lidar_networks() -> str:
    """Other decoders and networks in the same town, a run each, with what trains in it."""
    rows = stored("lidar_same_town_networks")
    if not rows:
        return NOTHING
    classes = list(rows[0]["per_class"])
    lines = [
        [
            row["arm"],
            f"`{row['arch']}`",
            f"`{row['decoder']}`",
            row["policy"],
            f"{row['trainable']:,}",
            mean_in_percent([row], "test_miou"),
            *(mean_share([row["per_class"][name]]) for name in classes),
            f"{row['epochs']}",
            f"{row['chosen_lr']:g}",
            f"{row['seconds']}",
        ]
        for row in rows
    ]
    headings = ["arm", "network", "decoder", "policy", "trained", "mIoU (%)", *classes, "epochs", "rate", "seconds"]
    return noted(markdown_table(headings, lines, list(range(4, len(headings)))), rows)


def lidar_collapse() -> str:
    """Measures with errors over scenes, shares of their nulls, who is close: of test points by layer, and of the
    features on training points."""
    lines = []
    for row in stored("lidar_collapse"):
        if row["split"] != "test" and row["layer"] != "features":
            continue
        named = dict(part.split("=", 1) for part in row["run"].split(",") if "=" in part)
        nc1, frame, orthogonal = (_with_error(row, name) for name in ("nc1", "nc2_etf", "nc2_orthogonal"))
        first, second, cosine = row["closest"]
        shares = (f"{row['shares'][name]:.3f}" for name in ("nc1", "cdnv", "nc2_etf"))
        decided = f"{100 * row['values']['ncc_accuracy']:.1f}"
        closest = f"{first}, {second} ({cosine:+.2f})"
        where = [named["arm"], named["policy"], row["split"], row["layer"]]
        lines.append([*where, nc1, *shares, frame, orthogonal, decided, closest])
    headings = [
        "arm", "policy", "split", "layer", "NC1", "NC1 / null", "CDNV / null", "simplex / null", "NC2: simplex",
        "NC2: orthogonal", "nearest mean (%)", "closest means (cosine)",
    ]  # fmt: skip
    return markdown_table(headings, lines, list(range(4, 11))) if lines else NOTHING


def _with_error(row: Row, name: str) -> str:
    value, error = row["values"][name], row["errors"].get(name)
    return f"{value:.3g}" if error is None else f"{value:.3g} ± {error:.2g}"
