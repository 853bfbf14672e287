"""Looks for private things in captured bytes, however they were written down.

A secret is cut into windows, short enough that a part of it is found and long enough that chance finds none.
What was captured is unfolded into views (HTTP bodies, base64, hexadecimal, percent and JSON escapes, zlib,
gzip, zip, bz2, xz, and these within each other), and every window of every encoding is looked for at every
byte of every view. Numbers written as decimal text are compared by four digits.

Not found: encryption, a scale or a permutation that the scanner does not know, fewer than four numbers of a
tensor in a row, fewer than twelve characters of a text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from capture_views import View, views

VALUES = 4  # numbers of a tensor in a row
SMALL_VALUES = 8  # of a dtype of one byte
LETTERS = 12  # characters of a text in a row
WIDTHS = (8, 4)  # bytes at the head of a window that are looked up first
NUMBER = re.compile(rb"[-+]?\d*\.\d{3,}(?:[eE][-+]?\d+)?")
TEXTS = ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")


@dataclass(frozen=True)
class Finding:
    """A private thing that was captured.

    Attributes:
        secret: its name.
        how: the encoding.
        where: the way to the view.
        at: offset in it.
    """

    secret: str
    how: str
    where: str
    at: int


class Scanner:
    """Secrets, cut into windows once, to be looked for in many captures."""

    def __init__(self) -> None:
        self._windows: dict[bytes, tuple[str, str]] = {}  # window -> (secret, encoding)
        self._decimals: dict[tuple[str, ...], str] = {}  # four numbers as text -> secret
        self._heads: dict[int, tuple[np.ndarray, list[int]]] = {}  # of windows, by width; and their lengths

    def tensor(self, name: str, values: np.ndarray) -> None:
        """Look for the numbers of a tensor, in either order of its axes, as any float type."""
        array = np.asarray(values, np.float64)
        for flat in {order: array.ravel(order) for order in ("C", "F")}.values():
            for how, encoded in floats(flat).items():
                size = encoded.itemsize
                count = VALUES if size > 1 else SMALL_VALUES
                for first in range(0, len(flat) - count + 1):
                    window = encoded[first : first + count]
                    if len(np.unique(window)) >= count - 1:  # zeros and repetitions are everywhere
                        self._add(window.tobytes(), name, how)
            words = [f"{value:.3e}" for value in flat.tolist()]
            for first in range(0, len(words) - VALUES + 1):
                some = tuple(words[first : first + VALUES])
                if len(set(some)) >= VALUES - 1:
                    self._decimals[some] = name

    def text(self, name: str, words: str) -> None:
        """Look for any part of a text; a text shorter than a window is looked for whole."""
        if len(words) < 4:
            raise ValueError(f"a text of {len(words)} characters is in every capture")
        for start in range(max(1, len(words) - LETTERS + 1)):
            for how in TEXTS:
                self._add(words[start : start + LETTERS].encode(how), name, how)

    def number(self, name: str, value: float) -> None:
        """Look for one number: as eight bytes, or as decimal text.

        Args:
            name: of the secret.
            value: with at least six significant digits, since chance finds shorter ones. Four bytes are too
                few to tell from noise: what records leave at all is `fleet_traffic`'s to say.
        """
        words = f"{value:.6g}"
        if len(words.strip("-0.").replace(".", "")) < 6:
            raise ValueError(f"{words} is too short to be told from others")
        for order in "<>":
            self._add(np.array(value, f"{order}f8").tobytes(), name, f"{order}f8")
        self._add(words[:-1].encode(), name, "decimal text")  # the last digit may be rounded

    def scan(self, captured: Iterable[bytes] | Mapping[str, bytes]) -> list[Finding]:
        """Everything that is found, at most once for each secret, encoding and view."""
        named = (
            captured
            if isinstance(captured, Mapping)
            else {f"part {k}": raw for k, raw in enumerate(captured)}
        )
        found: dict[tuple[str, str, str], Finding] = {}
        for name, raw in named.items():
            for view in views(raw, name):
                for finding in self._in(view):
                    found.setdefault((finding.secret, finding.how, finding.where), finding)
        return list(found.values())

    def _add(self, window: bytes, secret: str, how: str) -> None:
        self._windows.setdefault(window, (secret, how))
        self._heads.clear()

    def _in(self, view: View) -> Iterator[Finding]:
        for width in WIDTHS:
            heads, lengths = self._heads_of(width)
            for at in _places(view.content, heads, width) if len(heads) else ():
                for length in lengths:
                    known = self._windows.get(view.content[at : at + length])
                    if known is not None:
                        yield Finding(*known, view.where, at)
        yield from self._written_out(view)

    def _heads_of(self, width: int) -> tuple[np.ndarray, list[int]]:
        """The first bytes of the windows that begin with so many, and the lengths of those windows."""
        if width not in self._heads:
            some = [
                w for w in self._windows if len(w) >= width and (width == WIDTHS[0] or len(w) < WIDTHS[0])
            ]
            heads = np.unique(np.frombuffer(b"".join({w[:width] for w in some}), f"<u{width}"))
            self._heads[width] = heads, sorted({len(w) for w in some})
        return self._heads[width]

    def _written_out(self, view: View) -> Iterator[Finding]:
        if not self._decimals:
            return
        seen = [(match.start(), f"{float(match[0]):.3e}") for match in NUMBER.finditer(view.content)]
        for k in range(len(seen) - VALUES + 1):
            some = tuple(word for _, word in seen[k : k + VALUES])
            if some in self._decimals:
                yield Finding(self._decimals[some], "decimal text", view.where, seen[k][0])


def _places(content: bytes, heads: np.ndarray, width: int) -> Iterator[int]:
    """Offsets at which one of `heads` stands."""
    for shift in range(width):
        count = (len(content) - shift) // width
        if count > 0:
            seen = np.frombuffer(content, f"<u{width}", count, shift)
            place = np.searchsorted(heads, seen).clip(max=len(heads) - 1)
            for k in np.flatnonzero(heads[place] == seen).tolist():
                yield int(k) * width + shift


def floats(flat: np.ndarray) -> dict[str, np.ndarray]:
    """Numbers as every float type, in both orders of bytes; types that numpy lacks as their bits."""
    import torch

    found: dict[str, np.ndarray] = {}
    with np.errstate(over="ignore", under="ignore"):
        for size in (2, 4, 8):
            for order in "<>":
                found[f"{order}f{size}"] = flat.astype(f"{order}f{size}")
    single = torch.from_numpy(flat.astype(np.float32))
    rounded = single.to(torch.bfloat16).view(torch.int16).numpy()
    cut = (flat.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.int16)
    for name, bits in (("bf16", rounded), ("bf16, cut", cut)):
        found[f"<{name}"], found[f">{name}"] = bits.astype("<i2"), bits.astype(">i2")
    for kind in (torch.float8_e4m3fn, torch.float8_e5m2):
        found[str(kind).removeprefix("torch.")] = single.to(kind).view(torch.uint8).numpy()
    return found
