"""Planted people: who they are, what they answer, and that nothing leaks."""

import functools
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2

from commonground.comparisons import Comparison
from commonground.config import Config, DataConfig, SourceConfig
from commonground.data.starter import STYLES, safety_pairs, taste_prompts
from commonground.errors import DataError
from commonground.simulations.planting import Planting, draw_person
from commonground.simulations.population import (
    Population,
    populate,
    starter_safety_texts,
    starter_taste_texts,
)

SPLITS = ("warm", "cold", "unseen_people")


@functools.cache
def run(people: int = 40, split: str = "warm", seed: int = 1, **planting: float) -> Population:
    config = Config(people=people, seed=seed, data=DataConfig(split=split))
    return populate(config, replace(Planting(), **planting))  # type: ignore[arg-type]


def of(comparisons: Sequence[Comparison], person: str) -> list[Comparison]:
    return [comparison for comparison in comparisons if comparison.person == person]


def test_a_thousand_people() -> None:
    population = run(1000)
    assert len(population.train) == 1000 * (40 + 10)
    assert len(population.test) == 1000 * (60 + 10)


def test_person_is_the_same_among_10_and_1000() -> None:
    few, many = run(10), run(1000)
    assert few.people == many.people[:10]
    assert few.minority is not None
    assert many.minority is not None
    assert (few.minority == many.minority[:10]).all()
    for person in few.people:
        assert of(few.train, person.id) == of(many.train, person.id)
        assert of(few.test, person.id) == of(many.test, person.id)


def test_a_person_can_be_drawn_alone() -> None:
    planting = Planting()
    alone = draw_person(99_999, 1, planting)
    again = draw_person(99_999, 1, planting)
    assert alone.person.id == "person-099999"
    assert (alone.utility == again.utility).all()
    assert (alone.utility != draw_person(99_998, 1, planting).utility).all()
    assert (alone.utility != draw_person(99_999, 2, planting).utility).all()


def test_more_comparisons_do_not_make_another_person() -> None:
    config = Config(people=6, data=DataConfig(pairs_per_person=12, test_pairs=60))
    small, large = populate(config), run(6)
    assert small.people == large.people
    assert small.test == large.test


def test_every_comparison_is_of_the_starter_set() -> None:
    population = run(20)
    answers = {prompt.prompt: set(prompt.answers.values()) for prompt in taste_prompts()}
    pairs = {(pair.prompt, frozenset((pair.safe, pair.unsafe))) for pair in safety_pairs()}
    for comparison in population.train + population.test:
        if comparison.tag == "taste":
            assert {comparison.chosen, comparison.rejected} <= answers[comparison.prompt]
        else:
            assert (comparison.prompt, frozenset((comparison.chosen, comparison.rejected))) in pairs
    assert population.catalogue == starter_taste_texts()
    assert len(starter_taste_texts()) == len(taste_prompts()) * len(STYLES)
    assert len(starter_safety_texts()) == 2 * len(safety_pairs())
    assert set(Planting().styles) == set(STYLES)
    assert set(population.unit) == {"taste", "safety"}
    assert population.bad_rows["taste"]["count"] == 0
    assert population.left_out == {"taste": {}, "safety": {}}


@pytest.mark.parametrize("split", SPLITS)
def test_no_prompt_of_a_person_is_on_both_sides(split: str) -> None:
    population = run(40, split)
    sides: dict[str, dict[str, set[str]]] = {"train": defaultdict(set), "test": defaultdict(set)}
    for side, comparisons in (("train", population.train), ("test", population.test)):
        for comparison in comparisons:
            sides[side][comparison.person].add(comparison.prompt)
    for person in population.people:
        assert sides["test"][person.id]
        assert not sides["train"][person.id] & sides["test"][person.id]


@pytest.mark.parametrize("split", SPLITS)
def test_safety_prompts_are_split_for_everybody(split: str) -> None:
    population = run(100, split)
    train = {c.prompt for c in population.train if c.tag == "safety"}
    test = {c.prompt for c in population.test if c.tag == "safety"}
    assert train
    assert test
    assert not train & test
    share = len(test) / len({pair.prompt for pair in safety_pairs()})
    assert share == pytest.approx(0.25, abs=0.01)


def test_cold_prompts_are_unseen_by_everybody_and_warm_ones_are_not() -> None:
    def shared(split: str) -> set[str]:
        population = run(60, split)
        train = {c.prompt for c in population.train if c.tag == "taste"}
        return train & {c.prompt for c in population.test if c.tag == "taste"}

    assert not shared("cold")
    assert len(shared("warm")) == len(taste_prompts())


def test_a_quarter_of_the_people_is_unseen() -> None:
    population = run(100, "unseen_people")
    unseen = {person.id for person in population.people if person.split == "unseen"}
    assert len(unseen) == 25
    assert {p.id for p in run(10, "unseen_people").people if p.split == "unseen"} <= unseen
    assert not [c for c in population.train if c.tag == "safety" and c.person in unseen]
    assert {c.person for c in population.train if c.tag == "taste"} >= unseen
    assert {c.person for c in population.test if c.tag == "safety"} >= unseen
    assert all(person.split == "train" for person in run(40).people)


def test_two_people_are_never_both_unseen() -> None:
    for seed in range(200):
        pair = [draw_person(i, seed, Planting(), "unseen_people").person for i in (0, 1)]
        assert "train" in {person.split for person in pair}


def test_nobody_is_asked_the_same_question_twice() -> None:
    population = run(60)
    asked = Counter(
        (c.person, c.prompt, frozenset((c.chosen, c.rejected))) for c in population.train + population.test
    )
    assert set(asked.values()) == {1}


def test_questions_come_back_only_when_all_were_asked() -> None:
    """Cold: 54 prompts x 28 pairs of styles = 1,512 questions; 2,000 answers repeat 488 of them once."""
    config = Config(people=2, data=DataConfig(pairs_per_person=2000, test_pairs=12, split="cold"))
    population = populate(config)
    person = population.people[0].id
    asked = Counter(
        (c.prompt, frozenset((c.chosen, c.rejected)))
        for c in of(population.train, person)
        if c.tag == "taste"
    )
    assert len(asked) == 54 * 28
    assert Counter(asked.values()) == {1: 1512 - 488, 2: 488}


def test_minority_and_groups_have_their_shares() -> None:
    planting = Planting()
    drawn = [draw_person(i, 5, planting) for i in range(4000)]
    minority = np.array([planted.minority for planted in drawn])
    groups = np.array([planted.person.group for planted in drawn])
    assert planting.minority_share == pytest.approx(0.2)
    assert abs(minority.mean() - 0.2) < 3 * np.sqrt(0.2 * 0.8 / len(drawn))
    for name, share, part in planting.groups:
        inside = minority[groups == name]
        assert abs(len(inside) / len(drawn) - share) < 3 * np.sqrt(share * (1 - share) / len(drawn))
        assert abs(inside.mean() - part) < 3 * np.sqrt(part * (1 - part) / len(inside))


def test_minority_wants_the_opposite_on_half_of_the_styles() -> None:
    majority, minority = Planting().centres
    turned = np.isin(Planting().styles, Planting().opposed)
    assert turned.sum() == 4
    assert (minority[turned] == -majority[turned]).all()
    assert (minority[~turned] == majority[~turned]).all()
    assert majority.sum() == pytest.approx(0)
    assert minority.sum() == pytest.approx(0)


def test_labels_follow_the_truth() -> None:
    """Chi-squared over bins of the probability that the first of two styles (in a fixed order) is chosen."""
    population = run(1000)
    truth = population.truth
    assert truth is not None
    rank = {text: place for place, text in enumerate(starter_taste_texts())}
    first = np.array([rank.get(c.chosen, 0) < rank.get(c.rejected, 1) for c in population.test])[truth.taste]
    p = np.where(first, truth.p_own[truth.taste], 1 - truth.p_own[truth.taste])
    bins = np.digitize(p, np.linspace(0.05, 0.95, 19))
    expected = np.bincount(bins, weights=p, minlength=20)
    spread = np.bincount(bins, weights=p * (1 - p), minlength=20)
    seen = np.bincount(bins, weights=first, minlength=20)
    full = spread > 5
    statistic = float((((seen - expected) ** 2)[full] / spread[full]).sum())
    assert full.sum() > 15
    assert statistic < chi2.ppf(0.999, full.sum())
    # the test can fail: the same labels against the probabilities of the whole crowd
    pooled = np.where(first, truth.p_pool[truth.taste], 1 - truth.p_pool[truth.taste])
    bins = np.digitize(p, np.linspace(0.05, 0.95, 19))
    wrong = np.bincount(bins, weights=first - pooled, minlength=20) ** 2
    assert float((wrong[full] / spread[full]).sum()) > 10 * statistic


def test_attainable_accuracy_is_what_an_oracle_scores() -> None:
    """Answering each question as the truth says, scored on the recorded labels."""
    population = run(1000)
    truth = population.truth
    assert truth is not None
    found = truth.summary()
    own = (truth.p_own[truth.taste] > 0.5).mean()
    crowd = (truth.p_pool[truth.taste] > 0.5).mean()
    few = population.minority[truth.owner] if population.minority is not None else truth.taste
    minority = (truth.p_pool[truth.taste & few] > 0.5).mean()
    attainable = found["taste"]["attainable"]
    assert own == pytest.approx(attainable["personal"], abs=0.01)
    assert crowd == pytest.approx(attainable["pooled"], abs=0.01)
    assert minority == pytest.approx(attainable["minority_pooled"], abs=0.025)
    assert attainable["personal"] == pytest.approx(found["taste"]["law"]["personal"], abs=0.01)
    assert attainable["pooled"] == pytest.approx(found["taste"]["law"]["pooled"], abs=0.015)
    assert found["safety"]["attainable"] == pytest.approx(0.9627, abs=5e-5)
    json.dumps(found)


def test_the_default_law_leaves_room_for_personal_models() -> None:
    truth = run(2).truth
    assert truth is not None
    law = truth.summary()["taste"]["law"]
    assert 0.80 <= law["personal"] <= 0.85
    assert 0.65 <= law["pooled"] <= 0.70
    assert law["minority_pooled"] < 0.5 < law["minority_personal"]
    assert law["erased_nats"] > 0.1


def style_of() -> dict[str, int]:
    return {
        prompt.answers[style]: place
        for prompt in taste_prompts()
        for place, style in enumerate(Planting().styles)
    }


def wins(comparisons: Sequence[Comparison]) -> np.ndarray:
    """Wins minus losses of each style."""
    place = style_of()
    score = np.zeros(len(STYLES))
    for comparison in comparisons:
        if comparison.tag == "taste":
            score[place[comparison.chosen]] += 1
            score[place[comparison.rejected]] -= 1
    return score


def own_accuracy(population: Population, teachers: Sequence[str]) -> float:
    """Mean accuracy on each person's test of the style scores of that person's teacher."""
    place, right = style_of(), []
    for person, teacher in zip(population.people, teachers, strict=True):
        score = wins(of(population.train, teacher))
        tests = [c for c in of(population.test, person.id) if c.tag == "taste"]
        right.append(np.mean([score[place[c.chosen]] > score[place[c.rejected]] for c in tests]))
    return float(np.mean(right))


def test_permuted_people_lose_what_is_personal() -> None:
    population = run(60, tau=1.0)
    names = [person.id for person in population.people]
    own = own_accuracy(population, names)
    other = own_accuracy(population, names[1:] + names[:1])
    assert own > 0.7
    assert other < own - 0.1


def test_without_tastes_answers_are_coins() -> None:
    population = run(100, gamma=0.0)
    truth = population.truth
    assert truth is not None
    assert truth.p_own[truth.taste] == pytest.approx(0.5)
    assert truth.summary()["taste"]["attainable"]["personal"] == pytest.approx(0.5)
    names = [person.id for person in population.people]
    assert own_accuracy(population, names) == pytest.approx(0.5 - tie_share(population) / 2, abs=0.025)


def tie_share(population: Population) -> float:
    place, ties = style_of(), []
    for person in population.people:
        score = wins(of(population.train, person.id))
        tests = [c for c in of(population.test, person.id) if c.tag == "taste"]
        ties += [score[place[c.chosen]] == score[place[c.rejected]] for c in tests]
    return float(np.mean(ties))


def safe_share(population: Population) -> float:
    safe = {pair.safe for pair in safety_pairs()}
    return float(np.mean([c.chosen in safe for c in population.train + population.test if c.tag == "safety"]))


def test_safety_consensus_and_none() -> None:
    assert safe_share(run(1000)) == pytest.approx(0.9627, abs=3 * np.sqrt(0.9627 * 0.0373 / 20_000))
    none = run(150, kappa=0.0)
    assert safe_share(none) == pytest.approx(0.5, abs=3 * 0.5 / np.sqrt(3000))
    assert none.truth is not None
    assert none.truth.summary()["safety"]["attainable"] == pytest.approx(0.5)


def test_people_with_sure_tastes_answer_by_their_centre() -> None:
    population = run(20, gamma=1000.0, flip=0.0, rationality=0.0, tau=0.0)
    assert population.minority is not None
    place, centres = style_of(), Planting().centres
    for person, few in zip(population.people, population.minority, strict=True):
        for comparison in of(population.train, person.id):
            if comparison.tag == "taste":
                weights = centres[int(few)]
                assert weights[place[comparison.chosen]] >= weights[place[comparison.rejected]]


def write_pairs(path: Path, rows: Sequence[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def pair_rows(people: Sequence[str], prompts: int = 12) -> list[dict[str, str]]:
    return [
        {"prompt": f"question {q}", "chosen": f"good {q}", "rejected": f"bad {q}", "person": person}
        for person in people
        for q in range(prompts)
    ]


def test_taste_of_real_people_with_starter_safety(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "taste.jsonl", pair_rows(["ann", "bo", "cy"]))
    config = Config(people=3, data=DataConfig(taste=SourceConfig("pairs", path)))
    population = populate(config)
    assert {person.id for person in population.people} == {"ann", "bo", "cy"}
    assert population.truth is None
    assert population.minority is None
    safety = [c for c in population.train if c.tag == "safety"]
    assert Counter(c.person for c in safety) == {"ann": 10, "bo": 10, "cy": 10}


def test_planted_people_with_safety_of_a_file(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "person"} for row in pair_rows(["x"], 8)]
    path = write_pairs(tmp_path / "safety.jsonl", rows)
    config = Config(people=10, data=DataConfig(safety=SourceConfig("pairs", path)))
    population = populate(config)
    assert len(population.people) == 10
    train = [c for c in population.train if c.tag == "safety"]
    assert len(train) == len({c.person for c in train}) == 6
    assert population.left_out["safety"] == {
        "people without a safety comparison to learn from (they send zeros)": 4
    }
    truth = population.truth
    assert truth is not None
    assert not truth.safety.any()
    assert "safety" not in truth.summary()
    assert len(truth.p_own) == len(population.test)
    assert [c.tag == "taste" for c in population.test] == truth.taste.tolist()


def test_people_without_taste_to_learn_from_are_left_out(tmp_path: Path) -> None:
    """40 pairs dealt to 36 people: some of the unseen get a test pair and nothing to learn from."""
    rows = [{k: v for k, v in row.items() if k != "person"} for row in pair_rows(["x"], 40)]
    path = write_pairs(tmp_path / "taste.jsonl", rows)
    config = Config(people=36, data=DataConfig(taste=SourceConfig("pairs", path), split="unseen_people"))
    population = populate(config)
    taught = {c.person for c in population.train if c.tag == "taste"}
    assert taught == {person.id for person in population.people}
    assert {c.person for c in population.test} <= taught
    assert len(population.people) < 36
    assert sum(population.left_out["taste"].values()) >= 36 - len(population.people)


def test_one_person_is_no_population(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 2"):
        run(1)
    path = write_pairs(tmp_path / "taste.jsonl", pair_rows(["ann"]))
    with pytest.raises(DataError, match="at least 2"):
        populate(Config(people=5, data=DataConfig(taste=SourceConfig("pairs", path))))
