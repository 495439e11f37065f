#!/usr/bin/env python3
"""Seconds of training after which runs first reached an accuracy, fastest first, and their mean; those that did not
reach it follow, the best first.

    scripts/seconds_to_accuracy.py test_accuracy 0.9 runs/NAME...

Reads the column, and the seconds spent in training steps (loading included, measuring not), from each metrics.csv.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path


def first_reached(run: Path, column: str, accuracy: float) -> tuple[float, float, str]:
    """Seconds (infinite where it was never reached), minus the best accuracy, and a line that says so."""
    try:
        with open(run / "metrics.csv", encoding="utf-8", newline="") as stream:
            rows = [row for row in csv.DictReader(stream) if row[column]]
    except FileNotFoundError:
        return float("inf"), 0.0, f"{run.name}\tno metrics.csv"
    best = max((float(row[column]) for row in rows), default=0.0)
    for row in rows:
        if float(row[column]) >= accuracy:
            line = f"{run.name}\t{row['seconds']} s\tepoch {row['epoch']}\t{row[column]}\tbest {best:.4f}"
            return float(row["seconds"]), -best, line
    seconds = rows[-1]["seconds"] if rows else "0"
    return float("inf"), -best, f"{run.name}\tnot reached in {seconds} s\tbest {best:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("column", choices=("validation_accuracy", "test_accuracy"))
    parser.add_argument("accuracy", type=float)
    parser.add_argument("runs", type=Path, nargs="+")
    given = parser.parse_args()
    found = sorted(first_reached(run, given.column, given.accuracy) for run in given.runs)
    for *_, line in found:
        print(line)
    print(f"mean of {len(found)}: {sum(seconds for seconds, *_ in found) / len(found):.1f} s")


if __name__ == "__main__":
    main()
