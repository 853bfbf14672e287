"""The `policy` preference model: a causal language model with a shared and a private LoRA adapter.

A comparison's scores are log-probabilities of its answers in nats, summed over the answer's tokens. The
adapters act from the last prompt token on. References: the base policy for the shared part, the shared
policy for the private part (`decoupled` order), kept for each version of the shared adapter.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from commonground.adapter_targets import decoder_layers
from commonground.adapters import PRIVATE, SHARED, Adapters
from commonground.comparisons import Comparison
from commonground.given import Parts
from commonground.language_model import LanguageModel
from commonground.losses import Loss, LossSettings, Scores
from commonground.training.gated import GatedDecoder, Row
from commonground.training.label_coins import pair_name
from commonground.training.model import Batch, Part, Rows, Tensors
from commonground.training.pairwise import pairwise_sums
from commonground.training.texts import ANSWER_TOKENS, PROMPT_TOKENS, TextEncoder
from commonground.training.writing import Request, write, write_one

if TYPE_CHECKING:
    from commonground.training.public_models import PublicModels

CHUNK_TOKENS = 512  # answer tokens scored at once: bounds the logits at about 100 MB
KEPT_REFERENCES = 200_000
STYLES = "styles."  # of the names of public parts that are a style's
UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer writes of bytes that are no whole letter yet
PROBE = ("What is a tide?", "The sea rises and falls, because the moon pulls at it.")


class PolicyModel:
    """A `PreferenceModel` over a language model.

    Args:
        base: the frozen base model; its weights are shared, its modules are not touched.
        comparisons: the run's table; `Rows.index` points into it.
        layers: adapted decoder layers, from the top (0 = all).
        rank: of both adapters.
        adapter: `lora`, `core` or `styles`, the form of the private adapter.
        styles: form `styles` only: the public adapters that it mixes (training/styles.py), one a coefficient.
        factors: `one`, `both` or `merged`: what trains in the shared adapter (adapters.py).
        seed: of the public bases.
        parts: public parts with those bases; None takes the ones that are computed here.
        max_answer_tokens: tokens of an answer that count, from its start, end token included.
        max_prompt_tokens: tokens of a prompt that are read, from its end.
        cache_bytes: bound on cached trunk states.
    """

    kind = "policy"
    public: PublicModels | None = None

    def __init__(
        self,
        base: LanguageModel,
        comparisons: Sequence[Comparison],
        *,
        layers: int = 8,
        rank: int = 8,
        adapter: str = "lora",
        styles: Mapping[str, Tensors] | None = None,
        factors: str = "one",
        seed: int = 0,
        parts: Parts | None = None,
        max_answer_tokens: int = ANSWER_TOKENS,
        max_prompt_tokens: int = PROMPT_TOKENS,
        cache_bytes: int = 1 << 30,
    ) -> None:
        self._base = base
        self._options: dict[str, Any] = {
            "layers": layers,
            "rank": rank,
            "adapter": adapter,
            "styles": styles,
            "factors": factors,
            "seed": seed,
            "parts": parts,
            "max_answer_tokens": max_answer_tokens,
            "max_prompt_tokens": max_prompt_tokens,
            "cache_bytes": cache_bytes,
        }
        self._texts = TextEncoder(base.tokenizer, max_prompt=max_prompt_tokens, max_answer=max_answer_tokens)
        self._table = tuple(comparisons)
        named = {f"{style}/{n}": v for style, one in (styles or {}).items() for n, v in one.items()}
        self._named_styles = named
        self._styles = _digest(named) if named else ""
        # same weights, own modules: PEFT changes the modules in place
        model = copy.deepcopy(base.model, {id(p): p for p in base.model.parameters()}).eval()
        self.adapters = Adapters(
            model,
            layers=layers,
            rank=rank,
            form=adapter,
            seed=seed,
            base_name=base.name,
            styles=tuple((styles or {}).values()),
            factors=factors,
            parts=parts,
        )
        depth = len(decoder_layers(model)[1])
        self.decoder = GatedDecoder(
            model,
            self.adapters,
            lowest=depth - (layers or depth),
            common=self._texts.common(),
            cache_bytes=cache_bytes,
            probe=(self._texts.prompt(PROBE[0]), self._texts.answer(PROBE[1])),
        )
        self._references: OrderedDict[tuple[str, Row, Row], Tensor] = OrderedDict()

    def over(self, comparisons: Sequence[Comparison]) -> PolicyModel:
        """The same model, adapters and kept states over another table."""
        other = copy.copy(self)
        other._table = tuple(comparisons)
        return other

    def apart(self) -> PolicyModel:
        """The same model for another thread: the frozen weights are shared, modules and caches are not."""
        base = dataclasses.replace(self._base, tokenizer=copy.deepcopy(self._base.tokenizer))
        return PolicyModel(base, self._table, **self._options)

    def _pair(self, index: int, flip: bool) -> tuple[Row, Row]:
        comparison = self._table[index]
        prompt = self._texts.prompt(comparison.prompt)
        pair = (
            (prompt, self._texts.answer(comparison.chosen)),
            (prompt, self._texts.answer(comparison.rejected)),
        )
        return (pair[1], pair[0]) if flip else pair

    def pair_names(self, rows: np.ndarray) -> list[str]:
        """See `PreferenceModel`."""
        return [pair_name(c.chosen, c.rejected) for c in (self._table[row] for row in rows.tolist())]

    @property
    def texts(self) -> TextEncoder:
        """How prompts and answers become token ids."""
        return self._texts

    def shared_spec(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what trains in the shared adapter."""
        return self.adapters.spec(SHARED)

    def private_spec(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what trains in a private adapter."""
        return self.adapters.spec(PRIVATE)

    def initial_shared(self) -> Tensors:
        """B at zero, and where A trains its public start: the base policy."""
        return self.adapters.initial(SHARED)

    def initial_private(self) -> Tensors:
        """A at its public start and B at zero, or zero cores or coefficients: nothing changes yet."""
        return self.adapters.initial(PRIVATE)

    def public_digests(self) -> dict[str, str]:
        """Base weights and tokenizer, the public bases of the adapters, and the public styles if any."""
        digests = {"base": self._base.digest, "adapter_bases": self.adapters.digest()}
        return digests | ({"styles": self._styles} if self._styles else {})

    def public_parts(self) -> dict[str, np.ndarray]:
        """The public bases and starts of the adapters, and the public styles if any."""
        styles = {f"{STYLES}{name}": value.numpy() for name, value in self._named_styles.items()}
        return self.adapters.public_parts() | styles

    def scores(self, rows: Rows, shared: Tensors | None, private: Tensors | None) -> tuple[Tensor, Tensor]:
        """Log-probabilities of chosen and rejected answers, each (P, B) float32; zero where mask is 0."""
        chosen, rejected = torch.zeros(rows.index.shape), torch.zeros(rows.index.shape)
        groups: dict[tuple[int, int], list[int]] = {}
        for p in range(rows.people):
            groups.setdefault((_slot(shared, p), _slot(private, p)), []).append(p)
        for (s, v), people in groups.items():
            places = [(p, b) for p in people for b in range(rows.index.shape[1]) if rows.mask[p, b]]
            pairs = [self._pair(int(rows.index[at]), bool(rows.flip[at])) for at in places]
            self._set(_take(shared, s), _take(private, v), train=None)
            known = self._logps(list(dict.fromkeys(row for pair in pairs for row in pair)))
            for at, (good, bad) in zip(places, pairs, strict=True):
                chosen[at], rejected[at] = known[good], known[bad]
        self.adapters.enable(())
        return chosen, rejected

    def pair_gradients(
        self,
        rows: Rows,
        shared: Tensors | None,
        private: Tensors | None,
        part: Part,
        loss: Loss,
        settings: LossSettings,
    ) -> tuple[Tensor, Tensors]:
        """Loss (P, B) and gradient (P, B, *shape) of every pair; zeros, and no work, where mask is 0."""
        people, width = rows.index.shape
        losses = torch.zeros(people, width)
        gradients = {n: torch.zeros(people, width, *s) for n, s in self.adapters.spec(part).items()}
        for p in range(people):
            drawn = [b for b in range(width) if rows.mask[p, b]]
            if not drawn:
                continue
            own_shared, own_private = _take(shared, p), _take(private, p)
            pairs = {b: self._pair(int(rows.index[p, b]), bool(rows.flip[p, b])) for b in drawn}
            before = self._reference(list(pairs.values()), own_shared if part == PRIVATE else None)
            self._set(own_shared, own_private, train=part)
            for b in drawn:
                reference = before[pairs[b]]
                value = self._loss(pairs[b], reference, loss, settings)
                losses[p, b] = value.detach()
                for name, gradient in self.adapters.gradients(part, value).items():
                    gradients[name][p, b] = gradient
        self.adapters.enable(())
        return losses, gradients

    def batch(self, rows: Rows, part: Part, frozen: Tensors | None) -> Batch:
        """The rows as they are: what is frozen in the texts is kept by the decoder, whoever asks."""
        return Batch(rows, part, frozen)

    def gradient_sums(
        self,
        batch: Batch,
        trained: Tensors,
        loss: Loss,
        settings: LossSettings,
        weights: Tensor,
        clip: float | None = None,
    ) -> Tensors:
        """See `PreferenceModel.gradient_sums`; one pass through the model for each pair that counts."""
        return pairwise_sums(self, batch, trained, loss, settings, weights, clip)

    def _loss(self, pair: tuple[Row, Row], reference: Tensor, loss: Loss, settings: LossSettings) -> Tensor:
        logps = self.decoder.logps(pair)
        tokens = torch.tensor([float(len(answer)) for _, answer in pair])
        return loss(Scores(logps[0], logps[1], reference[0], reference[1], tokens[0], tokens[1]), settings)

    def _reference(
        self, pairs: Sequence[tuple[Row, Row]], shared: Tensors | None
    ) -> dict[tuple[Row, Row], Tensor]:
        """(2,) log-probabilities of each pair under base (None) or shared; kept by the adapter's digest."""
        version = _digest(shared)
        missing = [pair for pair in pairs if (version, *pair) not in self._references]
        if missing:
            self._set(shared, None, train=None)
            with torch.no_grad():
                for pair in missing:
                    self._references[version, *pair] = self.decoder.logps(pair)
        found = {pair: self._references[version, *pair] for pair in pairs}
        while len(self._references) > KEPT_REFERENCES:
            self._references.popitem(last=False)
        return found

    def _set(self, shared: Tensors | None, private: Tensors | None, train: str | None) -> None:
        parts = [(SHARED, shared), (PRIVATE, private)]
        for name, tensors in parts:
            if tensors is not None:
                self.adapters.load(name, tensors)
        self.adapters.enable([name for name, tensors in parts if tensors is not None], train)

    def _logps(self, rows: list[Row]) -> dict[Row, float]:
        """Scores of distinct rows, similar lengths together, prompts together, under enabled adapters."""
        found: dict[Row, float] = {}
        order = sorted(rows, key=lambda row: (len(row[0]), row[0], len(row[1])))
        with torch.no_grad():
            while order:
                count = max(1, min(len(order), CHUNK_TOKENS // max(len(a) for _, a in order[:16])))
                chunk, order = order[:count], order[count:]
                found.update(zip(chunk, self.decoder.logps(chunk).tolist(), strict=True))
        return found

    def generate(
        self,
        prompt_texts: Sequence[str],
        shared: Tensors | None,
        private: Tensors | None,
        *,
        tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        """Answers to prompts; the prompt is read without adapters, the answer is written with them.

        Args:
            prompt_texts: the prompts.
            shared: shared adapter without person axis (or with one of length 1), or None.
            private: private adapter likewise, or None.
            tokens: at most so many tokens an answer.
            temperature: 0 is greedy.
            seed: of the draws, when the temperature is above 0.
        """
        own = _single(shared, self.shared_spec()), _single(private, self.private_spec())
        requests = [Request(text, *own) for text in prompt_texts]
        return self.generate_each(requests, tokens=tokens, temperature=temperature, seed=seed)

    def generate_each(
        self, requests: Sequence[Request], *, tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> list[str]:
        """Answers of many policies in one batch, each row with its own adapters (much quicker than apart).

        Pass the same tensors object for rows of the same policy: it is looked at once.
        """
        answers = write(
            self.decoder.model,
            self.adapters,
            requests,
            [self._texts.prompt(request.prompt) for request in requests],
            end=self._texts.end,
            tokens=tokens,
            temperature=temperature,
            seed=seed,
        )
        return [self._texts.decode(ids) for ids in answers]

    def stream(
        self, request: Request, *, tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> Iterator[str]:
        """One answer as it is written, in pieces; joined they are what `generate_each` writes.

        A piece is given once no later token can change it: a tokenizer may need several for one letter.
        """
        ids, told = list[int](), 0
        prompt = self._texts.prompt(request.prompt)
        for token in write_one(
            self.decoder.model,
            self.adapters,
            request,
            prompt,
            end=self._texts.end,
            tokens=tokens,
            temperature=temperature,
            seed=seed,
        ):
            ids.append(token)
            text = self._texts.decode(ids)
            if len(text) > told and not text.endswith(UNFINISHED):
                yield text[told:]
                told = len(text)
        if rest := self._texts.decode(ids)[told:]:
            yield rest

    def answer_ratios(
        self,
        prompts: Sequence[str],
        shared: Tensors | None,
        private: Tensors | None,
        *,
        tokens: int,
        seed: int,
    ) -> Tensor:
        """How much likelier under shared one answer a prompt is, drawn from the personal policy.

        Args:
            prompts: n prompts.
            shared: shared adapter without person axis, or None.
            private: private adapter likewise.
            tokens: of an answer, at most; the end token is one of them.
            seed: of the draws.

        Returns:
            (n,) float64, ln pi_s(y) - ln pi_i(y), nats an answer.
        """
        asked = [self._texts.prompt(text) for text in prompts]
        answers = write(
            self.decoder.model,
            self.adapters,
            [Request(text, shared, private) for text in prompts],
            asked,
            end=self._texts.end,
            tokens=tokens,
            temperature=1.0,
            seed=seed,
        )
        end = () if self._texts.end is None else (self._texts.end,)
        rows = [
            (prompt, (*ids, *(end if len(ids) < tokens else ())))
            for prompt, ids in zip(asked, answers, strict=True)
        ]
        logps = []
        for own in (None, private):
            self._set(shared, own, train=None)
            known = self._logps(list(dict.fromkeys(rows)))
            logps.append(torch.tensor([known[row] for row in rows], dtype=torch.float64))
        self.adapters.enable(())
        return logps[0] - logps[1]

    def nats_per_token(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        """Base-model negative log-likelihood a token of each answer (fluency: lower is more natural)."""
        rows = [(self._texts.prompt(p), self._texts.answer(a)) for p, a in zip(prompts, answers, strict=True)]
        self.adapters.enable(())
        known = self._logps(list(dict.fromkeys(row for row in rows if row[1])))
        return [-known[row] / len(row[1]) if row[1] else float("nan") for row in rows]


def _slot(tensors: Tensors | None, person: int) -> int:
    """Which slice of the person axis (P or 1) is this person's; -1 for a disabled adapter."""
    if tensors is None:
        return -1
    return person if len(next(iter(tensors.values()))) > 1 else 0


def _take(tensors: Tensors | None, person: int) -> Tensors | None:
    if tensors is None:
        return None
    return {name: value[_slot(tensors, person)] for name, value in tensors.items()}


def _single(tensors: Tensors | None, spec: dict[str, tuple[int, ...]]) -> Tensors | None:
    if tensors is None:
        return None
    return {n: v[0] if v.dim() > len(spec[n]) else v for n, v in tensors.items()}


def _digest(tensors: Tensors | None) -> str:
    if tensors is None:
        return "base"
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
