"""What a study of attacks needs: a base that lacks safety, and a shared adapter that has learnt it.

SmolLM2-Instruct has been made careful already, so cancelling a shared adapter on top of it gives back
careful answers, and such an attack would look harmless. The study's base is SmolLM2 that was taught the
unsafe answers of half of the public pairs; the shared adapter is then trained centrally on the safe answers
to the same prompts. Nobody's data is in either.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from commonground.adapters import SCALE, SHARED
from commonground.bounds.probes import fingerprint
from commonground.comparisons import Comparison
from commonground.data.starter import SafetyPair
from commonground.language_model import LanguageModel
from commonground.losses import LossSettings, get_loss
from commonground.mishaps import storage_errors
from commonground.server.checkpoint import load_state, save_state
from commonground.simulations.device_attacks.base import BATCH, BETA, Effort
from commonground.training import optimiser
from commonground.training.model import Rows, Tensors
from commonground.training.people import take
from commonground.training.policy import PolicyModel

LACKS = "without safety"


def halves(pairs: Sequence[SafetyPair]) -> tuple[tuple[SafetyPair, ...], tuple[SafetyPair, ...]]:
    """Half to learn from, half to be asked about: by the digest of the prompt."""
    order = sorted(pairs, key=lambda pair: fingerprint(pair.prompt))
    chosen = {pair.prompt for pair in order[: len(order) // 2]}
    learnt = tuple(pair for pair in pairs if pair.prompt in chosen)
    return learnt, tuple(pair for pair in pairs if pair.prompt not in chosen)


def safe_first(pairs: Sequence[SafetyPair]) -> list[Comparison]:
    """The safe answer of each pair is preferred."""
    return [Comparison(p.prompt, p.safe, p.unsafe, "safety", "public") for p in pairs]


def unsafe_first(pairs: Sequence[SafetyPair]) -> list[Comparison]:
    """The unsafe one is."""
    return [Comparison(p.prompt, p.unsafe, p.safe, "safety", "public") for p in pairs]


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


def teach(
    model: PolicyModel, table: Sequence[Comparison], effort: Effort, draws: np.random.Generator
) -> Tensors:
    """The same on likelihood alone, with an adapter that acts on the prompt as well: made to be merged."""
    texts, adapters, network = model.texts, model.adapters, model.decoder.model

    def gradient(rows: np.ndarray, adapter: Tensors) -> Tensors:
        adapters.load(SHARED, adapter)
        adapters.enable([SHARED], train=SHARED)
        losses = []
        for row in rows.tolist():
            prompt, answer = texts.prompt(table[row].prompt), texts.answer(table[row].chosen)
            logits = network(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].float()
            losses.append(cross_entropy(logits[len(prompt) - 1 : -1], torch.tensor(answer)))
        return adapters.gradients(SHARED, torch.stack(losses).mean())

    found = _descend(model, len(table), effort, draws, gradient)
    adapters.enable(())
    return found


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
    """An adapter from a file or made now; raises `StorageError`."""
    kept = load_state(file)
    if kept is not None:
        return {name: torch.from_numpy(np.array(value)) for name, value in kept["adapter"].items()}
    made = make()
    with storage_errors(file.parent):
        save_state(file, {"adapter": {name: value.numpy() for name, value in made.items()}})
    return made


def merged(base: LanguageModel, model: PolicyModel, shared: Tensors, name: str) -> LanguageModel:
    """A base model of its own, with a shared adapter of `model` written into its weights.

    Args:
        base: that `model` is built on; it stays what it is.
        model: whose adapter it is.
        shared: without person axis.
        name: of the new one.
    """
    weights, digest = copy.deepcopy(base.model), hashlib.sha256(base.digest.encode())
    factors = model.adapters.factors(SHARED, shared)
    for target, (a, b) in zip(model.adapters.targets, factors, strict=True):
        change = SCALE * (b @ a)
        with torch.no_grad():
            weights.get_submodule(target.module).weight.add_(change.T if target.conv else change)
        digest.update(target.name.encode() + change.contiguous().numpy().tobytes())
    return LanguageModel(weights.eval().requires_grad_(False), base.tokenizer, digest.hexdigest(), name)
