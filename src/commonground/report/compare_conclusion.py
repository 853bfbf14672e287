"""What a tournament says in plain words, from `compare.json` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from commonground.report.words import mapping, plural, points, span

WORDS = {
    "personal_taste": "taste of personal models",
    "shared_taste": "taste of the shared model",
    "personal_minority": "taste of the minority's personal models",
    "shared_minority": "taste of the minority under the shared model",
    "personal_safety": "safety of personal models",
    "shared_safety": "safety of the shared model",
}
ENOUGH = 5  # seeds from which differences between seeds are known well
PER_CELL = (
    "Epsilon is per cell: each number covers one run by itself. Choosing among cells by their results, on "
    "real people, is not covered by any of them. Cells whose noise comes from one known seed "
    "(privacy.noise=seeded) protect nothing, together or alone: whoever knows the seed can take it away."
)
Document = Mapping[str, Any]


def conclusion(found: Document) -> list[str]:
    """Sentences in reading order.

    Args:
        found: a compare.json, its conclusion aside.
    """
    said = [_in_short(found)]
    for place in range(len(found["settings"])):
        said += _setting(found, place)
    said += found.get("warnings") or []
    said += [_minority(found), _seeds(found), _left_out(found), PER_CELL]
    return [sentence for sentence in said if sentence]


def setting_words(found: Document, place: int) -> str:
    """'epsilon=8, people=200', or '' where nothing but strategies and seeds varies."""
    values = mapping(found["settings"][place], "values")
    return ", ".join(f"{key.removeprefix('privacy.')}={value}" for key, value in values.items())


def listed(names: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return " and ".join([*([", ".join(names[:-1])] if names[1:] else []), *names[-1:]])


def _in_short(found: Document) -> str:
    """Who beats the reference in what this is all for, in one sentence."""
    here = [one for one in found["differences"] if one["measure"] == "personal_taste"]
    if not here:
        return ""
    better = list(dict.fromkeys(one["strategy"] for one in here if one["beyond_noise"] and one["mean"] > 0))
    what, reference = WORDS["personal_taste"], listed(list(dict.fromkeys(one["reference"] for one in here)))
    where = "" if len(found["settings"]) == 1 else " in any setting"
    if not better:
        return f"In short: in {what}, nothing is better than {reference} beyond noise{where}."
    many = "" if len(found["settings"]) == 1 else " in at least one setting"
    verb = "is" if len(better) == 1 else "are"
    return f"In short: in {what}, {listed(better)} {verb} better than {reference} beyond noise{many}."


def _setting(found: Document, place: int) -> list[str]:
    """What each strategy gains and loses against the reference, and which do not differ."""
    where = setting_words(found, place)
    begin = f"With {where}: " if where else ""
    done = [row for row in found["rows"] if row["setting"] == place and row["seeds"]]
    here = [one for one in found["differences"] if one["setting"] == place]
    if not done:
        return [f"{begin}{'nothing' if begin else 'Nothing'} was measured."]
    if not here:
        only = "only" if begin else "Only"
        return [f"{begin}{only} {done[0]['strategy']} was measured, so there is nothing to compare."]
    reference = here[0]["reference"]
    said = [
        f"{begin}{text}"
        for name in dict.fromkeys(one["strategy"] for one in here)
        if (text := _strategy([one for one in here if one["strategy"] == name], name, reference))
    ]
    same = [
        name
        for name in dict.fromkeys(one["strategy"] for one in here)
        if name not in _names([one for one in here if one["beyond_noise"]])
    ]
    ties = [name for name in same if _is_tie(here, name)]
    rest = [name for name in same if name not in ties]
    if rest:
        no = "no" if begin else "No"
        said.append(f"{begin}{no} difference beyond noise between {listed(rest)} and {reference}.")
    if ties:
        said.append(f"{begin}{listed(ties)} and {reference} tie exactly.")
    return said


def _strategy(differences: Sequence[Mapping[str, Any]], name: str, reference: str) -> str:
    """'fedadam gains 1.2 points (0.5 to 1.9) of ... on fedavg, and loses ...', or ''."""
    parts = []
    for better, verb in ((True, "gains"), (False, "loses")):
        real = [one for one in differences if one["beyond_noise"] and (one["mean"] > 0) is better]
        if real:
            parts.append(f"{verb} {listed([_amount(one) for one in real])}")
    return f"{name} {', and '.join(parts)}, in points against {reference}." if parts else ""


def _amount(one: Mapping[str, Any]) -> str:
    """'1.2 (0.5 to 1.9) in taste of personal models', whichever the sign."""
    ends = [one["low"], one["high"]] if one["mean"] > 0 else [-one["high"], -one["low"]]
    return f"{points(abs(one['mean'])).lstrip('+')} ({span(*ends)}) in {WORDS[one['measure']]}"


def _names(differences: Sequence[Mapping[str, Any]]) -> set[str]:
    return {one["strategy"] for one in differences}


def _is_tie(differences: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether everybody got the same from a strategy as from the reference."""
    return all(
        (one["mean"], one["low"], one["high"]) == (0, 0, 0) for one in differences if one["strategy"] == name
    )


def _effect(one: Mapping[str, Any]) -> str:
    return f"{one['strategy']} ({points(one['mean'])}, {span(one['low'], one['high'])})"


def _minority(found: Document) -> str:
    """What a rule does to the minority when nobody attacks: robust rules take it for outliers."""
    quiet = [place for place, setting in enumerate(found["settings"]) if not setting["attacked"]]
    if not quiet:
        return (
            "Every setting has attackers, so nothing is known about what these rules do to a minority when "
            "nobody attacks; add a setting without."
        )
    rules = set(found["individual"])
    if not rules:
        return ""
    measured = {one["strategy"] for one in found["rows"] if one["setting"] in quiet and one["seeds"]} & rules
    if not measured:
        return ""
    losses = [
        f"{_effect(one)}{', ' + where if (where := setting_words(found, one['setting'])) else ''}"
        for one in found["differences"]
        if one["setting"] in quiet
        and one["measure"] == "shared_minority"
        and one["strategy"] in rules
        and one["beyond_noise"]
        and one["mean"] < 0
    ]
    if losses:
        return (
            "With nobody attacking, rules that compare replies one by one take from the minority what they "
            f"cannot tell from an attack: {listed(losses)} points of the shared model's taste."
        )
    return (
        "With nobody attacking, no loss of the minority beyond noise was found for "
        f"{listed(sorted(measured))} (taste under the shared model)."
    )


def _seeds(found: Document) -> str:
    count = len(found["seeds"])
    if count == 1:
        return (
            "One seed: the intervals are over people alone; what another draw of noise or cohorts would do "
            "is not in them."
        )
    if count < ENOUGH:
        return (
            f"{plural(count, 'seed')} say little about how much seeds differ: intervals are wide, and a "
            f"difference that is just beyond noise deserves {ENOUGH} seeds or more."
        )
    return ""


def _left_out(found: Document) -> str:
    said = []
    for status in ("refused", "failed"):
        names = list(dict.fromkeys(row["strategy"] for row in found["rows"] if row["status"] == status))
        if names:
            said.append(f"{status}: {listed(names)}")
    text = "; ".join(said)
    return f"{text[:1].upper()}{text[1:]} (reasons below)." if text else ""
