"""What each policy writes, side by side: the part of the page that accuracies cannot replace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from commonground.report.charter_view import told
from commonground.report.figures import colour, order
from commonground.report.words import decimal, dig, label, mapping, number, percent

BOUNDED = "bounded"


def _whole(value: Any) -> str:
    return decimal(value, 0)


def _two(value: Any) -> str:
    return decimal(value, 2)


_FEATURES: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("liked_rate", "Answers in the liked style", percent),
    ("words", "Words", _whole),
    ("nats", "Base-model nats a token", _two),
    ("repeated", "Repeated", percent),
    ("on_topic", "On topic", percent),
)


def writing(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """People with their answers and measured features, or None for a run that writes nothing."""
    found = mapping(result, "writing")
    people = [p for p in found.get("people") or () if isinstance(p, Mapping)]
    prompts = [str(p) for p in found.get("prompts") or ()]
    if not people:
        return None
    return {
        "people": [
            {
                "person": str(p.get("person") or ""),
                "likes": str(p.get("likes") or "not known"),
                "answers": _answers(mapping(p, "answers"), prompts, p.get("shown")),
                "features": _features(mapping(p, "features")),
            }
            for p in people
        ],
        "average": _features(_mean_features(people)),
        "heads": [head for _, head, _ in _FEATURES],
    }


def _order(policies: Mapping[str, Any]) -> list[str]:
    return order(policies)


def _answers(answers: Mapping[str, Any], prompts: list[str], shown: Any) -> list[dict[str, Any]]:
    """One entry a prompt: the prompt and each policy's answer to it, bounded ones with why they are so."""
    why = shown if isinstance(shown, list) else []
    longest = max((len(v) for v in answers.values() if isinstance(v, list)), default=0)
    return [
        {
            "prompt": prompts[i] if i < len(prompts) else "",
            "texts": [
                {
                    "label": label(p),
                    "colour": colour(p),
                    "text": str(answers[p][i]),
                    "why": told(why[i]) if p == BOUNDED and i < len(why) else "",
                }
                for p in _order(answers)
                if isinstance(answers[p], list) and i < len(answers[p])
            ],
        }
        for i in range(longest)
    ]


def _features(features: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    return [
        (label(p), [(head, show(dig(features, p, key))) for key, head, show in _FEATURES])
        for p in _order(features)
        if isinstance(features[p], Mapping)
    ]


def _mean_features(people: list[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean of each feature over the people who have it."""
    values: dict[str, dict[str, list[float]]] = {}
    for person in people:
        for policy, features in mapping(person, "features").items():
            for key, _, _ in _FEATURES:
                value = number(dig(features, key))
                if value is not None:
                    values.setdefault(policy, {}).setdefault(key, []).append(value)
    return {p: {k: sum(v) / len(v) for k, v in keys.items()} for p, keys in values.items()}
