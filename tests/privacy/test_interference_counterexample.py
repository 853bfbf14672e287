"""Why a comparison-level claim needs the decoupled schedule (methods B2, test T4).

Gradients g_j = clip_1(u + v - x_j) of 50 records at u = 0. In `alternating` the private value v is fitted to
the same records, v = mean(x); in `decoupled` it is disabled, v = 0. One record moves by 1000. Clipping each
gradient to 1 ought to bound the change of the released sum by 2 (one record replaced). It does so only in
`decoupled`: in `alternating` the moved record drags v along by 1000/50 = 20, which flips all other gradients.
"""

import numpy as np
import pytest

RECORDS, CLIP, MOVE = 50, 1.0, 1000.0


def clipped_sum(records: np.ndarray, private: float) -> float:
    return float(np.clip(0.0 + private - records, -CLIP, CLIP).sum())


def change(records: np.ndarray, moved: np.ndarray, schedule: str) -> float:
    before, after = (float(x.mean()) if schedule == "alternating" else 0.0 for x in (records, moved))
    return abs(clipped_sum(moved, after) - clipped_sum(records, before))


def pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    records = np.random.default_rng(seed).standard_normal(RECORDS)
    moved = records.copy()
    moved[0] += MOVE
    return records, moved


def test_the_numbers() -> None:
    records, moved = pair(1)
    assert change(records, moved, "alternating") == pytest.approx(49.07, abs=0.005)
    assert change(records, moved, "decoupled") == pytest.approx(0.654, abs=0.005)


def test_any_population() -> None:
    for seed in range(50):
        records, moved = pair(seed)
        assert change(records, moved, "decoupled") <= 2 * CLIP + 1e-12
        assert change(records, moved, "alternating") > 0.7 * RECORDS * CLIP


def test_worst_case_by_hand() -> None:
    """49 records at +1 and the moved one from -49 (mean 0): all gradients -1, then all but one +1."""
    records = np.array([-49.0, *[1.0] * 49])
    moved = records.copy()
    moved[0] += MOVE  # mean 0 -> 20; gradients 1 - 49 = -48, then 49 - 1 = 48
    assert change(records, moved, "alternating") == 96.0 == 2 * CLIP * (RECORDS - 2)
    assert change(records, moved, "decoupled") == 2.0
