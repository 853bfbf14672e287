"""The parts of a certificate: the stack in batches, what is kept, judges, deals, and bounds that hold."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from commonground.bounds.budget import Budget
from commonground.bounds.charter import charter_from
from commonground.bounds.charter_files import default_charter, shipped_folder
from commonground.bounds.charter_schema import Bounds
from commonground.bounds.enforcement import Enforcement
from commonground.bounds.guard import Guard
from commonground.bounds.intervals import Judge, upper
from commonground.bounds.probes import Probe
from commonground.bounds.tiers import Placement
from commonground.data.labelled_answers import LabelledAnswer
from commonground.errors import DataError, InputError, ModelError, StorageError
from commonground.report.certificate_page import certificate_page
from commonground.simulations.certify.answering import Answer, Kept, answer_all, place, write_chunk
from commonground.simulations.certify.claims import Judged, any_adapter, violation_rate
from commonground.simulations.certify.dealing import (
    EVERYDAY,
    LOOKALIKE,
    PROBE,
    Probes,
    Row,
    deal,
    read_charter_probes,
)
from commonground.simulations.certify.document import document, judge_answers
from commonground.simulations.certify.judges import TriedJudge, record_of
from commonground.study.charters import CharterFile, read_charter


class Words:
    """A detector that looks for one word."""

    def __init__(self, word: str) -> None:
        self.name, self.digest, self._word = word, word * 8, word

    def score(self, prompts: Sequence[str], answers: Sequence[str] | None = None) -> Sequence[float]:
        return [float(self._word in text.split()) for text in (prompts if answers is None else answers)]


def stack(draws: int = 1, closed_says: str = "shared") -> Enforcement:
    values = default_charter().to_dict()
    values["bounds"]["draws"], values["tiers"]["closed_says"] = draws, closed_says
    placement = Placement(Words("closed"), Words("near"), 0.5, 0.5)
    return Enforcement(charter_from(values), placement, Guard(Words("bad")), Budget(1.0))


class Scripted:
    """Policies that write what a script says, in turn, a prompt."""

    def __init__(self, personal: dict[str, list[str]], shared: dict[str, str]) -> None:
        self._personal, self._shared = {k: list(v) for k, v in personal.items()}, shared
        self.budgets: list[Budget | None] = []
        self.shared_asked = 0

    def write_shared(self, asked: Sequence[tuple[int, str]], seed: int) -> list[str]:
        self.shared_asked += len(asked)
        return [self._shared[prompt] for _, prompt in asked]

    def write_personal(self, asked: Sequence[tuple[int, str]], budget: Budget | None, seed: int) -> list[str]:
        self.budgets.append(budget)
        return [self._personal[prompt].pop(0) for _, prompt in asked]


@pytest.mark.parametrize("tier", ["free", "sensitive", "closed"])
@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("says", ["shared", "refusal"])
def test_a_batch_shows_what_the_stack_shows_one_by_one(tier: str, draws: int, says: str) -> None:
    word = {"free": "so", "sensitive": "near", "closed": "closed"}[tier]
    prompts = [f"{word} {k}" for k in range(8)]
    personal = {
        p: [("bad" if k & (1 << i) else "mine") + f" {i}" for i in range(3)] for k, p in enumerate(prompts)
    }
    shared = {p: "bad ours" if k % 2 else "ours" for k, p in enumerate(prompts)}
    enforcement, batch = stack(draws, says), Scripted(personal, shared)
    rows = [Row(EVERYDAY, 0, p, "") for p in prompts]
    assert place(enforcement, rows) == [tier] * 8
    found = write_chunk(batch, enforcement, rows, tier, 0)
    for prompt, answer in zip(prompts, found, strict=True):
        one = Scripted(personal, shared)
        wanted = enforcement.answer(
            prompt,
            lambda budget, one=one, p=prompt: one.write_personal([(0, p)], budget, 0)[0],  # type: ignore[misc]
            lambda one=one, p=prompt: one.write_shared([(0, p)], 0)[0],  # type: ignore[misc]
        )
        assert (answer.tier, answer.text, answer.source, answer.reasons) == (
            wanted.tier, wanted.shown.text, wanted.shown.source, wanted.shown.reasons
        )  # fmt: skip
    assert set(batch.budgets) <= {Budget(1.0) if tier == "sensitive" else None}
    assert bool(batch.budgets) == (tier != "closed")
    # benign rows draw from shared only where that is needed
    needed = sum(answer.source != "personal" for answer in found)
    assert batch.shared_asked == (0 if (tier, says) == ("closed", "refusal") else needed)


def test_every_probe_draws_from_shared_too() -> None:
    batch = Scripted({"so": ["mine"], "so bad": ["mine"]}, {"so": "ours", "so bad": "bad"})
    rows = [Row(PROBE, 0, "so", "fraud"), Row(PROBE, 1, "so bad", "fraud")]
    assert write_chunk(batch, stack(), rows, "free", 0) == [
        Answer("free", "personal", "mine", (), "ours", True),
        Answer("free", "personal", "mine", (), "bad", False),
    ]


def test_where_nobody_answers_nothing_can_be_missed() -> None:
    rows = [Row(PROBE, 0, "closed 1", "fraud"), Row(LOOKALIKE, 1, "closed 2", "fraud")]
    batch = Scripted({}, {})
    found = write_chunk(batch, stack(closed_says="refusal"), rows, "closed", 0)
    assert [(one.source, one.shared, one.missed) for one in found] == [("refusal", None, False)] * 2
    assert {reason for one in found for reason in one.reasons} == {"closed"}
    judge = TriedJudge(Words("bad"), Judge(80, 84, 2, 84), "")
    judged = judge_answers(rows, found, judge).judged
    assert not any(one.violation or one.missed for one in judged)
    assert any_adapter(list(judged)[:1] * 300, judge.record, Bounds(), 0.05)["tiers"]["closed"]["events"] == 0


def test_chunks_are_kept_and_a_torn_one_is_written_again(tmp_path: Path) -> None:
    rows = [Row(PROBE, 0, f"closed {k}", "fraud") for k in range(60)]
    shared = {row.prompt: f"ours {row.prompt}" for row in rows}

    def ask() -> tuple[list[Answer], int]:
        policies = Scripted({}, shared)
        found = answer_all(policies, stack(), rows, Kept(tmp_path / "k" / "plan.jsonl"), lambda *_: None)
        return found, policies.shared_asked

    whole, asked = ask()
    assert asked == 60
    assert [a.text for a in whole] == [f"ours closed {k}" for k in range(60)]
    assert ask() == (whole, 0)
    file = tmp_path / "k" / "plan.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    for rest in (b"", b"{", lines[2][:-1], lines[2][: len(lines[2]) // 2], b"[]\n"):
        file.write_bytes(b"".join(lines[:2]) + rest)
        assert ask() == (whole, 12)
        assert file.read_bytes() == b"".join(lines)
    with pytest.raises(StorageError, match="cannot write"):
        Kept(tmp_path / "k" / "plan.jsonl" / "x").add(0, [])


PROBES = Probes(
    ("dev",),
    "dev",
    tuple(Probe(f"p{k}", "fraud") for k in range(50)),
    tuple(Probe(f"l{k}", "fraud") for k in range(5)),
)


def test_prompts_are_dealt_once_and_evenly() -> None:
    rows = deal(PROBES, 30, 4, seed=1)
    probes = [row for row in rows if row.kind == PROBE]
    assert len(probes) == len({row.prompt for row in probes}) == 30
    assert sorted(Counter(row.person for row in probes).values()) == [7, 7, 8, 8]
    assert len([row for row in rows if row.kind == LOOKALIKE]) == 5
    everyday = [(row.person, row.prompt) for row in rows if row.kind == EVERYDAY]
    assert len(everyday) == len(set(everyday)) == 16
    assert rows == deal(PROBES, 30, 4, seed=1)
    assert rows != deal(PROBES, 30, 4, seed=2)
    assert len([r for r in deal(PROBES, 300, 4, seed=1) if r.kind == PROBE]) == 50
    full = [row for row in deal(PROBES, 30, 4, seed=1, full=True) if row.kind == PROBE]
    assert [row for row in full if row.dealt] == probes
    assert len({(row.person, row.prompt) for row in full}) == len(full) == 120
    with pytest.raises(InputError, match="--probes is 0"):
        deal(PROBES, 0, 4, seed=1)


def test_probes_that_were_learnt_from_are_refused() -> None:
    shipped = read_charter(None)
    found = read_charter_probes(shipped, frozenset())
    assert (found.split, len(found.probes), len(found.lookalikes)) == ("dev", 328, 88)
    burned = found.probes[3].prompt.upper() + " !"
    with pytest.raises(DataError, match="1 of 328 probes were used in the run's training"):
        read_charter_probes(shipped, frozenset({burned}))
    values = shipped.charter.to_dict()
    values["probes"]["sealed"] = values["probes"]["train"] | {"split": "sealed"}
    again = CharterFile(charter_from(values), shipped_folder(), "", "")
    with pytest.raises(DataError, match="fitting the charter's detectors"):
        read_charter_probes(again, frozenset())


def test_a_judge_of_another_kind_is_tried_on_the_labelled_answers() -> None:
    rows = [LabelledAnswer(f"p{k}", word, says, "toy", "train") for k, (word, says) in enumerate(
        [("bad", True), ("fine", True), ("bad", False), ("fine", False), ("fine", False), ("bad", None)]
    )]  # fmt: skip
    assert record_of(Words("bad"), rows) == Judge(hits=1, violations=2, alarms=1, safe=3)


class Odd(Words):
    def score(self, prompts: Sequence[str], answers: Sequence[str] | None = None) -> Sequence[float]:
        return [math.nan] if len(prompts) == 1 else [0.0]


def test_a_score_that_is_no_probability_counts_as_a_violation() -> None:
    judge = TriedJudge(Odd("x"), Judge(1, 1, 0, 1), "")
    assert judge.violations(["p"], ["a"]) == [True]
    with pytest.raises(ModelError, match="gave 1 scores for 2 answers"):
        judge.violations(["p", "q"], ["a", "b"])


def judged(
    rng: np.random.Generator, q: np.ndarray, judge: tuple[float, float], tiers: np.ndarray
) -> list[Judged]:
    """Answers of true violation rates q by tier, seen through a judge; a fifth of all are refusals."""
    found = []
    for tier in tiers:
        refused = rng.random() < 0.2
        tpr, fpr = judge
        seen = rng.random() < (tpr if rng.random() < q[tier] else fpr)
        missed = rng.random() < (tpr if rng.random() < q[tier] else fpr)
        passed = rng.random() >= 0.2
        name = ("free", "sensitive", "closed")[tier]
        found.append(Judged(name, refused, seen and not refused, missed and passed, passed))
    return found


def test_bounds_hold_as_often_as_they_say() -> None:
    rng, judge, q = np.random.default_rng(0), (0.8, 0.05), np.array([0.5, 0.1, 0.03])
    share = np.array([0.05, 0.2, 0.75])
    truth = 0.8 * float(q @ share)
    bounds, reach = Bounds(delta=1.0), 0.05 + 0.8 * (0.2 * 0.1 * (math.e + 1) + 0.75 * 0.03)
    wrong = np.zeros(3, int)
    for _ in range(120):
        record = Judge(int(rng.binomial(84, 0.8)), 84, int(rng.binomial(84, 0.05)), 84)
        rows = judged(rng, q, judge, rng.choice(3, 300, p=share))
        wrong += [
            violation_rate(rows, record, 0.05).high < truth,
            violation_rate(rows, record, 0.05, anytime=True).high < truth,
            any_adapter(rows, record, bounds, 0.05)["high"] < reach,
        ]
    assert (wrong <= 10).all()  # 5 % of 120 are 6


def test_a_judge_that_errs_never_bounds_tighter_than_an_exact_one() -> None:
    letters = Judge(hits=55, violations=84, alarms=5, safe=84)
    harmless = [Judged("free", False, False, False, True)] * 300
    for events in range(6):
        seen = [Judged("free", False, True, False, True)] * events + harmless[events:]
        assert violation_rate(seen, letters, 0.05).high > upper(events, 300, 0.05)


def test_refusals_are_no_violations_and_few_answers_say_little() -> None:
    record = Judge(80, 84, 2, 84)
    refused = [Judged("closed", True, False, False, False)] * 300
    assert violation_rate(refused, record, 0.05).high < 0.02
    assert violation_rate(refused[:9], record, 0.05).verdict(0.05) == "insufficient evidence"
    assert any_adapter(refused, record, Bounds(), 0.05)["high"] < 0.15
    free = [Judged("free", False, False, False, True)] * 300
    assert any_adapter(free, record, Bounds(), 0.05)["high"] == 1.0  # there the guard stands alone


def test_an_uninformative_judge_certifies_nothing() -> None:
    judge = TriedJudge(Words("bad"), Judge(42, 84, 40, 84), "by a coin")
    rows = deal(Probes(("dev",), "dev", PROBES.probes, PROBES.lookalikes), 50, 2, seed=0)
    answers = [Answer("closed", "shared", "ours", (), "ours", True) for _ in rows]
    found = document(default_charter(), judge_answers(rows, answers, judge), judge, ["a", "b"], [None, "g"])
    assert found["verdict"] == found["overall"]["verdict"] == "judge uninformative"
    assert found["any_adapter"]["verdict"] == "judge uninformative"
    assert not found["judge"]["informative"]
    assert "nothing is certified" in found["claim"]
    assert (found["overall"]["low"], found["overall"]["high"]) == (0.0, 1.0)
    assert set(found["benign"]["groups"]) == {"everybody", "g"}
    broken = TriedJudge(Words("bad"), Judge(84, 84, 0, 84), "")
    answers = [Answer("closed", "shared", "so bad", (), "so bad", True) for _ in rows]
    found = document(default_charter(), judge_answers(rows, answers, broken), broken, ["a", "b"], [None, "g"])
    assert found["verdict"] == "broken"
    assert "more often than the bound" in found["claim"]


def test_the_page_shows_markup_and_never_runs_it() -> None:
    judge = TriedJudge(Words("bad"), Judge(80, 84, 2, 84), "<b>how</b>")
    rows = deal(PROBES, 50, 2, seed=0)
    answers = [Answer("closed", "shared", "ours", (), "ours", True) for _ in rows]
    names = ["</script><script>window.broken = 1</script>", "b"]
    found = document(default_charter(), judge_answers(rows, answers, judge), judge, names, ["<i>", None])
    one = {"name": "r", "base": "b", "adapters": "a", "people": 2, "rounds": 1, "seed": 0}
    charter = {"digest": "d", "title": "<u>", "version": 1, "source": "s", "signer": "", "appeal": "<p>"}
    found["guard"] = {"hits": 1, "violations": 2, "alarms": 3, "safe": 4}
    how = {"sets": {"dev": "0"}, "split": "dev", "tokens": 4, "temperature": 0.7, "delta": 1.0, "draws": 1}
    page = certificate_page(
        found | {"run": one, "charter": charter, "procedure": how, "made": "now"}, "0" * 64, "1" * 128
    )
    assert page.count("<script") == 3
    for text in ("window.broken = 1</script>", "<b>how", "<u>", "<i>"):
        assert text not in page
    assert "&lt;script&gt;window.broken = 1" in page
    assert "The probes are public" in page


def test_many_people_make_evidence_thin_and_not_the_judge_bad() -> None:
    judge = TriedJudge(Words("bad"), Judge(60, 84, 8, 84), "")
    people = [f"p{k}" for k in range(40)]
    rows = deal(PROBES, 50, len(people), seed=0)
    answers = [Answer("closed", "shared", "ours", (), "ours", True) for _ in rows]
    found = document(
        default_charter(), judge_answers(rows, answers, judge), judge, people, [None] * len(people)
    )
    assert found["judge"]["informative"]
    assert found["verdict"] == "insufficient evidence"
    assert {one["verdict"] for one in found["people"]} == {"insufficient evidence"}
    assert found["worst_person"]["high"] == 1.0
