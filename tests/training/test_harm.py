"""The classifier that proposes `safety`: on shipped texts that it has not seen, and from nobody's data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from toy_world import HashEncoder

from commonground.data.starter import safety_pairs
from commonground.embeddings import Encoder
from commonground.training.harm import SURE, features, shipped_classifier, shipped_triples, train

FOLDS = 5


def embed(texts: Sequence[str]) -> np.ndarray:
    return HashEncoder().embed(texts)


def test_the_same_texts_give_the_same_weights() -> None:
    one, other = shipped_classifier(embed), shipped_classifier(embed)
    assert one.weights.tobytes() == other.weights.tobytes()


def test_the_order_of_the_answers_does_not_matter() -> None:
    pair = safety_pairs()[3]
    rows = features(embed, [(pair.prompt, pair.safe, pair.unsafe), (pair.prompt, pair.unsafe, pair.safe)])
    np.testing.assert_array_equal(rows[0], rows[1])


def test_unsure_is_safety() -> None:
    classifier = shipped_classifier(embed)
    row = np.zeros((1, len(classifier.weights)))
    assert classifier.probability(row)[0] == 0.5
    assert classifier.propose(row) == ["safety"]
    far = -20 * classifier.weights[None] / np.linalg.norm(classifier.weights)
    assert classifier.propose(far) == ["taste"]


@pytest.mark.model
@pytest.mark.slow
def test_on_prompts_that_it_has_not_seen_it_misses_little() -> None:
    """Five folds by prompt on real embeddings; measured: 1 of 84 missed, 11 of 144 proposed for nothing."""
    encoder = Encoder("")
    triples, harm = shipped_triples()
    rows, truth = features(encoder.embed, triples), np.array(harm)
    prompts = {prompt: k for k, prompt in enumerate(dict.fromkeys(prompt for prompt, _, _ in triples))}
    fold = np.array([prompts[prompt] % FOLDS for prompt, _, _ in triples])
    found = np.zeros(len(truth))
    for k in range(FOLDS):
        classifier = train(rows[fold != k], truth[fold != k].tolist())
        found[fold == k] = classifier.probability(rows[fold == k])
    assert np.mean(found[truth] < SURE) <= 0.05
    assert np.mean(found[~truth] >= SURE) <= 0.15
