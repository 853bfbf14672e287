"""A run whose devices let go of something that no account covers prints no epsilon and writes no result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_runs import Kit

from commonground.errors import PrivacyError
from commonground.server.job import Job
from commonground.simulations.receipts import Receipts

FINITE = ("privacy.shared.epsilon=8", "privacy.private.epsilon=inf", "people=120", "rounds=2")


def test_a_tensor_that_left_without_an_account_is_found(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Class: a guard that compares what was meant with what was meant, and can never fail."""
    keep: Any = Receipts.keep

    def more(self: Receipts, *given: Any) -> None:
        *first, names, epsilon = given
        keep(self, *first, (*names, "train_loss"), epsilon)

    monkeypatch.setattr(Receipts, "keep", more)
    with pytest.raises(PrivacyError, match="released without an account: 'train_loss'; accounted for: 'sh"):
        kit(tmp_path / "run", *FINITE)
    assert not (tmp_path / "run" / "result.json").exists()


def test_an_adapter_that_moved_without_noise_is_found(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job whose noise was lost on its way: what was learned has no account, whatever the claim says."""
    from commonground.simulations import runner

    job = runner._job

    def silent(*given: Any) -> Path:
        path = job(*given)
        made = Job.load(path)
        replace(made, noise_multiplier=0.0, mechanism={}).save(path)
        return path

    monkeypatch.setattr(runner, "_job", silent)
    with pytest.raises(PrivacyError, match="released without an account: 'shared"):
        kit(tmp_path / "run", *FINITE)


@pytest.mark.parametrize(
    "more",
    [
        ("privacy.trust=local",),
        ("strategy.name=scaffold",),
        ("privacy.shared.clip_mode=adaptive", "cohort=60"),
    ],
    ids=["local", "scaffold", "adapted clip"],
)
def test_what_is_accounted_for_is_let_through(kit: Kit, tmp_path: Path, more: tuple[str, ...]) -> None:
    found = kit(tmp_path / "run", *FINITE, *more)
    assert np.isfinite(found["privacy"]["shared"]["epsilon"])
