"""`bench policy`: a DPO step of a language model, through the full model and over a cached trunk.

The full model reads prompts and answers whole, with adapters on all layers, its head on every position, and
the reference already known. The others are the product's own step: the layers below the adapters are read
once, adapters act on the answer, the head only where an answer token is predicted; one gradient a pair.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from commonground.adapters import SHARED
from commonground.comparisons import Comparison
from commonground.data.starter import taste_prompts
from commonground.errors import CommonGroundError
from commonground.language_model import LanguageModel, load_base
from commonground.losses import LossSettings, get_loss
from commonground.simulations.bench.machine import machine
from commonground.simulations.bench.measured import Bar, Measured, Row, paired, spread
from commonground.simulations.bench.timing import Work, alternate
from commonground.training.model import Rows
from commonground.training.people import take
from commonground.training.policy import PolicyModel
from commonground.training.texts import TextEncoder

PAIRS, PROMPT, ANSWER, BETA = 4, 80, 48, 0.1
BAR, SAME = 6.0, 1e-3  # times; nats of an answer's log-probability
FULL = "full model, reference known"


def measure(*, quick: bool, say: Callable[[str], None]) -> Measured:
    """Time a step of four pairs through each, in turn.

    Raises:
        CommonGroundError: at the start, where no adapter does anything yet, they score answers differently.
    """
    where = machine()
    layers, repetitions = ((4, 1), 3) if quick else ((8, 4, 2, 1), 7)
    say("loading the model, reading the trunks")
    base, pairs = load_base(), comparisons()
    full, before = _full(base, pairs)
    models = {k: _model(base, pairs, k) for k in layers}
    apart = max(float((_scores(model) - before).abs().max()) for model in models.values())
    if not apart < SAME:
        raise CommonGroundError(f"log-probabilities differ by {apart:.2g} nats; at most {SAME:g} is accepted")
    work = {FULL: full} | {f"top {k} layers over a cached trunk": _cached(m) for k, m in models.items()}
    say("timing")
    rates = alternate(work, repetitions)
    ratios = {name: spread(paired(rates[name], rates[FULL])) for name in rates if name != FULL}
    rows = [Row(name, "steps/s", spread(values)) for name, values in rates.items()]
    rows += [Row(f"{name} / full model", "x", values) for name, values in ratios.items()]
    four = ratios["top 4 layers over a cached trunk"].median
    return Measured(
        "policy",
        where,
        {"pairs": PAIRS, "tokens of a prompt": PROMPT, "tokens of an answer": ANSWER},
        rows,
        [Bar("a DPO step over the top 4 layers against the full model", BAR, four, "x")],
        [f"same numbers: log-probabilities of the {2 * PAIRS} answers differ by at most {apart:.1e} nats"],
    )


def comparisons() -> list[Comparison]:
    """Four pairs with long prompts, answers long enough to fill their tokens."""
    found = []
    for question in taste_prompts()[:PAIRS]:
        texts = list(question.answers.values())
        long = [" ".join(texts[k:] + texts[:k]) for k in (0, 3)]
        found.append(Comparison(" ".join([question.prompt] * PROMPT), long[0], long[1], "taste", "p"))
    return found


def _model(base: LanguageModel, pairs: list[Comparison], layers: int) -> PolicyModel:
    return PolicyModel(base, pairs, layers=layers, rank=8, max_prompt_tokens=PROMPT, max_answer_tokens=ANSWER)


def _every() -> Rows:
    return Rows(torch.arange(PAIRS)[None], torch.ones(1, PAIRS), torch.zeros(1, PAIRS))


def _scores(model: PolicyModel) -> Tensor:
    """(2 PAIRS,) log-probabilities under the base model, chosen and rejected of each pair in turn."""
    return torch.stack(model.scores(_every(), None, None), 2).flatten()


def _cached(model: PolicyModel) -> Work:
    loss, settings = get_loss("dpo"), LossSettings(beta=BETA)
    shared, rows = take(model.initial_shared(), 1), _every()

    def step() -> float:
        model.pair_gradients(rows, shared, None, "shared", loss, settings)
        return 1.0

    return step


def _full(base: LanguageModel, pairs: list[Comparison]) -> tuple[Work, Tensor]:
    """The step, and the log-probabilities of its answers at the start."""
    model = _model(base, pairs, 0)
    texts = TextEncoder(base.tokenizer, max_prompt=PROMPT, max_answer=ANSWER)
    rows = [
        (texts.prompt(pair.prompt), texts.answer(answer))
        for pair in pairs
        for answer in (pair.chosen, pair.rejected)
    ]
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    seen, target = torch.zeros_like(ids), torch.full_like(ids, -100)
    for r, (prompt, answer) in enumerate(rows):
        whole = torch.tensor([*prompt, *answer])
        ids[r, : len(whole)], seen[r, : len(whole)] = whole, 1
        target[r, len(prompt) - 1 : len(whole) - 1] = torch.tensor(answer)

    def logps() -> Tensor:
        logits = model.decoder.model(input_ids=ids, attention_mask=seen).logits.float()
        nats = cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-100, reduction="none")
        return -nats.view(len(rows), -1).sum(1)

    model.adapters.enable([SHARED])
    with torch.no_grad():
        before = logps()

    def step() -> float:
        model.adapters.enable([SHARED], train=SHARED)
        gained = (logps() - before).view(PAIRS, 2)
        model.adapters.gradients(SHARED, -logsigmoid(BETA * (gained[:, 0] - gained[:, 1])).mean())
        return 1.0

    return step, before
