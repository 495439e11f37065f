"""What people see of a task's results: plain data, which `report/` draws. It needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Quantity:
    """A number to show. `key`: its name in metrics.csv and summary.json; `meaning`: the definition, as plain text."""

    key: str
    title: str
    meaning: str
    logarithmic: bool = False
    percent: bool = False
    count: bool = False

    @property
    def heading(self) -> str:
        """The title, with the unit of what is written in per cent."""
        return f"{self.title} (%)" if self.percent else self.title

    @property
    def scale(self) -> float:
        """What a stored value is multiplied by where it is shown."""
        return 100.0 if self.percent else 1.0


@dataclass(frozen=True)
class Score:
    """A score of the chosen weights, a share in 0..1, under `final` in summary.json.

    group, heading: of its column in the table of arms; short: both as a terminal has them, None to leave it out there;
    optional: whether a run may lack it.
    """

    key: str
    group: str
    heading: str
    short: tuple[str, str] | None = None
    optional: bool = False


@dataclass(frozen=True)
class Display:
    """How the results of a task are told.

    scores: of the chosen weights, the first of them the one on the test set that counts. curves: what is drawn over
    epochs, the first with the chosen weights' score marked. goal: what the network was fine-tuned for, with `{classes}`
    and `{data}` to fill in. scored: how the test score is spoken of. by_class: what `final.per_class` holds; absent:
    what is said before the names of classes that have none. noun: what a sample is called; counted: what has a class.
    class_score: the score of a class, in short; class_mean: its mean over classes, by its name under `final`.
    enough: validation samples by which the choice of an epoch is more than noise. Clouds are right or wrong: the
    accuracy of a hundred is known to 5 points. The points of a scene are alike, so that scenes count; their scores
    differ by some 15 points, so that the mean of ten is known to 5.
    """

    scores: tuple[Score, ...]
    curves: tuple[Quantity, ...]
    goal: str
    scored: str
    by_class: str
    noun: str = "cloud"
    absent: str = "No test cloud of"
    counted: str = "cloud"
    class_score: str = "accuracy"
    class_mean: str = "test_mean_class_accuracy"
    enough: int = 100

    @property
    def whole(self) -> bool:
        """Whether each sample is right or wrong as a whole, and counts by itself."""
        return self.counted == self.noun

    def noisy_choice(self, validation: int) -> list[str]:
        """A warning where the epoch is chosen by so few validation samples that the choice is noise.

        >>> DISPLAYS["classification"].noisy_choice(25)[0][:98]
        'the epoch is chosen by 25 validation clouds, whose accuracy has a standard error of up to 10 point'
        >>> [len(DISPLAYS["segmentation"].noisy_choice(n)) for n in (0, 9, 10)]
        [0, 1, 0]
        """
        if not 0 < validation < self.enough:
            return []
        few = f"the epoch is chosen by {validation} validation {self.noun}{'s' if validation > 1 else ''}"
        if self.whole:
            why = f", whose accuracy has a standard error of up to {50 / math.sqrt(validation):.0f} points"
        else:
            why = f"; the {self.counted}s of one are alike, so that it is {self.noun}s that count"
        what = "the choice is noisy; raise data.validation, or set data.validation=0 to take the last epoch"
        return [f"{few}{why}: {what}"]


DISPLAYS = {
    "classification": Display(
        scores=(
            Score("test_accuracy", "Accuracy (%)", "test", ("Test", "acc. %")),
            Score("test_mean_class_accuracy", "Accuracy (%)", "mean class"),
            Score("train_accuracy", "Accuracy (%)", "train", ("Train", "acc. %"), optional=True),
        ),
        curves=(
            Quantity("accuracy", "Accuracy", "hollow marks: the chosen weights on the test set", percent=True),
            Quantity("loss", "Loss", "cross-entropy"),
        ),
        goal="to tell the {classes} classes of {data} apart",
        scored="Test accuracy",
        by_class="Test accuracy",
    ),
    "segmentation": Display(
        scores=(
            Score("test_miou", "Points (%)", "mIoU", ("Test", "mIoU %")),
            Score("test_accuracy", "Points (%)", "accuracy", ("Test", "acc. %")),
            Score("test_mean_class_accuracy", "Points (%)", "mean class"),
            Score("train_miou", "Points (%)", "mIoU, train", optional=True),
        ),
        curves=(
            Quantity("miou", "Mean IoU", "hollow marks: the chosen weights on the test set", percent=True),
            Quantity("accuracy", "Accuracy", "share of right points", percent=True),
            Quantity("loss", "Loss", "cross-entropy; of training, with its weights and additions"),
        ),
        goal="to tell the {classes} classes of the points of {data} apart",
        scored="Test mIoU at the points",
        by_class="Test IoU at the points",
        noun="scene",
        absent="In neither truth nor prediction",
        counted="point",
        class_score="IoU",
        class_mean="test_miou",
        enough=10,
    ),
}
"""By the name of the task."""
