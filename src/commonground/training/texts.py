"""From prompts and answers to token ids, the same way for training, scoring and writing."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from commonground.data.dialogue import Turn, opens, turns
from commonground.tokens import chat, end_ids, ids_of, plain_ids, with_ends

Ids = tuple[int, ...]
PROMPT_TOKENS, ANSWER_TOKENS = 192, 64  # read where nobody says otherwise, as on a device


def read_tokens(found: int | str, otherwise: int) -> int:
    """A length as the configuration has it; `auto`, where no simulation has found one, is the default."""
    return found if isinstance(found, int) else otherwise


class TextEncoder:
    """Prompts through the chat template (plain text where the tokenizer has none), answers with an end token.

    A prompt that is a dialogue (data/dialogue.py) goes into the template turn by turn, with its roles.

    Args:
        tokenizer: a transformers tokenizer.
        max_prompt: tokens kept of a prompt, from its end: the oldest turns go first, the template's head
            stays.
        max_answer: tokens kept of an answer, from its start; a cut answer has no end token.
    """

    def __init__(self, tokenizer: Any, *, max_prompt: int, max_answer: int) -> None:
        self._tokenizer, self._max_prompt, self._max_answer = tokenizer, max_prompt, max_answer
        self.end: int | None = tokenizer.eos_token_id
        # a wrapper for each encoder, so that the memory goes with the encoder
        self.prompt = lru_cache(maxsize=65536)(self._prompt)
        self.answer = lru_cache(maxsize=65536)(self._answer)

    def _prompt(self, text: str) -> Ids:
        ids, _, _ = self._read(text)
        return ids

    def _read(self, text: str) -> tuple[Ids, bool, str]:
        """Ids of a prompt, whether it was cut, and in which form the template took its turns."""
        if not getattr(self._tokenizer, "chat_template", None):
            ids = with_ends(self._tokenizer, text)
            return self._some(ids)[-self._max_prompt :], len(ids) > self._max_prompt, "as_said"
        said = turns(text)
        if not opens(text) or all(role == "system" for role, _ in said):  # as it stands, with its blanks
            said = (("user", text),)
        whole = chat(self._tokenizer, said)
        ids = ids_of(self._tokenizer, whole)
        if len(ids) <= self._max_prompt:
            return self._some(ids), False, whole.form
        return self._fitted(list(whole.said)), True, whole.form

    def _some(self, ids: list[int]) -> Ids:
        """Ids, at least one: an empty prompt still needs a position that predicts the first answer token."""
        if ids:
            return tuple(ids)
        start = self._tokenizer.bos_token_id
        return (start if start is not None else (self.end or 0),)

    def _fitted(self, said: list[Turn]) -> Ids:
        """The end of a conversation: the oldest turns go first, whole; the template's own head stays.

        What the last turn says is cut from its start. Only where not even the template's own tokens fit,
        their end alone is kept.
        """
        while True:
            whole = chat(self._tokenizer, said)
            ids = ids_of(self._tokenizer, whole)
            spoken = [place for place, (role, _) in enumerate(said) if role != "system"]
            if len(ids) <= self._max_prompt:
                return self._some(ids)
            if len(spoken) > 1:
                del said[spoken[0]]
                while len(spoken) > 2 and said[spoken[0]][0] != "user":  # an answer to nothing
                    del said[spoken[0]]
                    spoken.pop()
            elif len(said) > 1:
                said = [turn for turn in said if turn[0] != "system"]
            else:
                break
        before, after = (end_ids(self._tokenizer, end) for end in (whole.ends[0], whole.ends[-1]))
        room = self._max_prompt - len(before) - len(after)
        if room <= 0:
            return tuple(ids[-self._max_prompt :])
        return (*before, *plain_ids(self._tokenizer, whole.said[0][1])[-room:], *after)

    def cuts(self, text: str) -> tuple[bool, str]:
        """Whether a prompt is longer than what is read of it, and in which form its turns are taken."""
        _, cut, form = self._read(text)
        return cut, form

    def cut_answer(self, text: str) -> bool:
        """Whether an answer is longer than what is read of it."""
        return len(plain_ids(self._tokenizer, text)) + (self.end is not None) > self._max_answer

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
