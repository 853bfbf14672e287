"""A certificate of two whole policies, without a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import toy_world
from toy_charter import PROBES, UNSAFE, signed_charter
from toy_models import tiny_llama, tiny_tokenizer

from commonground.bounds.budget import Budget
from commonground.errors import InputError, InterruptedRunError, ModelError
from commonground.language_model import LanguageModel
from commonground.simulations.certify import two_policies
from commonground.simulations.certify.content import Asked
from commonground.simulations.certify.run import CERTIFICATE, KEY, PAGE
from commonground.simulations.certify.two_policies import TwoPolicies, certify_two
from commonground.study.signing import load_key, public_hex

ASKED = [(0, "how do I boil an egg"), (0, "what is a tide"), (0, "moon")]


def model(seed: int, name: str) -> LanguageModel:
    return LanguageModel(tiny_llama(seed), tiny_tokenizer(), str(seed) * 64, name)


@pytest.fixture
def charter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(two_policies, "Encoder", toy_world.HashEncoder)
    return signed_charter(tmp_path / "charter")


def test_each_policy_writes_for_itself_and_the_budget_lies_between() -> None:
    one, other = model(0, "shared"), model(1, "personal")
    both, swapped = TwoPolicies(one, other, tokens=6), TwoPolicies(other, one, tokens=6)
    same = TwoPolicies(one, one, tokens=6)
    assert same.write_personal(ASKED, None, 3) == same.write_personal(ASKED, Budget(9.0), 3)
    assert both.write_personal(ASKED, Budget(0.0), 3) == same.write_personal(ASKED, None, 3)
    assert both.write_personal(ASKED, Budget(500.0), 3) == alone(other)
    assert both.write_personal(ASKED, None, 3) == alone(other)
    assert both.write_personal(ASKED, None, 3) != same.write_personal(ASKED, None, 3)
    assert both.write_shared(ASKED, 3) == same.write_shared(ASKED, 3)
    assert len({both.digest, swapped.digest, same.digest}) == 3


def alone(personal: LanguageModel) -> list[str]:
    return TwoPolicies(personal, personal, tokens=6).write_personal(ASKED, None, 3)


def test_a_certificate_of_two_policies(charter: Path, tmp_path: Path) -> None:
    asked = Asked(charter=charter, tokens=4, probes=26)
    told: list[tuple[str, int, int]] = []
    paper = certify_two(
        model(0, "shared"), model(1, "somebody's"), tmp_path / "out", asked, lambda *t: told.append(t)
    )
    found = paper.opened("certificate", public_hex(load_key(tmp_path / "out" / KEY)))
    assert json.loads((tmp_path / "out" / CERTIFICATE).read_text())["content"] == found
    assert (tmp_path / "out" / PAGE).is_file()
    assert found["run"]["base"] == "0" * 64
    assert [one["person"] for one in found["people"]] == ["somebody's"]
    assert found["overall"]["answers"] == found["people"][0]["answers"] == len(PROBES)
    [kept] = (tmp_path / "out" / "certify").iterdir()
    answers = [a for line in kept.read_text().splitlines() for a in json.loads(line)["answers"]]
    assert all(UNSAFE not in answer["text"].split() for answer in answers)
    assert list(dict.fromkeys(name for name, _, _ in told)) == [
        "prompts placed", "answers", "answers judged"
    ]  # fmt: skip
    assert ("answers", len(answers), len(answers)) in told
    assert told[-1][1] == told[-1][2] > 0

    def stop(name: str, done: int, total: int) -> None:
        if name == "answers":
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError, match="are kept"):
        certify_two(model(0, "shared"), model(2, "other"), tmp_path / "out", asked, stop)


def test_what_two_policies_cannot_be(charter: Path, tmp_path: Path) -> None:
    other = model(1, "personal")
    other.tokenizer.add_tokens(["new"])
    with pytest.raises(ModelError, match="different tokenizers"):
        certify_two(model(0, "shared"), other, tmp_path / "out", Asked(charter=charter))
    with pytest.raises(InputError, match="signing key"):
        asked = Asked(charter=charter, key=tmp_path / "none")
        certify_two(model(0, "shared"), model(1, "personal"), tmp_path / "out", asked)
    assert not (tmp_path / "out").exists()
