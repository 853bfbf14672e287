"""Information erased by aggregation: what one reward model for everybody loses, in nats a comparison.

The price of one model instead of one a person is I(Y; person | pair) (methods J1). It is measured here on
held-out comparisons: log-loss of one pooled ridge logistic model minus log-loss of the same model plus a
residual of each person's own. Held-out, an overfitted residual costs instead of pretending to be
heterogeneity; and what the features or the few comparisons do not show is missed. So it is a lower bound.

The null deals the same comparisons out at random over people and measures again: it must not be above 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commonground.errors import InputError
from commonground.evaluation.accuracy import person_mean
from commonground.evaluation.intervals import finite, interval
from commonground.evaluation.logistic import curvature_bound, fit, log_loss

Floats = NDArray[np.float64]
Ints = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]
# Prior precision of the weights, from strong to weak, where the rows have root mean square length 1.
POOLED_RIDGES = (1000.0, 100.0, 10.0, 1.0)
PERSONAL_RIDGES = (float("inf"), 16.0, 4.0, 1.0, 0.25)
VALIDATION = 0.25  # share of the training comparisons on which the ridges are chosen
ASIDE = 0.4  # share of items or prompts set aside for that, where they are known


@dataclass(frozen=True)
class _Side:
    """Rows with their people and the margin that the pooled model gives them."""

    rows: Floats
    person: Ints
    offset: Floats


_Sides = tuple[_Side, _Side, _Side, _Side]  # inner training, validation, all training, test


def erased(
    train: Floats,
    train_person: Ints,
    test: Floats,
    test_person: Ints,
    *,
    people: int,
    rng: np.random.Generator,
    resamples: int,
    directions: int = 16,
    permutations: int = 5,
    texts: Ints | None = None,
) -> dict[str, Any]:
    """Held-out log-loss of a pooled model minus that of personal ones, and its permuted-person null.

    Args:
        train: (n, d) float64 frozen features of chosen - rejected, leading directions first.
        train_person: (n,) whose comparison it is, in [0, people).
        test: (m, d) held-out comparisons of the same people.
        test_person: (m,) as `train_person`.
        people: how many people there are.
        rng: splits, permutations and bootstrap draws.
        resamples: bootstrap draws.
        directions: a personal residual moves only the first of the d directions, this many.
        permutations: how often the comparisons are dealt out at random.
        texts: (n, 2) what the two sides of each training comparison are about (an item, a prompt), as
            numbers. The ridges are then chosen on comparisons of things that were not trained on, as the
            test is; chosen on known items they would let a residual learn the items by heart.

    Returns:
        nats, low, high (95 %, over people), people, bound = "lower", the two log-losses, the chosen ridges
        and `null` with the same numbers averaged over the permutations. nats are None without comparisons.

    Raises:
        InputError: features of different widths, or not one person index a row.
    """
    train, test = np.asarray(train, dtype=np.float64), np.asarray(test, dtype=np.float64)
    if train.ndim != 2 or test.ndim != 2 or train.shape[1] != test.shape[1]:
        raise InputError(f"features have shapes {train.shape} and {test.shape}; (n, d) and (m, d) are needed")
    if len(train_person) != len(train) or len(test_person) != len(test):
        raise InputError("each row of the features needs one person index")
    if len(train) < 8 or len(test) == 0 or people < 2:
        return _nothing(directions, permutations)
    scale = _norm(train)
    train, test = train / scale, test / scale
    inside, held = _try_on(len(train), texts, rng)

    pooled_ridge, trial = _choose_pooled(train[inside], train[held])
    full = fit(train[None], ridge=pooled_ridge, bound=curvature_bound(train[None]))[0]
    k = min(directions, train.shape[1])
    leading = _norm(train[:, :k])
    inner = _Side(train[inside, :k] / leading, train_person[inside], train[inside] @ trial)
    outer = _Side(train[held, :k] / leading, train_person[held], train[held] @ trial)
    learn = _Side(train[:, :k] / leading, train_person, train @ full)
    final = _Side(test[:, :k] / leading, test_person, test @ full)

    sides = (inner, outer, learn, final)
    gain, ridge = _gain(sides, people)
    found = interval(gain, resamples=resamples, rng=rng)
    nulls = []
    for _ in range(permutations):
        shuffled, _ = _gain(_deal(sides, (inside, held), rng), people)
        nulls.append(interval(shuffled, resamples=resamples, rng=rng))
    pooled_loss = person_mean(log_loss(final.offset), test_person, people)
    return found.to_dict("nats") | {
        "bound": "lower",
        "pooled_log_loss": finite(float(np.nanmean(pooled_loss))),
        "personal_log_loss": finite(float(np.nanmean(pooled_loss - gain))),
        "ridge": {"pooled": pooled_ridge, "personal": finite(ridge)},
        "directions": k,
        "null": {
            "nats": finite(float(np.mean([n.mean for n in nulls]))) if nulls else None,
            "low": finite(float(np.mean([n.low for n in nulls]))) if nulls else None,
            "high": finite(float(np.mean([n.high for n in nulls]))) if nulls else None,
            "permutations": permutations,
        },
    }


def _norm(rows: Floats) -> float:
    """Root mean square length of the rows; 1 where all are zero."""
    return float(np.sqrt(np.square(rows).sum(1).mean())) or 1.0


def _choose_pooled(rows: Floats, held: Floats) -> tuple[float, Floats]:
    """The pooled ridge with the least held-out log-loss, and its weights (d,)."""
    bound = curvature_bound(rows[None])
    weights = np.zeros((1, rows.shape[1]))
    best = (np.inf, POOLED_RIDGES[0], weights[0])
    for ridge in POOLED_RIDGES:  # from strong to weak, each starting where the last one ended
        weights = fit(rows[None], ridge=ridge, bound=bound, start=weights)
        best = min(best, (float(log_loss(held @ weights[0]).mean()), ridge, weights[0]), key=lambda b: b[0])
    return best[1], best[2]


def _gain(sides: _Sides, people: int) -> tuple[Floats, float]:
    """Each person's mean log-loss under pooled minus under pooled + residual on the last side, (people,)."""
    inner, outer, learn, final = sides
    padded = _pad(inner, people)
    losses = []
    for ridge in PERSONAL_RIDGES:
        residual = fit(padded[0], ridge=ridge, bound=padded[3], offset=padded[1], mask=padded[2])
        losses.append(float(log_loss(_margin(outer, residual)).mean()))
    ridge = PERSONAL_RIDGES[int(np.argmin(losses))]
    rows, offset, mask, bound = _pad(learn, people)
    residual = fit(rows, ridge=ridge, bound=bound, offset=offset, mask=mask)
    difference = log_loss(final.offset) - log_loss(_margin(final, residual))
    return person_mean(difference, final.person, people), ridge


def _margin(side: _Side, residual: Floats) -> Floats:
    return np.asarray(side.offset + np.einsum("nk,nk->n", side.rows, residual[side.person]), dtype=np.float64)


def _pad(side: _Side, people: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Rows (P, B, k), offset (P, B), mask (P, B) and curvature bound (P, k, k) of every person."""
    order = np.argsort(side.person, kind="stable")
    owner = side.person[order]
    count = np.bincount(owner, minlength=people)
    place = np.arange(owner.size) - np.repeat(np.cumsum(count) - count, count)
    width = max(1, int(count.max(initial=0)))
    rows = np.zeros((people, width, side.rows.shape[1]))
    offset, mask = np.zeros((people, width)), np.zeros((people, width))
    rows[owner, place], offset[owner, place], mask[owner, place] = side.rows[order], side.offset[order], 1.0
    return rows, offset, mask, curvature_bound(rows)


def _deal(sides: _Sides, parts: tuple[Mask, Mask], rng: np.random.Generator) -> _Sides:
    """The same comparisons dealt out at random: everybody keeps how many there are, not which."""
    inner, outer, learn, final = sides
    dealt, tested = rng.permutation(learn.person), rng.permutation(final.person)
    return (
        _Side(inner.rows, dealt[parts[0]], inner.offset),
        _Side(outer.rows, dealt[parts[1]], outer.offset),
        _Side(learn.rows, dealt, learn.offset),
        _Side(final.rows, tested, final.offset),
    )


def _try_on(count: int, texts: Ints | None, rng: np.random.Generator) -> tuple[Mask, Mask]:
    """Which training comparisons the ridges are tried on, (count,) each: learned from, and held out."""
    if texts is not None:
        number = int(texts.max()) + 1
        aside = np.zeros(number, dtype=np.bool_)
        aside[rng.permutation(number)[: round(ASIDE * number)]] = True
        left, right = aside[texts[:, 0]], aside[texts[:, 1]]
        inside, held = ~left & ~right, left & right
        if inside.any() and held.any():
            return inside, held
    held = rng.permutation(count) < max(1, round(VALIDATION * count))
    return ~held, held


def _nothing(directions: int, permutations: int) -> dict[str, Any]:
    empty = dict.fromkeys(("nats", "low", "high"))
    return empty | {
        "people": 0,
        "bound": "lower",
        "pooled_log_loss": None,
        "personal_log_loss": None,
        "ridge": {"pooled": None, "personal": None},
        "directions": directions,
        "null": empty | {"permutations": permutations},
    }
