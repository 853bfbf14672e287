"""What the model reads of the data: lengths that fit, texts that are cut, and pairs that the cut makes equal.

A text that is cut is counted, and a pair whose two answers are equal after the cut is left out: no model
could tell them apart, and it would count as half right. Shipped texts are short and are not looked at.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from commonground.comparisons import TAGS, Comparison
from commonground.config import AUTO, Config
from commonground.data.feedback import Note
from commonground.embeddings import MAX_TOKENS
from commonground.errors import DataError
from commonground.language_model import load_base
from commonground.simulations.population import NO_TASTE, STARTER, Population
from commonground.training import features
from commonground.training.texts import ANSWER_TOKENS, PROMPT_TOKENS, TextEncoder, read_tokens

SHARE = 0.99  # of the texts that `auto` reads whole
MOST_ANSWER, MOST_PROMPT = 256, 512  # tokens that `auto` takes at most: a step costs what it reads
CONTEXT = 2048  # of a model that does not say
LOUD = 0.1  # of the comparisons that may be cut before it is said loudly


def as_read(config: Config, population: Population) -> tuple[Config, Population]:
    """The run as its model reads the data.

    Args:
        config: resolved.
        population: of the run, with everybody's comparisons at hand.

    Returns:
        The configuration with lengths in place of `auto`, and the population without pairs that the cut makes
        equal, with what was cut in `cut`, `left_out` and `notes`.

    Raises:
        DataError: fewer than two people are left.
        ModelError: the model cannot be loaded.
    """
    tags = [tag for tag in TAGS if _source(config, tag) != STARTER]
    if not tags:
        return config, population
    table = [one for one in population.train + population.test if one.tag in tags]
    if config.model.kind == "policy":
        tokenizer, room = _tokenizer(config.model.base)
        config = _with_lengths(config, table, tokenizer, room)
        encoder = TextEncoder(
            tokenizer,
            max_prompt=read_tokens(config.model.prompt_tokens, PROMPT_TOKENS),
            max_answer=read_tokens(config.model.answer_tokens, ANSWER_TOKENS),
        )
        words = f"{config.model.answer_tokens} tokens"
        answer: Callable[[str], tuple[Any, bool]] = lru_cache(None)(
            lambda text: (encoder.answer(text), encoder.cut_answer(text))
        )
        prompt: Callable[[str], tuple[bool, str]] | None = lru_cache(None)(encoder.cuts)
    else:
        words, prompt = f"{MAX_TOKENS} tokens", None  # a reward reads no prompt
        answer = lru_cache(None)(features.encoder_of(config).kept_ids)
    cut: dict[str, dict[str, int]] = {}
    gone: set[int] = set()
    for tag in tags:
        cut[tag] = _cut([one for one in table if one.tag == tag], answer, prompt, gone)
    return config, _without(population, gone, cut, words)


def _source(config: Config, tag: str) -> str:
    return config.data.taste.source if tag == "taste" else config.data.safety.source


@lru_cache(maxsize=2)
def _tokenizer(base: str) -> tuple[Any, int]:
    """The tokenizer of a base model, and how many positions the model has."""
    found = load_base(base)
    room = getattr(found.model.config, "max_position_embeddings", None)
    return found.tokenizer, room if isinstance(room, int) and room > 0 else CONTEXT


def _with_lengths(config: Config, table: Sequence[Comparison], tokenizer: Any, room: int) -> Config:
    """`auto` as a number: what reads 99 of 100 texts whole, within the context and what a step may cost."""
    if AUTO not in (config.model.prompt_tokens, config.model.answer_tokens):
        return config
    whole = TextEncoder(tokenizer, max_prompt=1 << 30, max_answer=1 << 30)
    config = copy.deepcopy(config)
    if config.model.answer_tokens == AUTO:
        sizes = [len(whole.answer(text)) for text in _once(x for c in table for x in (c.chosen, c.rejected))]
        config.model.answer_tokens = min(_fitting(sizes, ANSWER_TOKENS, MOST_ANSWER), max(room // 2, 1))
    if config.model.prompt_tokens == AUTO:
        sizes = [len(whole.prompt(text)) for text in _once(c.prompt for c in table)]
        left = room - read_tokens(config.model.answer_tokens, ANSWER_TOKENS)
        config.model.prompt_tokens = min(_fitting(sizes, PROMPT_TOKENS, MOST_PROMPT), max(left, 16))
    return config


def _once(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _fitting(sizes: Sequence[int], least: int, most: int) -> int:
    return min(max(int(np.ceil(np.quantile(sizes, SHARE))), least), most) if sizes else least


def _cut(
    pairs: Sequence[Comparison],
    answer: Callable[[str], tuple[Any, bool]],
    prompt: Callable[[str], tuple[bool, str]] | None,
    gone: set[int],
) -> dict[str, int]:
    """What is cut of one tag's pairs; those that become equal are added to `gone`."""
    found = Counter({"comparisons": len(pairs), "answers_cut": 0, "prompts_cut": 0, "equal_after_the_cut": 0})
    for pair in pairs:
        (chosen, first), (rejected, second) = answer(pair.chosen), answer(pair.rejected)
        found["answers_cut"] += first or second
        if chosen == rejected:
            found["equal_after_the_cut"] += 1
            gone.add(id(pair))
        if prompt is not None:
            short, form = prompt(pair.prompt)
            found["prompts_cut"] += short
            if form != "as_said":
                found[form] += 1
    return dict(found)


def _without(
    population: Population, gone: set[int], cut: dict[str, dict[str, int]], words: str
) -> Population:
    """The population without pairs that are equal as they are read, and with a word on what is cut."""
    left_out = {tag: dict(reasons) for tag, reasons in population.left_out.items()}
    notes = dict(population.notes)
    for tag, found in cut.items():
        if equal := found["equal_after_the_cut"]:
            left_out.setdefault(tag, {})[f"pairs equal after the cut at {words}"] = equal
        parts = [
            f"{found[key]} of {found['comparisons']} {what}"
            for key, what in (
                ("answers_cut", f"comparisons have an answer that is cut at {words}"),
                ("prompts_cut", "have a prompt that is cut from its start"),
                ("equal_after_the_cut", "are equal after the cut and are left out"),
                (
                    "system_folded",
                    "have a system text, which the template takes in the user's turn",
                ),
                ("tool_folded", "have a tool's turn, which the template takes as the user's"),
                ("one_turn", "are conversations that the template takes as one turn"),
            )
            if found.get(key)
        ]
        if parts:
            loud = found["answers_cut"] + found["prompts_cut"] > LOUD * found["comparisons"]
            note = Note("; ".join(parts), loud=loud or found["equal_after_the_cut"] > 0)
            notes[tag] = (*notes.get(tag, ()), note)
    train = tuple(one for one in population.train if id(one) not in gone)
    kept = np.array([id(one) not in gone for one in population.test], dtype=bool)
    people, test = population.people, [one for one, keep in zip(population.test, kept, strict=True) if keep]
    truth = None if population.truth is None else population.truth.where(kept)
    if gone and truth is None:  # people of a file: nobody stays who has nothing to learn from
        able = {one.person for one in train if one.tag == "taste"}
        lost = [person for person in people if person.id not in able]
        if lost:
            left_out.setdefault("taste", {})
            left_out["taste"][NO_TASTE] = left_out["taste"].get(NO_TASTE, 0) + len(lost)
            people = tuple(person for person in people if person.id in able)
            train = tuple(one for one in train if one.person in able)
            test = [one for one in test if one.person in able]
    if len(people) < 2:
        reasons = "; ".join(f"{reason}: {count}" for tag in cut for reason, count in left_out[tag].items())
        raise DataError(
            f"{len(people)} people have a comparison that the model can read; at least 2 are needed",
            hint=reasons or None,
        )
    return replace(
        population,
        people=people,
        train=train,
        test=tuple(test),
        truth=truth,
        left_out=left_out,
        notes=notes,
        cut=cut,
    )
