"""PRISM: rated answers of a conversation become comparisons (Kirk et al. 2024, arXiv 2404.16019).

The table `utterances` of HannahRoseKirk/prism-alignment has one row an answer. The answers of one turn
stand together: the one marked `if_chosen` is preferred to each of the others.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from commonground.data.dialogue import Turn, render
from commonground.data.feedback import BadRows
from commonground.data.reading import nothing_usable, resolve_columns
from commonground.data.values import absent, number, truth

NEEDED = ("user_id", "conversation_id", "turn", "user_prompt", "model_response", "if_chosen")
OPTIONAL = ("score", "group")
UNIT = (
    "one chosen answer against one other answer of the same turn; a turn with four answers gives three "
    "pairs, so pair-level privacy is not turn-level privacy"
)

Placed = tuple[str, Mapping[str, Any]]


def fold(
    rows: Iterable[Placed], columns: Mapping[str, str], bad: BadRows, left_out: Counter[str], place: str
) -> list[Placed]:
    """Utterance rows as preference rows with prompt, chosen, rejected, person and group.

    The prompt is the whole conversation up to the turn: what was asked and the answer chosen each time.

    Args:
        rows: (place, row) of the table `utterances`.
        columns: PRISM's column names -> the table's, where they differ.
        bad: counts rows without the fields that say where they belong.
        left_out: counts turns without exactly one chosen answer, and answers scored as high as the chosen.
        place: the data set, for messages.

    Raises:
        DataError: a needed column is missing, or there is no row.
    """
    rows = list(rows)
    if not rows:
        raise nothing_usable(place, bad)
    found = list(dict.fromkeys(name for _, row in rows for name in row))
    names = resolve_columns(columns, found, needed=NEEDED, optional=OPTIONAL, place=place)
    talks: dict[tuple[str, str], defaultdict[int, list[tuple[str, dict[str, Any]]]]] = {}
    for at, row in rows:
        said = {ours: row.get(theirs) for ours, theirs in names.items()}
        reason, value = _fault(said)
        if reason:
            bad.add(at, reason, value)
            continue
        talk = talks.setdefault((str(said["user_id"]), str(said["conversation_id"])), defaultdict(list))
        talk[int(number(said["turn"]) or 0)].append((at, said))
    folded: list[Placed] = []
    for (person, _), talk in talks.items():
        before: list[Turn] = []
        for turn in sorted(talk):
            answers = talk[turn]
            best = [answer for _, answer in answers if truth(answer["if_chosen"])]
            if len(best) != 1:
                left_out["turns without exactly one chosen answer, and the turns after them"] += len(
                    [later for later in talk if later >= turn]
                )
                break  # what the next turns answer to is not known
            asked: Turn = ("user", best[0]["user_prompt"])
            prompt = render([*before, asked])
            for at, answer in answers:
                if answer is best[0]:
                    continue
                if not _preferred(best[0].get("score"), answer.get("score")):
                    left_out["answers scored as high as the chosen one"] += 1
                    continue
                folded.append(
                    (
                        at,
                        {
                            "prompt": prompt,
                            "chosen": best[0]["model_response"],
                            "rejected": answer["model_response"],
                            "person": person,
                            "group": best[0].get("group"),
                        },
                    )
                )
            before += [asked, ("assistant", best[0]["model_response"])]
    return folded


def _fault(said: Mapping[str, Any]) -> tuple[str, str]:
    """(reason, value) when a row does not say where it belongs, else two empty texts."""
    for name in NEEDED:
        value = said[name]
        if absent(value):
            return f"{name} is missing", ""
        if name in ("user_prompt", "model_response") and not isinstance(value, str):
            return f"{name} is not a text", str(value)
    turn = number(said["turn"])
    if turn is None or not turn.is_integer():
        return "turn is not a whole number", str(said["turn"])
    if truth(said["if_chosen"]) is None:
        return "if_chosen is not true or false", str(said["if_chosen"])
    return "", ""


def _preferred(best: object, other: object) -> bool:
    """Whether the scores say so; without two numbers the mark `if_chosen` alone decides."""
    high, low = number(best), number(other)
    return high is None or low is None or high > low
