"""Numbers in words: the one place that decides how a value is written on the page and in the terminal.

Every function takes anything, because a result file may lack a number; what is missing is a dash.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from typing import Any

from commonground.privacy.accounting import delta_is_meaningful

MISSING = "–"
MINUS = "−"
SPACE = "\N{NO-BREAK SPACE}"  # between a number and its unit
FEW_COMPARISONS = 30  # below this the standard error of a share is about 10 points or more
POLICIES: dict[str, tuple[str, str]] = {
    "base": ("Base", "the model before anything was learned"),
    "pooled": (
        "Pooled",
        "one model for everybody, from everybody's taste and safety, with the same rounds, clip and noise "
        "as the shared one",
    ),
    "pooled_central": (
        "Pooled, no noise",
        "one model for everybody without any privacy: what noise and clipping cost can be read off here",
    ),
    "local": ("Local only", "each person learns alone; nothing is sent and nothing is received"),
    "shared": ("Shared", "common ground: the base plus the shared adapter that everybody learned together"),
    "personal": (
        "Personal",
        "the shared model plus each person's private adapter, which stays on the device",
    ),
    "bounded": (
        "Under the charter",
        "what a person is shown of the personal model: her prompt is placed, the draw is bounded and guarded",
    ),
    "sft": ("Imitation", "control: only imitates the chosen answers (SFT), never sees the rejected ones"),
}


def number(value: Any) -> float | None:
    """`value` as a finite float, or None; text, booleans, nan and infinity are no numbers here."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def dig(values: Any, *keys: str) -> Any:
    """`values[k1][k2]...`, or None as soon as a key is missing or something is not a mapping."""
    for key in keys:
        if not isinstance(values, Mapping):
            return None
        values = values.get(key)
    return values


def mapping(values: Any, *keys: str) -> Mapping[str, Any]:
    """As `dig`, but an empty mapping in place of anything else."""
    found = dig(values, *keys)
    return found if isinstance(found, Mapping) else {}


def label(policy: str) -> str:
    """The name of a policy for readers."""
    return POLICIES.get(policy, (policy.replace("_", " "), ""))[0]


def percent(value: Any, digits: int = 1) -> str:
    """A fraction as per cent: 0.7312 -> '73.1 %'."""
    found = number(value)
    return MISSING if found is None else f"{_signed(100 * found, digits)}{SPACE}%"


def points(value: Any, digits: int = 1) -> str:
    """A difference of fractions in percentage points with its sign: 0.051 -> '+5.1'."""
    found = number(value)
    if found is None:
        return MISSING
    text = _signed(100 * found, digits)
    return text if text.startswith(MINUS) or float(text) == 0 else f"+{text}"


def span(low: Any, high: Any, digits: int = 1) -> str:
    """An interval of fractions, per cent without the sign: '71.9 to 74.2'; '' when it is unknown."""
    a, b = number(low), number(high)
    return "" if a is None or b is None else f"{_signed(100 * a, digits)} to {_signed(100 * b, digits)}"


def decimal(value: Any, digits: int = 3) -> str:
    """A plain number with a fixed number of digits."""
    found = number(value)
    return MISSING if found is None else _signed(found, digits)


def count(value: Any) -> str:
    """A whole number with thousands apart: 12345 -> '12,345'."""
    found = number(value)
    return MISSING if found is None else f"{round(found):,}".replace("-", MINUS)


def plural(value: Any, one: str, many: str | None = None) -> str:
    """'1 person', '12 people'."""
    return f"{count(value)} {one if number(value) == 1 else many or one + 's'}"


def size(value: Any) -> str:
    """Bytes: 4608000 -> '4.6 MB' (powers of 1000)."""
    found = number(value)
    if found is None:
        return MISSING
    if abs(found) < 1000:
        return f"{found:.0f}{SPACE}bytes"
    power = min(3, int(math.log10(abs(found)) // 3))
    return f"{found / 1000**power:.1f}{SPACE}{('kB', 'MB', 'GB')[power - 1]}"


def duration(value: Any) -> str:
    """Seconds: 75 -> '1 min 15 s'."""
    found = number(value)
    if found is None:
        return MISSING
    if found < 60:
        return f"{found:.1f} s" if found < 10 else f"{found:.0f} s"
    minutes, seconds = divmod(round(found), 60)
    return f"{minutes} min {seconds:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def epsilon(value: Any) -> str:
    """A privacy budget, a number or its text; infinity and absence are said in words."""
    found = _epsilon(value)
    if math.isinf(found):
        return "unlimited (no guarantee)"
    return "not claimed" if math.isnan(found) else f"{found:.3g}"


class Claimed(Enum):
    """What kind of epsilon a claim makes."""

    NUMBER = "a number"
    UNLIMITED = "infinite: no guarantee"
    NONE = "none"
    TOO_FEW = "none, because the people are too few"
    LARGE_DELTA = "none, because delta is too large for so many people, or comparisons"


WHY_NOT = {Claimed.TOO_FEW: "too few people", Claimed.LARGE_DELTA: "delta is too large"}


def claim_kind(budget: Mapping[str, Any]) -> Claimed:
    """What kind of epsilon a claim makes; too few people, or too large a delta for so many, get no number."""
    found = _epsilon(budget.get("epsilon"))
    if math.isinf(found):
        return Claimed.UNLIMITED
    if not math.isnan(found):
        return Claimed.NUMBER
    if budget.get("meaningful") is not False:
        return Claimed.NONE
    units, delta = number(budget.get("units")), number(budget.get("delta"))
    large = units is not None and delta is not None and not delta_is_meaningful(int(units), delta)
    return Claimed.LARGE_DELTA if large else Claimed.TOO_FEW


def claimed(budget: Mapping[str, Any]) -> str:
    """The epsilon that a claim makes, in words."""
    if (why := WHY_NOT.get(claim_kind(budget))) is not None:
        return f"not claimed ({why})"
    return epsilon(budget.get("epsilon"))


def scientific(value: Any) -> str:
    """A small number such as delta: 0.00294 -> '2.9e-3'."""
    found = number(value)
    if found is None:
        return MISSING
    if found == 0 or abs(found) >= 0.01:
        return f"{found:.3g}"
    mantissa, exponent = f"{found:.1e}".split("e")
    return f"{mantissa}e{MINUS}{abs(int(exponent))}"


def plain(value: Any) -> str:
    """Any single value of a result file as text."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return "unlimited" if math.isinf(value) else MISSING if math.isnan(value) else f"{value:.4g}"
    return str(value)


def excludes_zero(entry: Mapping[str, Any]) -> bool | None:
    """True when the interval of `entry` lies on one side of 0; None when there is no interval."""
    low, high = number(entry.get("low")), number(entry.get("high"))
    return None if low is None or high is None else low > 0 or high < 0


def _epsilon(value: Any) -> float:
    """A budget as a number; NaN where there is none."""
    try:
        return math.nan if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return math.nan


def _signed(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)
