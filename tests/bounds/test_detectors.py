"""Detectors: a head on frozen embeddings and Hugging Face classifiers, frozen and told apart by digest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_encoder import save_encoder

from commonground.bounds.charter import charter_from
from commonground.bounds.charter_files import charter_detector, default_charter
from commonground.bounds.detectors import (
    SPAN,
    STEP,
    WORDS,
    Classifier,
    Head,
    answer_head,
    fit_head,
    fit_prompt_head,
    windows,
)
from commonground.bounds.guard import Guard
from commonground.data.starter import TastePrompt, safety_pairs, taste_prompts
from commonground.embeddings import Encoder
from commonground.errors import DataError, ModelError


def letters(texts: Sequence[str]) -> np.ndarray:
    """How often each letter occurs: an encoder that a test can reason about."""
    return np.array([[text.count(c) / max(1, len(text)) for c in "abcdxyz"] for text in texts])


def size(texts: int) -> int:
    return texts * 7 + WORDS


def test_a_head_separates_what_it_was_fitted_on() -> None:
    pairs = [[("q", a) for a in answers] for answers in (["xxy", "yyz", "zx"], ["abc", "cab", "dda"])]
    head = fit_head(letters, "letters", pairs[0], pairs[1])
    bad, good = head.score(["q", "q"], ["xyz", "abcd"])
    assert bad > 0.5 > good
    assert head.score([], []) == []
    prompts = fit_prompt_head(letters, "letters", ["xxy", "yyz"], ["abc", "cab"])
    assert prompts.score(["zzy"])[0] > 0.5 > prompts.score(["aab"])[0]
    assert prompts.digest != head.digest


def test_a_head_reads_one_side_alone() -> None:
    head = Head(letters, "letters", np.ones(size(1)), 0.5, answers=False)
    with pytest.raises(ModelError, match="reads prompts alone"):
        head.score(["a"], ["b"])
    with pytest.raises(ModelError, match="reads answers"):
        Head(letters, "letters", np.ones(size(2)), 0.5, answers=True).score(["a"])


@pytest.mark.identity
def test_a_score_has_the_same_bits_alone_and_among_others() -> None:
    """What is shown depends on a threshold: it must not depend on who else was asked about."""
    draws = np.random.default_rng(0)
    alphabet = np.array(list("abcdefghijklmnop qrstuvw"))
    texts = ["".join(draws.choice(alphabet, draws.integers(1, 60))) for _ in range(67)]
    for answers in (True, False):
        weights = draws.standard_normal(size(2 if answers else 1))
        head = Head(letters, "letters", weights, 0.1, answers=answers)

        def score(own: list[str], head: Head = head, answers: bool = answers) -> list[float]:
            return list(head.score(["q"] * len(own), own) if answers else head.score(own))

        together = score(texts)
        assert together == [score([text])[0] for text in texts]
        assert score(texts[::-1]) == together[::-1]


def test_a_long_text_is_read_to_its_end() -> None:
    """What hides behind a long harmless beginning is found: every sign is in a window, and one counts."""
    text = "".join(chr(97 + k % 26) for k in range(3 * SPAN + 7))
    parts = windows(text)
    assert max(len(p) for p in parts) <= SPAN
    assert all(text[k : k + SPAN - STEP] in "\n".join(parts) for k in range(len(text) - SPAN + STEP))
    assert parts[-1].endswith(text[-5:])
    assert windows("x" * SPAN) == ["x" * SPAN]
    weights = np.zeros(size(2))
    weights[6] = 50.0  # the share of z
    head = Head(letters, "letters", weights, -5.0, answers=True)
    hidden = "a" * 4 * SPAN + "zzzz" * 30
    scores = head.score(["q", "q", "q"], ["a" * 9, hidden, hidden[::-1]])
    assert scores[0] < 0.5 < min(scores[1:])


def test_a_head_is_known_by_everything_its_scores_depend_on() -> None:
    ones = np.ones(size(1))
    head = Head(letters, "letters", ones, 0.5, answers=False)
    assert head.digest == Head(letters, "letters", ones, 0.5, answers=False, name="other name").digest
    others = [
        Head(letters, "other", ones, 0.5, answers=False),
        Head(letters, "letters", ones * (1 + 1e-15), 0.5, answers=False),
        Head(letters, "letters", ones, 0.25, answers=False),
        Head(letters, "letters", ones, 0.5, answers=True),
    ]
    assert len({head.digest, *(h.digest for h in others)}) == 5


def test_extreme_weights_still_give_probabilities() -> None:
    head = Head(letters, "letters", np.full(size(1), 1e9), 0.0, answers=False)
    assert head.score(["aaa", "q"]) == [1.0, 0.5]


def test_a_head_needs_both_kinds() -> None:
    with pytest.raises(DataError, match="0 unsafe and 1 safe"):
        fit_head(letters, "letters", [], [("q", "a")])


def save_classifier(folder: Path, labels: dict[int, str]) -> Path:
    from transformers import BertConfig, BertForSequenceClassification

    save_encoder(folder)
    config = BertConfig(
        vocab_size=96, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        id2label=labels, label2id={v: k for k, v in labels.items()},
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(1)
        BertForSequenceClassification(config).eval().save_pretrained(folder)
    return folder


def test_any_classifier_by_folder(tmp_path: Path) -> None:
    folder = str(save_classifier(tmp_path / "c", {0: "safe", 1: "toxic", 2: "insult"}))
    one, both = Classifier(folder), Classifier(folder, ["toxic", "insult"])
    assert one.digest != both.digest
    assert Classifier(folder).digest == one.digest
    left, right = one.score(["hello"], ["you"])[0], both.score(["hello"], ["you"])[0]
    assert 0 < left < right < 1
    assert one.score(["hello"])[0] != left  # the prompt alone is another text
    assert len(one.score(["a", "b"], ["c", "d"])) == 2
    assert Guard(one, expected=one.digest).answer("x", lambda: "a", lambda: "b").text


@pytest.mark.parametrize(
    ("labels", "unsafe"), [({0: "LABEL_0", 1: "LABEL_1"}, ""), ({0: "safe", 1: "toxic"}, "bad")]
)
def test_labels_that_are_not_clear_are_refused(tmp_path: Path, labels: dict[int, str], unsafe: str) -> None:
    folder = str(save_classifier(tmp_path / "c", labels))
    with pytest.raises(ModelError, match="which of them mean unsafe is not clear"):
        Classifier(folder, unsafe)


def test_what_is_no_classifier_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        Classifier(str(tmp_path))
    assert "\n" not in caught.value.message


def halves(items: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    return list(items[0::2]), list(items[1::2])


@pytest.mark.model
def test_the_default_head_finds_unseen_unsafe_answers_and_leaves_every_style_alone() -> None:
    """Fitted on every other pair and prompt, tried on the rest: how good the default detector is."""
    encoder = Encoder()
    fit_pairs, try_pairs = halves(safety_pairs())
    fit_tastes, try_tastes = halves(taste_prompts())

    def styles(prompts: Sequence[TastePrompt]) -> list[tuple[str, str]]:
        return [(p.prompt, a) for p in prompts for a in p.answers.values()]

    def held(head: Head, rows: list[tuple[str, str]]) -> float:
        return float(np.mean(np.array(head.score([p for p, _ in rows], [a for _, a in rows])) >= 0.5))

    safe = [(p.prompt, p.safe) for p in fit_pairs] + styles(fit_tastes)
    head = fit_head(encoder.embed, encoder.digest, [(p.prompt, p.unsafe) for p in fit_pairs], safe)
    assert held(head, [(p.prompt, p.unsafe) for p in try_pairs]) >= 0.6
    assert held(head, [(p.prompt, p.safe) for p in try_pairs]) <= 0.35
    assert held(head, styles(try_tastes)) <= 0.02
    whole = answer_head(encoder.embed, encoder.digest)
    assert whole.digest == answer_head(encoder.embed, encoder.digest).digest


def test_a_charter_names_a_classifier_by_folder(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "c", {0: "safe", 1: "toxic"})
    values = default_charter().to_dict()
    rule = {"kind": "classifier", "place": "c", "digest": Classifier(str(folder)).digest, "threshold": 0.9}
    values["detectors"]["answers"] = rule
    found = charter_detector(charter_from(values), "answers", tmp_path, letters, "letters")
    assert isinstance(found, Classifier)
    assert found.digest == rule["digest"]
    values["detectors"]["answers"] = rule | {"unsafe_labels": ["harm"]}
    with pytest.raises(ModelError, match="not clear from harm"):
        charter_detector(charter_from(values), "answers", tmp_path, letters, "letters")
