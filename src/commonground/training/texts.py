"""From prompts and answers to token ids, the same way for training, scoring and writing."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from commonground.tokens import chat_ids, plain_ids, with_ends

Ids = tuple[int, ...]


class TextEncoder:
    """Prompts through the chat template (plain text where the tokenizer has none), answers with an end token.

    Args:
        tokenizer: a transformers tokenizer.
        max_prompt: tokens kept of a prompt, from its end.
        max_answer: tokens kept of an answer, from its start; a cut answer has no end token.
    """

    def __init__(self, tokenizer: Any, *, max_prompt: int, max_answer: int) -> None:
        self._tokenizer, self._max_prompt, self._max_answer = tokenizer, max_prompt, max_answer
        self.end: int | None = tokenizer.eos_token_id
        # a wrapper for each encoder, so that the memory goes with the encoder
        self.prompt = lru_cache(maxsize=65536)(self._prompt)
        self.answer = lru_cache(maxsize=65536)(self._answer)

    def _prompt(self, text: str) -> Ids:
        if getattr(self._tokenizer, "chat_template", None):
            ids = chat_ids(self._tokenizer, text)
        else:
            ids = with_ends(self._tokenizer, text)
        if not ids:  # an empty prompt still needs one position that predicts the first answer token
            start = self._tokenizer.bos_token_id
            ids = [start if start is not None else (self.end or 0)]
        return tuple(ids[-self._max_prompt :])

    def _answer(self, text: str) -> Ids:
        ids = plain_ids(self._tokenizer, text)
        if self.end is not None:
            ids.append(self.end)
        return tuple(ids[: self._max_answer])

    def common(self) -> Ids:
        """The ids every untruncated prompt begins with: the head of the chat template, maybe empty."""
        one, other = self._prompt("a"), self._prompt("9 b")
        length = next((i for i, (x, y) in enumerate(zip(one, other, strict=False)) if x != y), 0)
        return one[: min(length, len(one) - 1)]

    def decode(self, ids: list[int]) -> str:
        """Text of answer tokens, without special tokens."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True)).strip()
