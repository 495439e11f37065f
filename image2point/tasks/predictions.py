"""What a network said of every test cloud, as a file of a run: predictions.csv."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from image2point.errors import InputError
from image2point.files import csv_cell
from image2point.runs import read_text

HEAD = ["number", "cloud", "true", "predicted", "probability", "probability_of_true"]


@dataclass(frozen=True)
class CloudAnswer:
    """Of one cloud: what it is called, the numbers of its true and of its predicted class, and the probabilities of
    the predicted class and of the true one, 0..1."""

    cloud: str
    true: int
    predicted: int
    probability: float
    probability_of_true: float


def predictions_csv(answers: Sequence[CloudAnswer], classes: Sequence[str]) -> str:
    """The clouds of a set in their order, numbered from 0, as the text of a CSV file.

    >>> print(predictions_csv([CloudAnswer("sofa/3.off", 1, 0, 0.75, 0.2)], ("bed", "sofa")), end="")
    number,cloud,true,predicted,probability,probability_of_true
    0,sofa/3.off,sofa,bed,0.75,0.2
    """
    text, names = io.StringIO(), [csv_cell(name) for name in classes]
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(HEAD)
    for number, each in enumerate(answers):
        shares = f"{each.probability:.6g}", f"{each.probability_of_true:.6g}"
        lines.writerow([number, csv_cell(each.cloud), names[each.true], names[each.predicted], *shares])
    return text.getvalue()


def read_predictions(path: Path, classes: Sequence[str]) -> tuple[CloudAnswer, ...]:
    """What `predictions_csv` wrote for these classes; nothing where there is no file, as in older runs.

    Raises InputError, with the number of the row, where the file is damaged or names another class.
    """
    if not path.exists():
        return ()
    place = {csv_cell(name): number for number, name in enumerate(classes)}
    try:
        head, *rows = list(csv.reader(io.StringIO(read_text(path, "remove it"), newline="")))
    except csv.Error as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        head, rows = [], []
    if head != HEAD:
        raise InputError(f"{path}: expected the columns {', '.join(HEAD)}, found {', '.join(head) or 'none'}")
    answers = []
    for number, row in enumerate(rows):
        try:
            own, cloud, true, predicted, *shares = row
            probability, of_true = (float(share) for share in shares)
            answers.append(CloudAnswer(cloud, place[true], place[predicted], probability, of_true))
            if int(own) != number or not (0 <= probability <= 1 and 0 <= of_true <= 1):
                raise ValueError
        except (KeyError, ValueError):
            raise InputError(
                f"{path}: expected of cloud {number} its name, two of the {len(classes)} classes in summary.json and "
                f"two probabilities, found {row!r:.80}"
            ) from None
    return tuple(answers)


def to_look_at(runs: Sequence[Sequence[CloudAnswer]], true: int, predicted: int, most: int = 3) -> tuple[str, ...]:
    """The clouds of one class that were taken for another: first what most runs say so of, then what they say surest.

    >>> said = [CloudAnswer("a", 0, 1, 0.6, 0.4), CloudAnswer("b", 0, 1, 0.9, 0.1), CloudAnswer("c", 0, 0, 0.8, 0.8)]
    >>> to_look_at([said], true=0, predicted=1)
    ('b', 'a')
    """
    found: dict[str, list[float]] = {}
    for answers in runs:
        for each in answers:
            if (each.true, each.predicted) == (true, predicted):
                found.setdefault(each.cloud, []).append(each.probability)
    order = sorted(found, key=lambda cloud: (-len(found[cloud]), -math.fsum(found[cloud])))
    return tuple(order[:most])
