"""What a study of attacks needs: a base that lacks safety, and a shared adapter that has learnt it.

SmolLM2-Instruct has been made careful already, so cancelling a shared adapter on top of it gives back
careful answers, and such an attack would look harmless. The study's base is SmolLM2 that was taught the
unsafe answers of half of the public pairs; the shared adapter is then trained centrally on the safe answers
to the same prompts. Nobody's data is in either.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

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
    adapter = take(model.initial_shared(), 1)
    moments = optimiser.init("adam", adapter)
    loss, settings = get_loss("dpo"), LossSettings(beta=BETA, sft=effort.sft)
    turns = -(-effort.steps * BATCH // len(table))
    order = np.concatenate([draws.permutation(len(table)) for _ in range(turns)])
    for step in range(effort.steps):
        index = torch.from_numpy(order[step * BATCH : (step + 1) * BATCH].copy())[None]
        rows = Rows(index, torch.ones(index.shape), torch.zeros(index.shape))
        _, gradients = model.pair_gradients(rows, adapter, None, "shared", loss, settings)
        mean = {name: value.mean(1) for name, value in gradients.items()}
        rate = effort.rate * (1 - step / effort.steps)
        adapter, moments = optimiser.update("adam", adapter, mean, moments, torch.tensor([step]), rate, 0.0)
    return {name: value[0].contiguous() for name, value in adapter.items()}


def kept_shared(
    file: Path, model: PolicyModel, table: Sequence[Comparison], effort: Effort, draws: np.random.Generator
) -> Tensors:
    """`train_shared`, from a file or made now; raises `StorageError`."""
    kept = load_state(file)
    if kept is not None:
        return {name: torch.from_numpy(np.array(value)) for name, value in kept["adapter"].items()}
    made = train_shared(model, table, effort, draws)
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
