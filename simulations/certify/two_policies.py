"""Certify two Hugging Face policies of one tokenizer, a shared and a personal one, without any run.

certify_two(load_base("shared-folder"), load_base("personal-folder"), Path("out"), Asked(), tick)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from commonground.bounds.budget import Budget
from commonground.bounds.decoding import Ids, Policy, Two, collect, decode
from commonground.bounds.policies import CausalPolicy, two_models
from commonground.embeddings import Encoder
from commonground.language_model import LanguageModel
from commonground.mishaps import storage_errors
from commonground.randomness import generator
from commonground.simulations.certify.answering import Tick
from commonground.simulations.certify.content import Asked, certificate_content, make_ready
from commonground.simulations.certify.loading import TEMPERATURE
from commonground.simulations.certify.run import resumable_answers, write_certificate
from commonground.study.signing import Paper, load_key
from commonground.training.texts import TextEncoder


class Alone:
    """One policy where two are asked for: nobody pulls at it.

    Args:
        policy: whose draws they are.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def begin(self, prompts: Sequence[Ids]) -> tuple[Tensor, Tensor | None, Any]:
        """See `Two`."""
        logits, cache = self._policy.begin(prompts)
        return logits, None, cache

    def follow(self, tokens: Tensor, cache: Any, personal: bool) -> tuple[Tensor, Tensor | None, Any]:
        """See `Two`."""
        logits, cache = self._policy.follow(tokens, cache)
        return logits, None, cache


class TwoPolicies:
    """Writes with two whole models; see `answering.Policies`.

    Args:
        shared: what was certified, or is trusted.
        personal: what somebody made of it.
        tokens: of an answer, at most.
        temperature: of every draw.
        used: prompts that the personal one learnt from.

    Raises:
        ModelError: they have two tokenizers.
    """

    groups: tuple[str | None, ...] = (None,)

    def __init__(
        self,
        shared: LanguageModel,
        personal: LanguageModel,
        *,
        tokens: int,
        temperature: float = TEMPERATURE,
        used: frozenset[str] = frozenset(),
    ) -> None:
        self._both: Two = two_models(shared, personal)
        self._shared, self._personal = Alone(CausalPolicy(shared.model)), Alone(CausalPolicy(personal.model))
        self._texts = TextEncoder(shared.tokenizer, max_prompt=192, max_answer=tokens)
        self.people, self.base, self.used = (personal.name,), shared.digest, used
        self.tokens, self.temperature = tokens, temperature
        self.digest = hashlib.sha256(f"{shared.digest} {personal.digest}".encode()).hexdigest()

    def write_shared(self, asked: Sequence[tuple[int, str]], seed: int) -> list[str]:
        """See `answering.Writers`."""
        return self._write(self._shared, asked, Budget(0.0), "shared", seed)

    def write_personal(self, asked: Sequence[tuple[int, str]], budget: Budget | None, seed: int) -> list[str]:
        """See `answering.Writers`."""
        two = self._personal if budget is None else self._both
        return self._write(two, asked, budget or Budget(0.0), "personal", seed)

    def _write(
        self, two: Two, asked: Sequence[tuple[int, str]], budget: Budget, what: str, seed: int
    ) -> list[str]:
        draws = [generator(seed, what, k, prompt) for k, (_, prompt) in enumerate(asked)]
        prompts = [self._texts.prompt(prompt) for _, prompt in asked]
        steps = decode(
            two,
            prompts,
            budget,
            draws,
            end=self._texts.end,
            tokens=self.tokens,
            temperature=self.temperature,
        )
        return [self._texts.decode(list(one.tokens)) for one in collect(steps, len(asked))]


def certify_two(
    shared: LanguageModel,
    personal: LanguageModel,
    out: Path,
    asked: Asked,
    tick: Tick = lambda *_: None,
    *,
    seed: int = 0,
    used: frozenset[str] = frozenset(),
) -> Paper:
    """Certify what a personal policy writes beside a shared one; files as of `run.certify`, in `out`.

    Args:
        shared: the reference.
        personal: the policy that is certified.
        out: a folder; made if it is missing.
        asked: how.
        tick: progress.
        seed: of deals and draws.
        used: prompts that the personal policy learnt from.

    Raises:
        InputError: charter, key, probes or judge cannot be used.
        ModelError: two tokenizers.
        TrustError: the charter, or a file beside it, is not the accepted one.
    """
    policies = TwoPolicies(shared, personal, tokens=asked.tokens, used=used)
    given = None if asked.key is None else load_key(asked.key)
    ready = make_ready(asked, Encoder())
    about = {"name": personal.name, "rounds": 0, "seed": seed}
    with resumable_answers(out), storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        content = certificate_content(policies, ready, asked, out / "certify", about, tick)
        return write_certificate(out, content, given)
