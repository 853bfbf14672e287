"""The menu: the private part chooses among public behaviours, each certified once.

An item is a style instruction given to the shared policy, or an allow-listed rendering of its finished
answer. No private weight ever writes a word; what is private is which item is taken. Let v_k(x) be the
probability that item k violates on prompt x. Three ways to choose, and what each leaves of what is certified:

    once     the item, or a mixture, is fixed before the prompts come:  E v <= max_k E v_k(x)
    prompt   the item is chosen for each prompt:                        E v <= E max_k v_k(x)
    draws    all K answers are drawn and one of them is taken:          E v <= P(any of the K violates)

The second is not bounded by the worst item's average rate: two items that each violate on their own half of
the prompts have rate 1/2, and a choice that knows the prompt gets 1. So a menu is certified on both counts:
by item, with a union bound over K in the confidence, and by "any": a probe counts when any item's answer to
it violates, which covers all three ways at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from commonground.bounds.intervals import Judge, Rate, rate
from commonground.errors import InputError
from commonground.randomness import generator

_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf\u2b50\ufe0f]+ ?")
_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+", re.MULTILINE)
_LONG = {
    "n't": " not",
    "'re": " are",
    "'ve": " have",
    "'ll": " will",
    "'m": " am",
}
_IRREGULAR = {"won't": "will not", "can't": "cannot", "shan't": "shall not"}
SMILE = "🙂"


def as_is(text: str) -> str:
    """The answer."""
    return text


def brief(text: str) -> str:
    """Its first sentence."""
    return _SENTENCE.split(text.strip())[0]


def bullets(text: str) -> str:
    """One sentence a line, each as a list item; a list stays one."""
    lines = [_BULLET.sub("", line) for line in text.strip().splitlines() if line.strip()]
    return "\n".join(f"- {part}" for line in lines for part in _SENTENCE.split(line.strip()) if part)


def emoji(text: str) -> str:
    """A smile behind the last sentence."""
    return f"{text.rstrip()} {SMILE}" if text.strip() else text


def plain(text: str) -> str:
    """Without emoji, exclamation marks and list signs, contractions written out: as formal as signs get."""
    found = _BULLET.sub("", _EMOJI.sub("", text)).replace("’", "'").replace("!", ".")
    for short, long in _IRREGULAR.items():
        found = re.sub(rf"\b{short}\b", lambda m, long=long: _cased(m.group(), long), found, flags=re.I)  # type: ignore[misc]
    for short, long in _LONG.items():
        found = re.sub(rf"(?<=\w){short}\b", long, found)
    return found.strip()


def _cased(like: str, text: str) -> str:
    return text[0].upper() + text[1:] if like[0].isupper() else text


RENDERINGS: dict[str, Callable[[str], str]] = {
    "as_is": as_is,
    "brief": brief,
    "bullets": bullets,
    "emoji": emoji,
    "plain": plain,
}


@dataclass(frozen=True)
class Item:
    """A public behaviour.

    Attributes:
        name: what it is called.
        instruction: a style instruction that the shared policy gets before the prompt; '' for none.
        rendering: a key of `RENDERINGS`, applied to the finished answer.
    """

    name: str
    instruction: str = ""
    rendering: str = "as_is"

    def __post_init__(self) -> None:
        """Check the rendering; raises `InputError`."""
        if self.rendering not in RENDERINGS:
            raise InputError(
                f"menu item {self.name!r} has the rendering {self.rendering!r}; "
                f"known: {', '.join(RENDERINGS)}"
            )

    def prompt(self, prompt: str) -> str:
        """What the shared policy is asked."""
        return f"{self.instruction}\n\n{prompt}" if self.instruction else prompt

    def render(self, text: str) -> str:
        """What is shown of its answer."""
        return RENDERINGS[self.rendering](text)


DEFAULT = (
    Item("neutral"),
    Item("brief", rendering="brief"),
    Item("bullets", rendering="bullets"),
    Item("emoji", rendering="emoji"),
    Item("plain", rendering="plain"),
    Item("casual", "Answer in a relaxed, everyday tone."),
    Item("hedged", "Answer with care about what is not certain."),
    Item("formal", "Answer in a formal, polite tone."),
)


class Menu:
    """Items to choose from.

    Args:
        items: at least one, with names of their own.
    """

    def __init__(self, items: Sequence[Item] = DEFAULT) -> None:
        names = [item.name for item in items]
        if not names or len(set(names)) < len(names):
            raise InputError(
                f"the menu has the items {', '.join(names) or '(none)'}; some, each once, are needed"
            )
        self.items = tuple(items)

    def weights(self, scores: Sequence[float], sharpness: float = math.inf) -> list[float]:
        """A mixture over the items from private scores: the only thing that a private adapter decides.

        Args:
            scores: one an item, of any kind; one that is no finite number counts as the lowest there is.
            sharpness: infinity takes the best item; below that, weights proportional to e^(sharpness score).

        Returns:
            (K,) weights, 0 or more, that add up to 1.
        """
        if len(scores) != len(self.items):
            raise InputError(f"{len(scores)} scores for {len(self.items)} menu items; one each is needed")
        if not sharpness >= 0:
            raise InputError(f"sharpness is {sharpness}; accepted: 0 or more")
        known = [float(s) if math.isfinite(s) else -math.inf for s in scores]
        top = max(known)
        if top == -math.inf:
            return [1.0] + [0.0] * (len(known) - 1)
        if sharpness == math.inf:
            return [float(k == known.index(top)) for k in range(len(known))]
        # the product of 0 and infinity is a number nobody meant
        found = [math.exp(sharpness * (s - top)) if s > -math.inf else 0.0 for s in known]
        return [f / sum(found) for f in found]

    def choose(self, weights: Sequence[float], seed: int, *name: str | int) -> Item:
        """One item by its weight, drawn by name (docs: `randomness`)."""
        found = np.cumsum(np.asarray(weights, np.float64))
        place = np.searchsorted(found, generator(seed, "menu", *name).random() * found[-1], side="right")
        return self.items[min(int(place), len(self.items) - 1)]


@dataclass(frozen=True)
class MenuRates:
    """What is certified of a menu; every statement holds with confidence 1 - alpha.

    Attributes:
        items: name -> bounds at alpha / K each, so that all hold together.
        any: bounds on the probability that any item violates on a prompt, at alpha.
    """

    items: dict[str, Rate]
    any: Rate

    @property
    def once(self) -> float:
        """Upper bound for any choice or mixture fixed before the prompts: the worst item's."""
        return max(item.high for item in self.items.values())

    @property
    def adaptive(self) -> float:
        """Upper bound for any choice at all, by prompt and even after seeing the draws."""
        return min(self.any.high, 1.0)


def certify_menu(
    menu: Menu, violations: np.ndarray, judge: Judge | None = None, alpha: float = 0.05
) -> MenuRates:
    """Rates of a menu from one answer of every item to every probe.

    Args:
        menu: K items.
        violations: (probes, K) bool, what the judge saw.
        judge: its record on labelled answers, or None where the predicate is exact. For `any` its false
            alarms add up over K answers, so its errors are taken as those of "any of K".
        alpha: as in `rate`.

    Raises:
        InputError: the table is no table of K columns.
    """
    table = np.asarray(violations, dtype=bool)
    count = len(menu.items)
    if table.ndim != 2 or table.shape[1] != count:
        raise InputError(f"violations have the shape {table.shape}; (probes, {count}) is needed")
    items = {
        item.name: rate(int(table[:, k].sum()), len(table), judge, alpha / count)
        for k, item in enumerate(menu.items)
    }
    if judge is None:
        return MenuRates(items, rate(int(table.any(1).sum()), len(table), None, alpha))
    # without labels for "any of K" the judge's errors on it are unknown: the sum of the items' bounds holds
    total = sum(item.high for item in items.values())
    notes = [item.note for item in items.values() if item.note]
    low = max(item.low for item in items.values())
    seen = int(table.any(1).sum())
    return MenuRates(items, Rate(seen, len(table), low, min(1.0, total), notes[0] if notes else ""))
