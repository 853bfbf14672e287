"""What a guard asks: how likely is this prompt, or this answer, to break a constraint?

A detector is frozen and reads texts with base weights alone, so no private weight can touch it; its digest is
over everything that its scores depend on. The default is a logistic head on frozen embeddings and words,
fitted on public answers, by hand and by small models. By cross-validation it catches 58 % of the starter
set's unsafe answers, at 26 % of the safe answers to the same prompts and 0.7 % of answers that differ in
taste alone; of what small models answer to forbidden prompts that it has not seen it catches 51 % of the
violations, at 27 % of the rest. That is half of a guard. What it misses is measured by another judge, never
by itself.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from commonground.data.labelled_answers import labelled_answers
from commonground.data.starter import safety_pairs, taste_prompts
from commonground.errors import DataError, ModelError
from commonground.exact import exact_sums
from commonground.hub import PLAIN, WEIGHTS, check_folder, closed_hub, model_folder

Embed = Callable[[Sequence[str]], np.ndarray]
STRENGTH = 10.0  # inverse ridge of the head; unit rows need a light one
WORDS, WEIGHT = 4096, 2.0  # hashed words and pairs of words, and what they weigh beside an embedding
SPAN, STEP = 480, 240  # signs that are read at once (English: within an encoder's 128 tokens), and how far on
VERSION = 1  # of the features


class Detector(Protocol):
    """Scores texts; deterministic and without state."""

    name: str
    digest: str

    def score(self, prompts: Sequence[str], answers: Sequence[str] | None = None) -> Sequence[float]:
        """Probability in [0, 1] that each prompt (answers None) or each answer is unsafe."""
        ...


def features(embed: Embed, prompts: Sequence[str], answers: Sequence[str] | None) -> np.ndarray:
    """(n, D) float64: embeddings of each text (and of its prompt) beside its words, hashed.

    Embeddings say what a text is about; how recklessly it speaks is in its words.
    """
    from sklearn.feature_extraction.text import HashingVectorizer

    texts = list(prompts if answers is None else answers)
    parts = [embed(texts)] if answers is None else [embed(texts), embed(list(prompts))]
    hashed = HashingVectorizer(n_features=WORDS, ngram_range=(1, 2), alternate_sign=False)
    return np.hstack(
        [*(np.asarray(p, np.float64) for p in parts), WEIGHT * hashed.transform(texts).toarray()]
    )


def windows(text: str) -> list[str]:
    """A text in overlapping pieces of at most `SPAN` signs; what is short is one piece."""
    if len(text) <= SPAN:
        return [text]
    starts = range(0, len(text) - SPAN + STEP, STEP)
    return [text[start : start + SPAN] for start in starts]


class Head:
    """Logistic regression on frozen features.

    Args:
        embed: texts -> (n, D) embeddings of a frozen encoder, e.g. `Encoder().embed`.
        encoder: digest of that encoder.
        weights: float64, one a feature.
        bias: of the head.
        answers: whether it reads answers (beside their prompts) or prompts alone.
        name: what to call it.
    """

    def __init__(
        self,
        embed: Embed,
        encoder: str,
        weights: np.ndarray,
        bias: float,
        *,
        answers: bool,
        name: str = "head",
    ) -> None:
        self.name, self._embed, self._bias, self._answers = name, embed, float(bias), answers
        self._encoder = encoder
        self._weights = np.asarray(weights, dtype=np.float64)
        fixed = self._weights.tobytes() + np.float64(self._bias).tobytes()
        about = f"head {VERSION} on {encoder}, answers: {answers}, words: {WORDS} x {WEIGHT}, {SPAN}/{STEP}"
        self.digest = hashlib.sha256(about.encode() + b"\0" + fixed).hexdigest()

    def score(self, prompts: Sequence[str], answers: Sequence[str] | None = None) -> Sequence[float]:
        """See `Detector`; raises `ModelError` where it is asked about the other side.

        An encoder reads only the beginning of a text, so a long one is read in windows that overlap, and
        its score is that of the worst of them.
        """
        if self._answers != (answers is not None):
            raise ModelError(
                f"detector {self.name!r} reads {'answers' if self._answers else 'prompts alone'}"
            )
        parts = [windows(text) for text in (prompts if answers is None else answers)]
        if not parts:
            return []
        flat = [part for own in parts for part in own]
        asked = [p[-SPAN:] for p, own in zip(prompts, parts, strict=True) for _ in own]
        table = features(self._embed, flat, None) if answers is None else features(self._embed, asked, flat)
        scores = 1 / (1 + np.exp(-np.clip(exact_sums(table, self._weights) + self._bias, -700, 700)))
        ends = np.cumsum([len(own) for own in parts])[:-1]
        return [float(own.max()) for own in np.split(scores, ends)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `head_from` takes them back, bit for bit where the weights are single precision."""
        weights = base64.b64encode(self._weights.astype("<f4").tobytes()).decode()
        about = {"version": VERSION, "name": self.name, "encoder": self._encoder, "answers": self._answers}
        return {**about, "bias": self._bias, "weights": weights}

    def single(self) -> Head:
        """The same head with weights rounded to single precision, as it is shipped."""
        rounded = self._weights.astype("<f4").astype(np.float64)
        bias = float(np.float32(self._bias))
        return Head(self._embed, self._encoder, rounded, bias, answers=self._answers, name=self.name)


def head_from(values: Mapping[str, Any], embed: Embed, encoder: str, what: str = "the head") -> Head:
    """The head that `Head.to_dict` wrote, on the encoder that it was fitted on.

    Raises:
        ModelError: it is damaged, of another version, or of another encoder.
    """
    try:
        weights = np.frombuffer(base64.b64decode(values["weights"], validate=True), "<f4").astype(np.float64)
        version, name, on = int(values["version"]), str(values["name"]), str(values["encoder"])
        head = Head(embed, on, weights, float(values["bias"]), answers=bool(values["answers"]), name=name)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ModelError(f"{what} is damaged: {type(error).__name__}: {error}") from error
    if version != VERSION or on != encoder:
        raise ModelError(
            f"{what} was fitted on the encoder {on[:16]} with features of version {version}; "
            f"installed: {encoder[:16]}, version {VERSION}",
            hint="fit it again on this encoder, and sign the charter anew",
        )
    return head


Texts = Sequence[tuple[str, str]]  # prompt, answer


def fit_head(embed: Embed, encoder: str, unsafe: Texts, safe: Texts, name: str = "head") -> Head:
    """Fit an answer-side head on public texts.

    Args:
        embed: see `Head`.
        encoder: see `Head`.
        unsafe: prompts with answers that should score high.
        safe: prompts with answers that should score low.
        name: what to call it.

    Raises:
        DataError: one of the two lists is empty.
    """
    rows = [*unsafe, *safe]
    prompts, answers = [p for p, _ in rows], [a for _, a in rows]
    weights, bias = _fit(embed, prompts, answers, len(unsafe))
    return Head(embed, encoder, weights, bias, answers=True, name=name)


def fit_prompt_head(
    embed: Embed, encoder: str, unsafe: Sequence[str], safe: Sequence[str], name: str = "prompt head"
) -> Head:
    """Fit a prompt-side head on public prompts; see `fit_head`."""
    weights, bias = _fit(embed, [*unsafe, *safe], None, len(unsafe))
    return Head(embed, encoder, weights, bias, answers=False, name=name)


def _fit(
    embed: Embed, prompts: Sequence[str], answers: Sequence[str] | None, unsafe: int
) -> tuple[np.ndarray, float]:
    from sklearn.linear_model import LogisticRegression

    if not 0 < unsafe < len(prompts):
        raise DataError(f"{unsafe} unsafe and {len(prompts) - unsafe} safe texts; a head needs some of each")
    labels = np.arange(len(prompts)) < unsafe
    model = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=2000)
    found = model.fit(features(embed, prompts, answers), labels)
    return found.coef_[0], float(found.intercept_[0])


def answer_head(embed: Embed, encoder: str, refusals: Texts = ()) -> Head:
    """The default answer-side detector: public unsafe answers against safe ones, and every taste.

    By hand: the starter set, all of whose styles count as safe, so that a style is not taken for a danger.
    By small models: the labelled answers, but for those to prompts that claims are made on.

    Args:
        embed: see `Head`.
        encoder: see `Head`.
        refusals: forbidden prompts with their refusal, which is safe.
    """
    unsafe = [(pair.prompt, pair.unsafe) for pair in safety_pairs()]
    safe = [(pair.prompt, pair.safe) for pair in safety_pairs()] + list(refusals)
    safe += [(prompt.prompt, answer) for prompt in taste_prompts() for answer in prompt.answers.values()]
    for row in labelled_answers():
        if row.split != "dev" and row.violation is not None:
            (unsafe if row.violation else safe).append((row.prompt, row.answer))
    return fit_head(embed, encoder, unsafe, safe, "public answers")


class Classifier:
    """Any Hugging Face sequence classifier.

    Args:
        place: a local folder or a hub name (`HF_HUB_OFFLINE` is respected).
        unsafe: the label, or labels, whose probabilities add up to "unsafe"; '' where the model has a
            label that says so by name.
        max_tokens: how much of prompt and answer is read.

    Raises:
        ModelError: it cannot be loaded, or has no such label.
    """

    def __init__(self, place: str, unsafe: Sequence[str] | str = "", max_tokens: int = 512) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        folder = model_folder(place, "detector")
        check_folder(folder, place)
        try:
            with closed_hub():
                self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), **PLAIN)
                self._model: Any = AutoModelForSequenceClassification.from_pretrained(
                    str(folder), dtype="float32", **WEIGHTS
                ).eval()
        except Exception as error:  # transformers and the hub raise dozens of types
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
            raise ModelError(
                f"detector {place!r} cannot be loaded as a sequence classifier: {first}",
                hint="give a local folder, or leave the detector at its default",
            ) from error
        labels = {str(label).lower(): int(k) for k, label in self._model.config.id2label.items()}
        wanted = [unsafe] if isinstance(unsafe, str) else list(unsafe)
        wanted = [w.lower() for w in wanted if w] or [w for w in labels if w in KNOWN_LABELS]
        if not wanted or set(wanted) - set(labels):
            raise ModelError(
                f"detector {place!r} has the labels {', '.join(sorted(labels))}; "
                f"which of them mean unsafe is not clear from {', '.join(wanted) or 'their names'}",
                hint="name them in the charter, e.g. unsafe_labels: [toxic]",
            )
        self._unsafe, self._max = sorted(labels[w] for w in wanted), max_tokens
        self.name, self.digest = place, self._digest(wanted)

    def _digest(self, wanted: Sequence[str]) -> str:
        digest = hashlib.sha256(f"{sorted(wanted)} {self._max}".encode())
        for key, value in sorted(self._model.state_dict().items()):
            digest.update(f"{key}{tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes())
        digest.update(self._tokenizer.backend_tokenizer.to_str().encode())
        return digest.hexdigest()

    def score(self, prompts: Sequence[str], answers: Sequence[str] | None = None) -> Sequence[float]:
        """See `Detector`; prompt and answer are read as a pair of texts, each row alone."""
        import torch

        found = []
        for k, prompt in enumerate(prompts):
            texts = (prompt,) if answers is None else (prompt, answers[k])
            tokens = self._tokenizer(
                *texts,
                truncation=True,
                max_length=self._max,
                return_tensors="pt",
                split_special_tokens=True,  # a text that spells [SEP] ends nothing
            )
            with torch.inference_mode():
                chance = self._model(**tokens).logits[0].double().softmax(-1)
            found.append(float(chance[self._unsafe].sum()))
        return found


KNOWN_LABELS = {"unsafe", "toxic", "harmful", "toxicity", "jailbreak", "injection"}
