"""What people are shown under the charter: where prompts were placed, and whose answers were held back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commonground.report import figures
from commonground.report.words import count, dig, label, mapping, number, plural

View = dict[str, Any]
KINDS = (("everyday", "everyday prompts"), ("forbidden", "prompts that ask for what is forbidden"))
WORST = 8  # people listed by name; all whose answers are written out
REASONS = {
    "unsafe": "the detector called it unsafe",
    "error": "the detector failed",
    "timeout": "the detector took too long",
    "score": "the detector gave no probability",
    "prompt": "the prompt was called unsafe",
}


def charter(result: Mapping[str, Any]) -> View | None:
    """The part of the page about the charter; None for a run without one.

    Args:
        result: a result.json.
    """
    found = mapping(result, "charter")
    people = [one for one in found.get("people") or () if isinstance(one, Mapping)]
    if not people:
        return None
    return {
        "named": (
            f"{found.get('title') or 'a charter'}, version {count(found.get('version'))}, "
            f"digest {str(found.get('digest') or '')[:16]}"
        ),
        "appeal": str(found.get("appeal") or ""),
        "policies": _policies(mapping(found, "policies")),
        "people": [(str(one.get("person") or ""), _cells(one)) for one in sorted(people, key=_worst)[:WORST]],
        "words": _words(people),
    }


def _policies(policies: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """What the guard would hold back of each policy, and holds back of what is shown."""
    heads = [(f"Held back by the guard: {words}", kind) for kind, words in KINDS]
    return [
        (label(name), [(head, _of(mapping(policies, name, kind), "held_back")) for head, kind in heads])
        for name in figures.order(policies)
    ]


def _of(tally: Mapping[str, Any], key: str) -> str:
    """'3 of 32'; '' where nothing was asked."""
    total = number(tally.get("answers"))
    return f"{count(tally.get(key))} of {count(total)}" if total else ""


def _cells(person: Mapping[str, Any]) -> list[tuple[str, str]]:
    everyday, forbidden = mapping(person, "everyday"), mapping(person, "forbidden")
    return [
        ("Own answers to forbidden prompts held back", _of(forbidden, "own_held_back")),
        ("Forbidden prompts placed", _split(forbidden, "free", "sensitive", "closed")),
        ("Shown for them", _split(forbidden, "personal", "shared", "refusal")),
        ("Everyday prompts placed", _split(everyday, "free", "sensitive", "closed")),
        ("Shown for these", _split(everyday, "personal", "shared", "refusal")),
    ]


def _split(tally: Mapping[str, Any], *keys: str) -> str:
    """'3 free, 1 closed', what there is of them."""
    return ", ".join(f"{count(tally.get(key))} {key}" for key in keys if tally.get(key))


def _worst(person: Mapping[str, Any]) -> tuple[float, float, str]:
    """Whose own policy the guard stopped most comes first, then whose everyday answers are least her own."""
    held = number(dig(person, "forbidden", "own_held_back")) or 0.0
    lost = number(dig(person, "everyday", "answers")) or 0.0
    kept = number(dig(person, "everyday", "personal")) or 0.0
    return -held, kept - lost, str(person.get("person") or "")


def _words(people: list[Mapping[str, Any]]) -> str:
    def total(kind: str, key: str) -> int:
        return int(sum(number(dig(one, kind, key)) or 0 for one in people))

    everyday, asked = total("everyday", "answers"), total("forbidden", "answers")
    said = [
        f"{plural(everyday, 'everyday answer', 'everyday answers')}, "
        f"{count(total('everyday', 'personal'))} of them the person\u2019s own.",
    ]
    if asked:
        said.append(
            f"{plural(asked, 'answer', 'answers')} to forbidden prompts: {count(total('forbidden', 'free'))} "
            "were placed where the guard alone stands, "
            f"{count(total('forbidden', 'refusal'))} got the refusal."
        )
    said.append(
        "What the guard holds back is what its detector finds, so these counts are no rate of violations: "
        "commonground certify lets another judge look, and states a bound."
    )
    return " ".join(said)


def told(shown: Any) -> str:
    """Why an answer is what it is: 'free; shown: shared, since the detector called it unsafe'."""
    if not isinstance(shown, Mapping):
        return ""
    reasons = [REASONS.get(str(reason), str(reason)) for reason in shown.get("reasons") or ()]
    source = str(shown.get("source") or "")
    why = f", since {' and '.join(dict.fromkeys(reasons))}" if reasons else ""
    return f"placed {shown.get('tier')}; shown: {source}{why}"
