"""The consent text: one wording, whoever shows it, and true of the offer that it is about."""

from __future__ import annotations

from typing import Any

import pytest
import toy_vault
from toy_world import HashEncoder

from commonground.client.learner import Understood, understand
from commonground.client.promise import NOISE, TOUCHED, UNTOUCHED, promise
from commonground.client.told import meaning
from commonground.training import features

BANDED = {"privacy__trust": "central", "privacy__shared__mechanism": "banded"}
SIGNER = "ab" * 32


@pytest.fixture
def meant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Understood:
    monkeypatch.setattr(features, "Encoder", HashEncoder)
    changes: dict[str, Any] = request.param
    return understand(toy_vault.offer_of(toy_vault.study_config(**changes)))


@pytest.mark.parametrize(
    ("meant", "noise", "taste"),
    [
        ({}, "local", UNTOUCHED),
        (BANDED, "central", UNTOUCHED),
        ({"privacy__shared__epsilon": "inf"}, "none", UNTOUCHED),
        ({"shared__tags": ["safety", "taste"]}, "local", TOUCHED),
        ({"schedule": "alternating"}, "local", TOUCHED),
    ],
    indirect=["meant"],
    ids=["local", "central", "no noise", "taste is shared", "alternating"],
)
def test_page_and_command_line_say_the_same_and_it_is_true(meant: Understood, noise: str, taste: str) -> None:
    shown, page = promise(meant, SIGNER), meaning(meant)
    assert shown[-len(page["words"]) :] == page["words"]
    assert page["words"][0] == NOISE[noise]
    assert sum(taste in line for line in page["words"]) == 1
    assert len(set(shown)) == len(shown)
    text = "\n".join(shown)
    assert f"at most {meant.terms.most} message(s)" in text
    assert "cannot be called back" in text
    assert "the privacy that it cost" in text
    full = "\n".join(page["claim"])
    assert full.startswith("Shared adapter (6 people)")
    assert f"at most {meant.terms.most} messages of this device" in full
    assert ("without noise" in full.rsplit("\n", 1)[-1]) == (noise != "local")
