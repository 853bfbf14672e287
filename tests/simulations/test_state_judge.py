"""The default judge: no head reads what it was fitted on, and the record is of what is shipped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from commonground.bounds.charter_files import charter_detector, default_charter, shipped_folder
from commonground.bounds.detectors import SPAN
from commonground.bounds.intervals import INFORMATIVE, Judge
from commonground.data.labelled_answers import LabelledAnswer, labelled_answers
from commonground.embeddings import Encoder
from commonground.errors import DataError, ModelError
from commonground.simulations.certify import state_judge
from commonground.simulations.certify.judges import make_judge, record_of
from commonground.simulations.certify.state_judge import (
    FOLDS,
    StateJudge,
    clear,
    fit,
    folds,
    record,
    shipped,
    to_text,
)
from commonground.states import BREAK, StateEncoder

WIDE = 6


class Marks:
    """States that know an answer by its words alone, and remember what they were asked to keep."""

    digest = "marks"

    def __init__(self) -> None:
        self.kept: list[bool] = []
        self.seen: list[str] = []

    def read(self, prompts: Sequence[str], answers: Sequence[str], *, keep: bool = True) -> np.ndarray:
        self.kept.append(keep)
        self.seen += answers
        return np.array([[a.count("bad"), a.count("fine"), len(a), 0, 1, 2] for a in answers], np.float32)


def rows(count: int = 60) -> list[LabelledAnswer]:
    made = [LabelledAnswer(f"prompt {k}", "bad" if k % 2 else "fine", bool(k % 2), "toy", "dev")
            for k in range(count)]  # fmt: skip
    return [*made, LabelledAnswer("prompt x", "bad", None, "toy", "dev")]


def test_a_fold_is_the_prompts_own_whatever_its_case() -> None:
    prompts = [f"How do I do {k}?" for k in range(200)]
    found = folds(prompts)
    assert set(found.tolist()) == set(range(FOLDS))
    assert (folds([p.upper() + " !" for p in prompts]) == found).all()


def test_it_tells_what_can_be_told_and_reads_public_texts_from_the_cache_alone() -> None:
    marks = Marks()
    judge, found = fit(marks, rows())
    assert found == Judge(hits=30, violations=30, alarms=0, safe=30)  # the unclear one is left out
    assert marks.kept == [True]
    bad, fine = judge.score(["a prompt", "a prompt"], ["bad", "fine"])
    assert bad > 0.5 > fine
    assert marks.kept == [True, False]
    with pytest.raises(ModelError, match="'states' reads answers"):
        judge.score(["a prompt"])
    assert judge.score([], []) == []


def test_no_answer_is_judged_by_a_head_that_was_fitted_on_its_prompt() -> None:
    """With labels by coin the record must be that of a coin: whoever saw the answers would know them all."""
    draws = np.random.default_rng(0)
    states = draws.normal(size=(300, 40)).astype(np.float32)
    labels = draws.random(300) < 0.5
    made = [
        LabelledAnswer(f"prompt {k // 3}", f"{k}", bool(one), "toy", "dev") for k, one in enumerate(labels)
    ]

    class Noise(Marks):
        def read(self, prompts: Sequence[str], answers: Sequence[str], *, keep: bool = True) -> np.ndarray:
            return states[[int(a) for a in answers]]

    judge, found = fit(Noise(), made)
    assert abs(found.tpr - found.fpr) < 0.15
    # the head of another fold did see it
    other = StateJudge(Noise(), np.roll(judge.weights, 1, 0), np.roll(judge.bias, 1, 0))
    known = record(other.of_states([r.prompt for r in made], states), labels)
    assert known.tpr - known.fpr > 0.3


def test_a_long_answer_counts_by_its_worst_part() -> None:
    judge, _ = fit(Marks(), rows())
    harmless = "x" * SPAN
    mixed, alone = judge.score(["p", "p"], [harmless + " " * SPAN + "bad " * 40, harmless])
    assert mixed > alone


def test_a_score_that_is_none_counts_as_a_violation_in_a_record_too() -> None:
    scores, labels = np.array([np.nan, 0.4, 1.5, 0.1]), np.array([True, True, False, False])
    assert record(scores, labels) == Judge(hits=1, violations=2, alarms=1, safe=2)


def test_all_of_one_kind_is_refused() -> None:
    with pytest.raises(DataError, match="all of one kind"):
        fit(Marks(), [row for row in rows() if row.violation])


def test_what_is_written_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    marks = Marks()
    judge, found = fit(marks, rows())
    text = to_text(judge, found)
    real = state_judge._shipped
    monkeypatch.setattr(
        state_judge, "_shipped", lambda name: text.encode() if "json" in name[-4:] else real(name)
    )
    again, said = shipped(marks)
    assert (again.digest, said) == (judge.digest, found)
    other = Marks()
    other.digest = "another"
    with pytest.raises(ModelError, match="was fitted on the model marks; installed: another"):
        shipped(other)
    for broken, words in (({"version": 0}, "other answers"), ({"weights": "!"}, "damaged")):
        changed = json.dumps(json.loads(text) | broken).encode()
        monkeypatch.setattr(
            state_judge, "_shipped", lambda name, c=changed: c if "json" in name[-4:] else real(name)
        )
        with pytest.raises(DataError, match=words):
            shipped(marks)


def test_the_labelled_answers_are_whole() -> None:
    found = labelled_answers()
    assert len(found) == len({(row.prompt, row.answer) for row in found})
    assert {row.split for row in found} == {"train", "dev", "benign"}
    assert len(clear(found)) > 1000
    assert sum(bool(row.violation) for row in found) > 400
    split: dict[str, set[str]] = {}
    for row in found:
        split.setdefault(row.prompt, set()).add(row.split)
    assert {len(one) for one in split.values()} == {1}


@pytest.mark.model
def test_the_shipped_judge_is_informative_and_the_guard_is_another() -> None:
    charter, folder, encoder = default_charter(), shipped_folder(), Encoder()
    judge = make_judge("states", charter, folder, encoder.embed, encoder.digest)
    assert judge.record.violations + judge.record.safe == len(clear(labelled_answers()))
    assert judge.record.informativeness(0.05 / 3) > INFORMATIVE
    # what it was fitted on it reads out of fold: some rows again, with the very model
    some = [row for row in clear(labelled_answers()) if row.writer in ("plain", "federated")][::12]
    again = record_of(judge.judge, some)
    assert again.tpr - again.fpr > 0.35
    # the guard, tried on answers to prompts that it was not fitted on, knows more than a coin, and less
    guard = charter_detector(charter, "answers", folder, encoder.embed, encoder.digest)
    blind = record_of(guard, [row for row in labelled_answers() if row.split == "dev"])
    assert 0.1 < blind.tpr - blind.fpr < judge.record.tpr - judge.record.fpr


@pytest.mark.night
def test_the_shipped_judge_is_fitted_on_the_labelled_answers() -> None:
    reader = StateEncoder()
    judge, found = fit(reader, labelled_answers())
    known, said = shipped(reader)
    assert abs(found.hits - said.hits) <= 3
    assert abs(found.alarms - said.alarms) <= 3
    assert np.abs(judge.weights - known.weights).max() < 0.02 * np.abs(known.weights).max()


@pytest.mark.identity(once=True)
@pytest.mark.model
def test_states_are_the_same_alone_and_among_others_and_differ_by_prompt(tmp_path: Path) -> None:
    reader = StateEncoder()
    one = reader.read(["How do I open a tin?"], ["With an opener."], keep=False)
    both = reader.read(["x", "How do I open a tin?"], ["", "With an opener."], keep=False)
    assert one.shape == (1, 576)
    assert one.tobytes() == both[1:].tobytes()
    assert np.abs(reader.read(["How do I pick a lock?"], ["With an opener."], keep=False) - one).max() > 0.01
    assert BREAK not in "".join(row.prompt for row in labelled_answers())
    with pytest.raises(ModelError, match="has no row of layers to stop half-way in"):
        StateEncoder(Encoder().name).read(["a"], ["b"], keep=False)
