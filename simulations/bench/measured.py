"""What a benchmark found: rates and ratios with their spread, and the bars they are held against."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

SCHEMA = 1


@dataclass(frozen=True)
class Spread:
    """Smallest, middle and largest of several measurements."""

    min: float
    median: float
    max: float
    count: int


def spread(values: Sequence[float]) -> Spread:
    """The spread of at least one measurement."""
    return Spread(min(values), statistics.median(values), max(values), len(values))


def paired(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Quotients of measurements that were taken in turn, one by one."""
    return [left / right for left, right in zip(over, under, strict=True)]


@dataclass(frozen=True)
class Row:
    """One thing that was measured.

    Attributes:
        what: in words.
        unit: of the numbers; `x` for a ratio.
        values: their spread.
    """

    what: str
    unit: str
    values: Spread


@dataclass(frozen=True)
class Bar:
    """What a measurement should reach.

    Attributes:
        what: in words.
        wanted: the bar.
        seen: the median, which is what is held against it; None where it was not measured.
        unit: of both.
        at_least: False where smaller is better.
    """

    what: str
    wanted: float
    seen: float | None
    unit: str
    at_least: bool = True

    @property
    def met(self) -> bool | None:
        """Whether it is reached; None where it was not measured."""
        if self.seen is None:
            return None
        return self.seen >= self.wanted if self.at_least else self.seen <= self.wanted


class Barred:
    """What was measured beside what was wanted: the base of dataclasses that have `bars`."""

    bars: list[Bar]

    @property
    def missed(self) -> list[str]:
        """The bars that were measured and not reached."""
        return [bar.what for bar in self.bars if bar.met is False]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        bars = [asdict(bar) | {"met": bar.met} for bar in self.bars]
        values: dict[str, Any] = asdict(cast("Any", self))
        return {"schema": SCHEMA} | values | {"bars": bars, "missed": self.missed}


@dataclass(frozen=True)
class Measured(Barred):
    """What one benchmark found.

    Attributes:
        bench: its name.
        machine: where, in words.
        settings: what was run.
        rows: rates, times and ratios.
        bars: what was wanted and seen.
        notes: what a reader must know beside the numbers.
        curves: points of a plot, name -> (x, y, seconds or MB).
    """

    bench: str
    machine: dict[str, str | float | bool]
    settings: dict[str, Any]
    rows: list[Row]
    bars: list[Bar]
    notes: list[str] = field(default_factory=list)
    curves: dict[str, list[dict[str, float]]] = field(default_factory=dict)
