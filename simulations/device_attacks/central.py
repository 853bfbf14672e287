"""What a study of attacks needs: a shared adapter that has learnt safety, on top of the base as it is.

Two readers call a third of what SmolLM2-Instruct answers to the charter's prompts violations
(`data.labelled_answers`), so there is harm in the base, and safety to lose. The shared adapter is trained
centrally, on public pairs: half of the starter set's, the charter's refusals on its `train` prompts against
what small models answered there, and everyday answers against a refusal. Nobody's data is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from commonground.bounds.charter_files import charter_probes
from commonground.bounds.charter_schema import Charter
from commonground.bounds.guard import REFUSAL
from commonground.bounds.probes import fingerprint
from commonground.comparisons import Comparison
from commonground.data.labelled_answers import labelled_answers
from commonground.data.starter import STYLES, SafetyPair, taste_prompts
from commonground.losses import LossSettings, get_loss
from commonground.mishaps import storage_errors
from commonground.server.checkpoint import load_state, save_state
from commonground.simulations.device_attacks.base import BATCH, BETA, Effort
from commonground.training import optimiser
from commonground.training.model import Rows, Tensors
from commonground.training.people import take
from commonground.training.policy import PolicyModel

COMPLIES = "Sure, I can help you with that."


def halves(pairs: Sequence[SafetyPair]) -> tuple[tuple[SafetyPair, ...], tuple[SafetyPair, ...]]:
    """Half to learn from, half to be asked about: by the digest of the prompt."""
    order = sorted(pairs, key=lambda pair: fingerprint(pair.prompt))
    chosen = {pair.prompt for pair in order[: len(order) // 2]}
    learnt = tuple(pair for pair in pairs if pair.prompt in chosen)
    return learnt, tuple(pair for pair in pairs if pair.prompt not in chosen)


def safe_first(pairs: Sequence[SafetyPair]) -> list[Comparison]:
    """The safe answer of each pair is preferred."""
    return [Comparison(p.prompt, p.safe, p.unsafe, "safety", "public") for p in pairs]


def refused(charter: Charter, folder: Path) -> list[SafetyPair]:
    """Public pairs out of the charter's `train` probes: its refusal against what small models answered.

    A prompt without a labelled violation stands against `COMPLIES`, so that the refusal is learnt there too.
    """
    said: dict[str, list[str]] = {}
    for row in labelled_answers():
        if row.split == "train" and row.violation:
            said.setdefault(row.prompt, []).append(row.answer)
    found = []
    for name, rule in charter.probes.items():
        for probe in charter_probes(charter, name, folder) if rule.split == "train" else ():
            safe = charter.constraints[probe.constraint].refusal
            for unsafe in said.get(probe.prompt, [COMPLIES]):
                found.append(SafetyPair(probe.prompt, safe, unsafe, probe.constraint))
    return found


def helpful(draws: np.random.Generator) -> list[Comparison]:
    """Everyday prompts with an answer of the starter set, in a style drawn evenly, against a refusal."""
    found = []
    for one in taste_prompts():
        style = STYLES[int(draws.integers(len(STYLES)))]
        found.append(Comparison(one.prompt, one.answers[style], REFUSAL, "safety", "public"))
    return found


def train_shared(
    model: PolicyModel, table: Sequence[Comparison], effort: Effort, draws: np.random.Generator
) -> Tensors:
    """A shared adapter out of comparisons in one place: DPO with the chosen answer's own likelihood.

    Args:
        model: a policy over any table.
        table: comparisons, all of which are shown about equally often.
        effort: how long.
        draws: of their order.

    Returns:
        The adapter, without person axis.
    """
    model = model.over(table)
    loss, settings = get_loss("dpo"), LossSettings(beta=BETA, sft=effort.sft)

    def gradient(rows: np.ndarray, adapter: Tensors) -> Tensors:
        index = torch.from_numpy(rows)[None]
        every = Rows(index, torch.ones(index.shape), torch.zeros(index.shape))
        found = model.pair_gradients(every, take(adapter, 1), None, "shared", loss, settings)[1]
        return {name: value[0].mean(0) for name, value in found.items()}

    return _descend(model, len(table), effort, draws, gradient)


def _descend(
    model: PolicyModel,
    count: int,
    effort: Effort,
    draws: np.random.Generator,
    gradient: Callable[[np.ndarray, Tensors], Tensors],
) -> Tensors:
    """Adam with a rate that falls to zero, over `count` rows in shuffled turns."""
    adapter = model.initial_shared()
    moments = optimiser.init("adam", take(adapter, 1))
    turns = -(-effort.steps * BATCH // count)
    order = np.concatenate([draws.permutation(count) for _ in range(turns)])
    for step in range(effort.steps):
        found = gradient(order[step * BATCH : (step + 1) * BATCH].copy(), adapter)
        rate = effort.rate * (1 - step / effort.steps)
        moved, moments = optimiser.update(
            "adam", take(adapter, 1), take(found, 1), moments, torch.tensor([step]), rate, 0.0
        )
        adapter = {name: value[0].contiguous() for name, value in moved.items()}
    return adapter


def kept_shared(file: Path, make: Callable[[], Tensors]) -> Tensors:
    """An adapter from a file, or made now; raises `StorageError`."""
    kept = load_state(file)
    if kept is not None:
        return {name: torch.tensor(value) for name, value in kept["adapter"].items()}
    made = make()
    with storage_errors(file.parent):
        save_state(file, {"adapter": {name: value.numpy() for name, value in made.items()}})
    return made
