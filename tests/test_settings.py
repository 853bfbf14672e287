"""Every fault of a configuration is reported at once, with place, value and what is accepted."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from commonground.config import Config
from commonground.errors import ConfigError
from commonground.recipe import POLICY, POLICY_STYLES, REWARD, resolve
from commonground.rules import value_of
from commonground.settings import config_from, load_config, to_dict, to_yaml


def faults(*overrides: str, file: Path | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(file, overrides)
    return list(caught.value.faults)


def test_all_faults_of_a_file_come_together_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("people: -4\nmodl:\n  kind: reward\nprivacy:\n  shared:\n    epsilon: 0\n")
    found = faults(file=file)
    assert len(found) == 3
    assert any(":1: people: found -4; accepted: at least 2" in fault for fault in found)
    assert any(":2: modl: unknown key; did you mean model?" in fault for fault in found)
    assert any(":6: privacy.shared.epsilon: found 0; accepted: above 0" in fault for fault in found)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("people=1", "at least 2"),
        ("privacy.private.clip=inf", "a finite number above 0, since the noise is a multiple of it"),
        ("privacy.shared.clip=inf", "a finite number above 0, since the noise is a multiple of it"),
        ("privacy.noise=known", "accepted: seeded, os"),
        ("people=ten", "a whole number"),
        ("people=2.5", "a whole number"),
        ("privacy.shared.epsilon=nan", "a number"),
        ("privacy.private.epsilon=-1", "above 0"),
        ("privacy.shared.delta=1", "between 0 and 1"),
        ("runtime=fleett", "inprocess, ray"),
        ("loss.name=dppo", "known losses: bradley_terry"),
        ("loss.name=sft", "sft needs a policy"),
        ("shared.tags=[taste]", r"\[safety\] or \[safety,taste\]"),
        ("shared.tags=safety", "a list of texts"),
        ("data.taste.source=ratings", "the path of the ratings source"),
        ("model=reward", "a mapping with kind"),
        ("privacy.shared.epsilonn=3", "did you mean privacy.shared.epsilon?"),
        ("justaword", "accepted: key=value"),
        ("data.safety.source=ratings", "accepted: starter, pairs, hub"),
        ("strategy.average=7", "true or false"),
    ],
)
def test_one_fault(override: str, words: str) -> None:
    import re

    found = faults(override)
    assert any(re.search(words, fault) for fault in found), found


def test_cohort_may_not_exceed_people_when_given() -> None:
    assert any(
        "cohort: found 50; accepted: at most people, which is 10" in f
        for f in faults("people=10", "cohort=50")
    )
    assert resolve(load_config(None, ["people=3"])).cohort == 2


@pytest.mark.parametrize("schedule", ["joint", "alternating"])
def test_a_comparison_level_claim_needs_the_decoupled_schedule(schedule: str) -> None:
    found = faults(f"schedule={schedule}", "privacy.unit=comparison")
    assert any("only the person-level claim holds" in fault for fault in found)


def test_infinity_is_a_number_and_survives_the_file(tmp_path: Path) -> None:
    config = load_config(None, ["privacy.shared.epsilon=inf", "shared.tags=[safety,taste]"])
    assert math.isinf(config.privacy.shared.epsilon)
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config))
    assert load_config(file) == config


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("people: 30\nmodel: {dims: 9}\n")
    config = load_config(file, ["people=40", "model.form=tanh"])
    assert (config.people, config.model.dims, config.model.form) == (40, 9, "tanh")


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    file = tmp_path / "empty.yaml"
    file.write_text("")
    assert load_config(file) == Config()


@pytest.mark.parametrize("text", ["a: [1\n", "- 1\n- 2\n", "\x00"])
def test_what_is_no_mapping_is_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    assert len(faults(file=file)) == 1


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    assert "No such file" in faults(file=tmp_path / "missing.yaml")[0]


@pytest.mark.parametrize(("kind", "recipe"), [("reward", REWARD), ("policy", POLICY | POLICY_STYLES)])
def test_resolving_fills_every_null_that_has_a_default(kind: str, recipe: dict[str, object]) -> None:
    full = resolve(load_config(None, [f"model.kind={kind}"]))
    assert all(value_of(full, key) == default for key, default in recipe.items())
    assert resolve(full) == full


@given(st.integers(2, 10**6), st.floats(0.01, 100), st.sampled_from(["warm", "cold"]))
def test_yaml_round_trip(people: int, epsilon: float, split: str) -> None:
    config = config_from(
        {"people": people, "privacy": {"shared": {"epsilon": epsilon}}, "data": {"split": split}}
    )
    assert config_from(yaml.safe_load(to_yaml(config))) == config
    assert to_dict(config)["people"] == people


def test_a_private_adapter_without_noise_is_pulled_harder() -> None:
    noisy, plain = (resolve(load_config(None, [f"privacy.private.epsilon={e}"])) for e in ("8", "inf"))
    assert plain.privacy.private.ridge is not None
    assert noisy.privacy.private.ridge is not None
    assert plain.privacy.private.ridge > noisy.privacy.private.ridge
