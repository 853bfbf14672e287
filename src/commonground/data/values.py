"""Single values as files write them: what is absent, a name, a number, a yes."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable

_INVISIBLE = dict.fromkeys(
    map(ord, "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad\u180e")
)  # marks that nobody sees


class RowError(ValueError):
    """Why a row cannot be used; always caught and counted.

    Attributes:
        reason: in words, the same for the same fault.
        value: what was found.
        left_out: the row is readable, and not wanted.
        field: which of our names the fault is in, where that matters to the whole file.
    """

    def __init__(self, reason: str, value: object = "", *, left_out: bool = False, field: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.value = str(value)
        self.left_out = left_out
        self.field = field


def absent(value: object) -> bool:
    """Whether a value says nothing: null, NaN (as pandas writes it) or an empty text."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def plain_name(name: str) -> str:
    """A column name without case and without what is no letter or digit: ``User_ID`` is ``userid``."""
    return "".join(mark for mark in name.casefold() if mark.isalnum())


def number(value: object) -> float | None:
    """A finite number, also where a CSV wrote it; None = it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def truth(value: object) -> bool | None:
    """A yes or no as JSON, pandas or a form writes it; None = it is neither."""
    word = str(value).strip().lower()
    if word in ("true", "1", "1.0", "yes"):
        return True
    return False if word in ("false", "0", "0.0", "no") else None


def as_name(name: str, value: object) -> str | None:
    """A person, group or item as its name: a text in one Unicode form, or a whole number; None = absent.

    3.0 is 3: a column of whole numbers with one NaN is all floats in pandas.

    Raises:
        RowError: it is neither.
    """
    if absent(value):
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RowError(f"{name} is not a text or a whole number", value, field=name)
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                found = repr(value[error.start])
                raise RowError(f"{name} is not valid Unicode", found, field=name) from error
            value = unicodedata.normalize("NFC", value)
            value = value.translate(_INVISIBLE)
        # ids that a CSV of floats wrote
        if re.fullmatch(r"\d{1,15}\.0", value):
            value = value[:-2]
    return str(value).strip() or None


def case_twins(names: Iterable[str]) -> list[list[str]]:
    """Names that differ only by case, compatible forms or spaces, together."""
    folded: dict[str, list[str]] = {}
    for name in names:
        key = "".join(unicodedata.normalize("NFKC", name).casefold().split())
        folded.setdefault(key, []).append(name)
    return [sorted(same) for same in folded.values() if len(same) > 1]
