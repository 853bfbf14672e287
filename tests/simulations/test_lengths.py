"""What a model does not read of the data is counted, and pairs that it cannot tell apart are left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from toy_models import tiny_llama, tiny_tokenizer

from commonground.config import Config
from commonground.errors import DataError
from commonground.recipe import resolve
from commonground.settings import config_from
from commonground.simulations.lengths import MOST_ANSWER, MOST_PROMPT, as_read
from commonground.simulations.population import NO_TASTE, populate
from commonground.simulations.world import build_world
from commonground.training.texts import ANSWER_TOKENS, PROMPT_TOKENS, TextEncoder

SEA = "sea " * 200


def people_file(path: Path, tail: bool) -> Path:
    """Six people with ten pairs each; `tail`: answers of the first person differ after 200 words only."""
    rows = []
    for person in range(6):
        for n in range(10):
            words = "the sea rises " * 70 if tail and person == 0 else f"{person} {n} "
            rows.append(
                {"person": f"p{person}", "prompt": f"question {n} of {person}", "chosen": f"{words} yes {n}",
                 "rejected": f"{words} no {n}"}
            )  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config_of(file: Path, **model: Any) -> Config:
    source = {"source": "pairs", "path": str(file)}
    data = {"taste": source, "safety": source}
    return resolve(config_from({"people": 6, "rounds": 2, "cohort": 3, "data": data, "model": model}))


@pytest.fixture
def base(tmp_path: Path) -> str:
    folder = tmp_path / "base"
    tiny_llama(0, 1).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def test_pairs_that_the_reward_s_encoder_cannot_tell_apart_are_left_out(tmp_path: Path) -> None:
    config = config_of(people_file(tmp_path / "x.jsonl", tail=True))
    before = populate(config)
    _, after = as_read(config, before)
    mine = sum(one.person == "p0" and one.tag == "taste" for one in before.train + before.test)
    assert mine == 10
    assert after.left_out["taste"]["pairs equal after the cut at 128 tokens"] == mine
    assert after.cut["taste"]["answers_cut"] == mine
    assert [person.id for person in after.people] == [p.id for p in before.people if p.id != "p0"]
    assert after.left_out["taste"][NO_TASTE] == 1
    assert not any(one.person == "p0" for one in after.train + after.test)
    assert any(note.loud and "equal after the cut" in note.text for note in after.notes["taste"])


def test_data_that_fit_lose_nothing(tmp_path: Path) -> None:
    config = config_of(people_file(tmp_path / "x.jsonl", tail=False))
    before = populate(config)
    same, after = as_read(config, before)
    assert (same, after.train, after.test, after.left_out) == (
        config, before.train, before.test, before.left_out
    )  # fmt: skip
    assert after.cut["taste"] == {
        "comparisons": 60, "answers_cut": 0, "prompts_cut": 0, "equal_after_the_cut": 0,
    }  # fmt: skip


def test_auto_reads_99_of_100_texts_within_what_a_step_may_cost(tmp_path: Path, base: str) -> None:
    short = config_of(people_file(tmp_path / "short.jsonl", tail=False), kind="policy", base=base)
    config, _ = as_read(short, populate(short))
    assert (config.model.answer_tokens, config.model.prompt_tokens) == (ANSWER_TOKENS, PROMPT_TOKENS)
    assert short.model.answer_tokens == "auto"  # the run's own configuration stays as it was
    long = config_of(people_file(tmp_path / "long.jsonl", tail=True), kind="policy", base=base)
    config, population = as_read(long, populate(long))
    texts = TextEncoder(tiny_tokenizer(), max_prompt=4096, max_answer=4096)
    longest = max(len(texts.answer(one.chosen)) for one in population.train)
    assert isinstance(config.model.answer_tokens, int)
    assert ANSWER_TOKENS < config.model.answer_tokens <= min(MOST_ANSWER, longest)
    assert isinstance(config.model.prompt_tokens, int)
    assert PROMPT_TOKENS <= config.model.prompt_tokens <= MOST_PROMPT
    said = config_of(people_file(tmp_path / "x.jsonl", tail=True), kind="policy", base=base, answer_tokens=9)
    config, population = as_read(said, populate(said))
    assert config.model.answer_tokens == 9
    assert population.left_out["taste"]["pairs equal after the cut at 9 tokens"] == 10


def test_a_world_has_the_lengths_that_it_reads_with(tmp_path: Path, base: str) -> None:
    config = config_of(
        people_file(tmp_path / "x.jsonl", tail=True), kind="policy", base=base, adapter="lora", layers=1
    )
    world = build_world(config)
    assert isinstance(world.config.model.answer_tokens, int)
    model: Any = world.models["shared"]
    assert model.texts._max_answer == world.config.model.answer_tokens
    assert model.texts._max_prompt == world.config.model.prompt_tokens
    assert world.sources == build_world(config).sources


def test_where_nothing_is_left_the_reason_is_said(tmp_path: Path) -> None:
    rows = [
        {"person": f"p{n % 3}", "prompt": f"q {n}", "chosen": f"{n} {SEA} yes",
         "rejected": f"{n} {SEA} no"}
        for n in range(30)
    ]  # fmt: skip
    file = tmp_path / "x.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = config_of(file)
    with pytest.raises(DataError, match="0 people have a comparison that the model can read") as caught:
        as_read(config, populate(config))
    assert "pairs equal after the cut at 128 tokens: 30" in (caught.value.hint or "")
