"""Dialogues as text and back.

A prompt is one string everywhere. A single turn of the user is its plain text; a longer context is
written ``Human: ...``, blank line, ``Assistant: ...`` (the form of hh-rlhf, Bai et al. 2022,
arXiv 2204.05862), so that `turns` can hand a chat template its messages back.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

Turn = tuple[str, str]  # (role, content); roles as in chat templates: system, user, assistant

MARK = "\n\nAssistant:"
_SPOKEN = {"system": "System", "user": "Human", "assistant": "Assistant", "tool": "Tool"}
_ROLES = {spoken: role for role, spoken in _SPOKEN.items()}
_MARKS = "|".join(_ROLES)
_TURN = re.compile(rf"(?:\A\s*|\n\n)({_MARKS}):")
_INSIDE = re.compile(rf"\n\n(?=(?:{_MARKS}):)")


def turns(text: str) -> tuple[Turn, ...]:
    """The turns of a prompt; text that is no dialogue is one turn of the user."""
    marks = list(_TURN.finditer(text))
    if not marks or text[: marks[0].start()].strip():
        return (("user", text.strip()),) if text.strip() else ()
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return tuple(
        (_ROLES[mark[1]], text[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=True)
    )


def render(dialogue: Sequence[Turn]) -> str:
    """Turns as one prompt: the plain text of a lone user turn, else a transcript.

    What somebody says never opens another turn: a mark inside her words is moved by a blank, and a lone text
    that begins with one is written as a transcript of one turn.
    """
    if len(dialogue) == 1 and dialogue[0][0] == "user":
        text = dialogue[0][1].strip()
        if not _TURN.match(text):
            return text
    return "\n\n".join(
        f"{_SPOKEN.get(role, role.capitalize())}: {_INSIDE.sub(chr(10) * 2 + ' ', said.strip())}"
        for role, said in dialogue
    )


def one_turn(text: str) -> str:
    """What somebody typed as the prompt of one turn of hers, whatever it looks like."""
    return render([("user", text)])


def opens(text: str) -> bool:
    """Whether a text begins as a dialogue does."""
    return _TURN.match(text) is not None


def opening(prompt: str) -> str:
    """The first thing the user says: later turns of one conversation share it, so splits go by it."""
    said = turns(prompt)
    return next((content for role, content in said if role == "user"), prompt)


def split_dialogues(chosen: str, rejected: str) -> tuple[str, str, str] | None:
    """Two dialogues that share all but their end, as prompt and two replies.

    Args:
        chosen: the preferred dialogue, with turns marked as in hh-rlhf.
        rejected: the other one.

    Returns:
        (prompt, chosen reply, rejected reply), split at the last assistant mark of the common
        beginning, or None where there is no such mark. A reply may be empty: some are in hh-rlhf.
    """
    end = next((at for at, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
    shared = chosen[: min(len(chosen), len(rejected)) if end is None else end]
    at = shared.rfind(MARK)
    if at < 0:
        return None
    context = render(turns(shared[:at]))
    return context, chosen[at + len(MARK) :].strip(), rejected[at + len(MARK) :].strip()
