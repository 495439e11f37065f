"""The section `choose`: what a run chooses by itself before it begins."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from image2point.config.frozen import Count, Positive, Section


def _as_list(value: Any) -> Any:
    """3 → [3]"""
    return [value] if type(value) is int else value


class Choose(Section):
    """Settings that are chosen for each run on validation clouds, before it begins. Test clouds play no part."""

    lr: tuple[Positive, ...] = ()
    """Learning rates among which the run chooses: each is tried in a short training, and the one with the best
    validation score takes the place of `training.lr`. Empty takes `training.lr` as it is."""
    epochs: Annotated[tuple[Count, ...], Field(min_length=1), BeforeValidator(_as_list)] = (3,)
    """Epochs of a trial, with the schedule of the run shortened to them. Several numbers are rounds of successive
    halving: after each but the last, the better half of the rates goes on to the next."""
    clouds: Count | None = None
    """With `data.shots`: choose by this many training clouds of each class that are not among the shots. Their labels
    are used for that alone. null takes the validation clouds of the run."""

    @model_validator(mode="after")
    def _possible(self) -> Choose:
        if len(self.lr) == 1 or len(set(self.lr)) < len(self.lr):
            raise ValueError(
                f"choose.lr = {list(self.lr)}: expected two or more different rates to choose from; for one rate set "
                "training.lr"
            )
        if list(self.epochs) != sorted(set(self.epochs)):
            raise ValueError(f"choose.epochs = {list(self.epochs)}: each round should have more epochs than the last")
        return self
