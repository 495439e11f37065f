"""How numbers are written in the tables and under the mouse."""

from __future__ import annotations

import math

from image2point.report.arms import Spread
from image2point.report.quantities import Quantity

ABSENT = "–"
UNDEFINED = "undefined"


def percent(value: Spread | None) -> str:
    """A share as per cent: '74.1 ± 0.2', '74.1' for a single run, '–' where there is none."""
    if value is None or math.isnan(value.mean):
        return ABSENT if value is None else UNDEFINED
    return f"{100 * value.mean:.1f}" + _sd(None if value.sd is None else 100 * value.sd, digits=1)


def number(value: Spread | None) -> str:
    """Three significant digits of the mean, the s.d. to the same decimal place.

    >>> number(Spread(0.1234, 0.01, 3)), number(Spread(math.nan, None, 3)), number(None)
    ('0.123 ± 0.010', 'undefined', '–')
    """
    if value is None or math.isnan(value.mean):
        return ABSENT if value is None else UNDEFINED
    size = abs(value.mean)
    if size and not 1e-3 <= size < 1e4:
        return f"{value.mean:.2e}" + ("" if value.sd is None else f" ± {value.sd:.1e}")
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3 if size >= 0.1 else 4
    return f"{value.mean:.{digits}f}" + _sd(value.sd, digits)


def _sd(sd: float | None, digits: int) -> str:
    """' ± 0.012'; with up to two more decimals where these would show a small spread as none."""
    if sd is None:
        return ""
    return f" ± {sd:.{digits}f}" if sd >= 0.5 * 10**-digits else f" ± {round(sd, digits + 2):g}"


def quantity(value: Spread | None, kind: Quantity) -> str:
    """A collapse quantity in its own unit."""
    if kind.count and value is not None and not math.isnan(value.mean):
        return f"{value.mean:,.6g}" + _sd(value.sd or None, digits=1)
    return percent(value) if kind.percent else number(value)


def beside_null(value: float, mean: float, sd: float, percent: bool = False) -> str:
    """The null of a measure, its spread, and the share of it that the value is.

    >>> beside_null(1.2, 4.5, 0.1), beside_null(0.5, 0.1, 0.02, percent=True), beside_null(1.0, math.nan, math.nan)
    ('4.5 ± 0.1: 0.27', '10 ± 2: 5.00', 'undefined')
    """
    if not math.isfinite(mean):
        return UNDEFINED
    scale = 100 if percent else 1
    share = f": {value / mean:.2f}" if mean and math.isfinite(value) else ""
    return f"{scale * mean:.3g}" + (f" ± {scale * sd:.1g}" if math.isfinite(sd) else "") + share


def duration(seconds: float) -> str:
    """'42 s', '6 min 12 s', '1 h 05 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def share(part: int, whole: int) -> str:
    """Per cent with enough digits that a small share is not shown as none."""
    ratio = 100 * part / whole if whole else 0.0
    return f"{ratio:.1f}" if ratio >= 1 or ratio == 0 else f"{ratio:.2g}"
