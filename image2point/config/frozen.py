"""What every section of a config is, and the kinds of values that many of them have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


def is_folder_name(name: str) -> bool:
    """Whether a run can have a folder of that name.

    >>> [is_folder_name(name) for name in ("ten_shots", "..", "a/b", "a" * 300)]
    [True, False, False, False]
    """
    return name not in {"", ".", ".."} and Path(name).name == name and name.isprintable() and len(name) <= 200


def as_text(value: Any) -> Any:
    """YAML reads 32 as a number where a word is meant."""
    return str(value) if type(value) is int else value


class Section(BaseModel):
    """A frozen group of settings that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
