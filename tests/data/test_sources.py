from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commonground.comparisons import Person
from commonground.config import SourceConfig
from commonground.data.sources import LOADERS, SOURCES, SourceSpec, load_tag
from commonground.errors import DataError, InputError

ASK: dict[str, Any] = {"people": 5, "pairs_per_person": 9, "test_pairs": 9, "split": "warm", "seed": 1}


def test_the_registry_knows_all_sources() -> None:
    assert SOURCES == ("starter", "ratings", "pairs", "hub")
    assert set(LOADERS) == set(SOURCES) - {"starter"}


def test_the_config_itself_is_accepted(write_ratings: Callable[..., Path], spread_ratings: Any) -> None:
    path = str(write_ratings(spread_ratings()))
    one = load_tag(SourceConfig(source="ratings", path=path), "taste", **ASK)
    assert one == load_tag(SourceSpec(source="ratings", path=path), "taste", **ASK)


def test_the_starter_set_is_built_by_the_population() -> None:
    with pytest.raises(InputError, match="texts but no people"):
        load_tag(SourceSpec(), "taste", **ASK)


@pytest.mark.parametrize(
    ("spec", "change", "message"),
    [
        (SourceSpec("rating", "x"), {}, r"source is 'rating'; accepted: starter.*nearest: 'ratings'"),
        (SourceSpec("pairs", " "), {}, "data.taste.path is empty"),
        (SourceSpec("ratings", "x", preset="prism"), {}, "only sources 'hub' and 'pairs' have presets"),
        (SourceSpec("hub", "x", preset="prisn"), {}, "nearest: 'prism'"),
        (SourceSpec("pairs", "x"), {"split": "warn"}, "data.split is 'warn'.*nearest: 'warm'"),
        (SourceSpec("pairs", "x"), {"people": 1}, "people is 1; at least 2"),
        (SourceSpec("pairs", "x"), {"pairs_per_person": 0}, "pairs_per_person is 0"),
        (SourceSpec("pairs", "x"), {"test_pairs": -1}, "test_pairs is -1"),
        (SourceSpec("pairs", "x"), {"owners": [Person("a"), Person("a")]}, "same id"),
    ],
)
def test_a_request_that_cannot_be_met_is_one_line(
    spec: SourceSpec, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_tag(spec, "taste", **(ASK | change))


def test_unseen_people_needs_two_people_in_shared_training(write_jsonl: Callable[..., Path]) -> None:
    rows = [{"prompt": f"p{n}", "chosen": f"c{n}", "rejected": f"r{n}"} for n in range(20)]
    spec = SourceSpec("pairs", str(write_jsonl(rows)))
    with pytest.raises(DataError, match="fewer than 2 of 2 people"):
        load_tag(spec, "taste", **(ASK | {"people": 2, "split": "unseen_people"}))


def test_an_unknown_tag_is_refused() -> None:
    tag: Any = "tastes"
    with pytest.raises(DataError, match="tag is 'tastes'"):
        load_tag(SourceSpec("pairs", "x"), tag, **ASK)
