"""The planted styles as features: what is known is exactly the truth, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest

from commonground.data.starter import safety_pairs, taste_prompts
from commonground.errors import ConfigError
from commonground.settings import load_config
from commonground.simulations.known_basis import planted_basis, styles_of_texts, widened, with_styles
from commonground.simulations.planting import Planting
from commonground.training.basis import PublicBasis


def test_two_styles_are_at_distance_one_and_prompts_do_not_matter() -> None:
    prompts = taste_prompts()
    vectors = with_styles(dict.fromkeys(styles_of_texts(), np.full(5, 7.0, np.float32)))
    basis = planted_basis(5)
    found = {
        (k, style): basis.features(vectors[text][None])[0]
        for k in (0, 1)
        for style, text in prompts[k].answers.items()
    }
    for style in Planting().styles:
        assert np.array_equal(found[0, style], found[1, style])
        assert abs(found[0, style].sum()) < 1e-6
    lengths = [
        np.linalg.norm(found[0, one] - found[0, other])
        for one in Planting().styles
        for other in Planting().styles
        if one != other
    ]
    assert np.allclose(lengths, 1, atol=1e-6)


def test_a_planted_utility_is_linear_in_the_features() -> None:
    weights = np.array(Planting().centre)
    basis, prompt = planted_basis(3), taste_prompts()[4]
    vectors = with_styles({text: np.zeros(3, np.float32) for text in prompt.answers.values()})
    place = list(prompt.answers)
    order = np.array([weights[Planting().styles.index(style)] for style in place])
    for style, text in prompt.answers.items():
        reward = basis.features(vectors[text][None])[0] @ order * np.sqrt(2)
        assert reward == pytest.approx(weights[Planting().styles.index(style)], abs=1e-6)


def test_safety_sees_what_it_saw_before() -> None:
    matrix = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 3)))[0].astype(np.float32)
    basis = PublicBasis(matrix, 2.0, "toy")
    text = safety_pairs()[0].safe
    vector = {text: np.arange(6, dtype=np.float32)}
    wide = with_styles(vector)
    assert not wide[text][6:].any()
    assert np.allclose(widened(basis).features(wide[text][None]), basis.features(vector[text][None]))


@pytest.mark.parametrize("words", [["model.kind=policy"], ["data.taste.source=hub", "data.taste.path=x/y"]])
def test_only_a_simulation_of_planted_people_can_know_the_truth(words: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"model\.basis"):
        load_config(None, ["model.basis=planted", *words])
