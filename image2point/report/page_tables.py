"""The tables of the page, as HTML. Every text from a run is escaped here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from image2point.report.arms import Arm
from image2point.report.numbers import ABSENT, beside_null, duration, quantity, share
from image2point.report.quantities import QUANTITIES, SPLITS
from image2point.report.read import Record
from image2point.report.tables import collapse_spread, columns_of, row
from image2point.roles import DECODER, ORIGINS, ROLES
from image2point.tasks.display import Quantity

TEXT = ' class="text"'  # the attribute of cells that hold words, set flush left


def arms_table(arms: Sequence[Arm]) -> str:
    """The table of arms, under two tiers of headings."""
    upper, lower = [], []
    columns = columns_of(arms[0].display)
    for index, column in enumerate(columns):
        if not column.group:
            kind = TEXT if column.heading in ("Arm", "Policy") else ""
            upper.append(f'<th rowspan="2"{kind}>{escape(column.heading)}</th>')
            continue
        if column.group != columns[index - 1].group:
            span = sum(other.group == column.group for other in columns)
            upper.append(f'<th colspan="{span}" class="group"><span>{escape(column.group)}</span></th>')
        lower.append(f"<th>{escape(column.heading)}</th>")
    body = "".join(
        f'<tr><th class="text" scope="row">{named(index, item.arm)}</th>'
        + "".join(cell(column.cell(item), text=column.heading == "Policy") for column in columns[1:])
        + "</tr>"
        for index, item in enumerate(map(row, arms))
    )
    return table(f"<tr>{''.join(upper)}</tr><tr>{''.join(lower)}</tr>", body, "stacked")


def collapse_table(arms: Sequence[Arm]) -> str:
    """Every collapse quantity that any run measured: quantities down, arms and splits across; '' where none did."""
    present = [
        kind
        for kind in QUANTITIES
        if any(collapse_spread(arm, split, kind.key) is not None for arm in arms for split in SPLITS)
    ]
    heads = "".join(
        f'<th colspan="2" class="group"><span>{named(index, arm.label)}</span></th>' for index, arm in enumerate(arms)
    )
    splits = "".join(f"<th>{split}</th>" for _ in arms for split in SPLITS)
    body = "".join(
        f'<tr><th class="text" scope="row">{escape(kind.heading)}'
        + f"<small>{formula(kind.meaning)}</small></th>"
        + "".join(_collapse_cell(arm, split, kind) for arm in arms for split in SPLITS)
        + "</tr>"
        for kind in present
    )
    if not present:
        return ""
    return table(f'<tr><th rowspan="2" class="text">Quantity</th>{heads}</tr><tr>{splits}</tr>', body)


def _collapse_cell(arm: Arm, split: str, kind: Quantity) -> str:
    """A measure, and below it the null that stands beside it: mean, spread, and the share that the measure is."""
    value, mean, sd = (collapse_spread(arm, split, kind.key + end) for end in ("", "_null", "_null_sd"))
    plain = cell(quantity(value, kind))
    if value is None or mean is None or sd is None:
        return plain
    null = beside_null(value.mean, mean.mean, sd.mean, kind.percent)
    return plain.replace("</td>", f"<small>null {escape(null)}</small></td>")


def moved_table(arms: Sequence[Arm]) -> str:
    """Which parameters there are, where lifting took them from, and which of them training could move."""
    found = {how for arm in arms for _, how in arm.first.origins}
    origins = [origin for origin in ORIGINS if origin != "trained" or origin in found]  # of second transfers alone
    titles = ["Trained before" if origin == "trained" else origin.capitalize() for origin in origins]
    head = "".join(
        f"<th{TEXT if name in ('Arm', 'Role') else ''}>{name}</th>"
        for name in ("Arm", "Role", "Parameters", *titles, "Trainable", "Share (%)")
    )
    body = []
    for index, arm in enumerate(arms):
        lines = _moved(arm.first, origins)
        for place, cells in enumerate(lines):
            first = (
                f'<th class="text" scope="rowgroup" rowspan="{len(lines)}">{named(index, arm.label)}'
                f"<small>policy {escape(arm.first.summary.policy)}</small></th>"
                if place == 0
                else ""
            )
            kind = ' class="first"' if place == 0 else ' class="total"' if place == len(lines) - 1 else ""
            cells_html = cell(cells[0], text=True) + "".join(map(cell, cells[1:]))
            body.append(f"<tr{kind}>{first}{cells_html}</tr>")
    return table(f"<tr>{head}</tr>", "".join(body))


def trials_table(arms: Sequence[Arm]) -> str:
    """The learning rates that runs tried, with what their validation clouds gave; '' where none tried any."""
    names = ("Run", "Arm", "Learning rate", "Epochs", "Validation", "")
    head = "".join(f"<th{TEXT if name in ('Run', 'Arm', '') else ''}>{name}</th>" for name in names)
    body = []
    for index, arm in enumerate(arms):
        for run in arm.runs:
            last = max((trial.epochs for trial in run.summary.trials), default=0)
            for trial in run.summary.trials:
                taken = (trial.lr, trial.epochs) == (run.summary.chosen_lr, last)
                body.append(
                    f'<tr><th class="text" scope="row">{escape(run.summary.name)}</th>'
                    f'<td class="text">{named(index, arm.label)}</td>'
                    + cell(f"{trial.lr:g}")
                    + cell(str(trial.epochs))
                    + cell(f"{trial.order[0]:.4f}" if trial.order else "diverged")
                    + cell("chosen" if taken else "", text=True)
                    + "</tr>"
                )
    return table(f"<tr>{head}</tr>", "".join(body)) if body else ""


def runs_table(arms: Sequence[Arm]) -> str:
    """Every run by itself: seed, weights, chosen epoch, scores."""
    scores = [score for score in arms[0].display.scores if not score.optional]
    titles = [f"{score.heading.capitalize()} (%)" for score in scores]
    names = ("Run", "Arm", "Seed", "2D weights", "sha256", "Epoch", *titles, "Time")
    head = "".join(f"<th{TEXT if name in ('Run', 'Arm', '2D weights', 'sha256') else ''}>{name}</th>" for name in names)
    body = []
    for index, arm in enumerate(arms):
        for run in arm.runs:
            summary = run.summary
            sha256 = str(summary.weights.get("sha256") or "")
            body.append(
                f'<tr><th class="text" scope="row">{escape(summary.name)}</th>'
                f'<td class="text">{named(index, arm.label)}</td>'
                + cell(str(summary.seed))
                + cell(str(summary.weights.get("source", summary.network.weights)), text=True)
                + f'<td class="text"><code>{escape(sha256[:12]) + "…" if sha256 else ABSENT}</code></td>'
                + cell(str(summary.chosen_epoch))
                + "".join(cell(f"{100 * summary.final[score.key]:.2f}") for score in scores)
                + cell(duration(summary.seconds.total))
                + "</tr>"
            )
    return table(f"<tr>{head}</tr>", "".join(body))


def _moved(run: Record, origins: Sequence[str]) -> list[tuple[str, ...]]:
    parameters = run.summary.parameters
    lines = []
    for role in (*ROLES, DECODER, "all"):
        count = parameters if role == "all" else parameters.by_role.get(role)
        if count is None:
            continue
        made = [
            sum(size for (of, how), size in run.origins.items() if how == origin and role in ("all", of))
            for origin in origins
        ]
        numbers = [f"{size:,}" if size else ABSENT for size in (count.total, *made, count.trainable)]
        lines.append((role, *numbers, share(count.trainable, count.total) if count.trainable else ABSENT))
    return lines


def named(index: int, label: str) -> str:
    """An arm's label behind its coloured mark; the style sheet holds the colours."""
    return f'<span class="arm"><i style="background: var(--arm-{index})"></i><span>{escape(label)}</span></span>'


def formula(text: str) -> str:
    """HTML of a text in which Σ_W and Σ_B have their subscripts."""
    return re.sub(r"Σ_(\w)", r"Σ<sub>\1</sub>", escape(text))


def table(head: str, body: str, kind: str = "") -> str:
    return scrolling(f'<table class="{kind}"><thead>{head}</thead><tbody>{body}</tbody></table>')


def scrolling(content: str) -> str:
    """What scrolls sideways where it is wider than the page, and says so then (the script sees to it)."""
    return f'<div class="wide">{content}</div><p class="sideways" hidden>scroll sideways \u2192</p>'


def cell(content: str, text: bool = False) -> str:
    value, mark, sd = escape(content).partition(" ± ")
    spread = f'<span class="sd"> ± {sd}</span>' if mark else ""
    return f"<td{TEXT if text else ''}>{value}{spread}</td>"
