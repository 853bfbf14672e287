"""What of a run may be published: only what an epsilon covers, and what no person's data had a part in.

Everything is on a list here; what is not on it stays in `result.json`. A configuration is told in numbers,
switches and known words: paths, names of files and columns, addresses, options in words and every seed stay.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from commonground.files import write_atomically
from commonground.marking import unmarked
from commonground.report.words import dig, epsilon, mapping, number

PUBLIC, PAGE = "result.public.json", "public.html"
SEEDS = ("seed",)
# Keys whose value is one of a list of words that this program knows; every other text may be anybody's.
WORDS = {
    "runtime", "schedule", "tags", "kind", "form", "basis", "adapter", "shared_factors", "source", "split",
    "unit", "trust", "accountant", "mechanism", "clip_mode", "noise",
}  # fmt: skip
CLAIM = (
    "unit", "neighbours", "adversary", "trust", "schedule", "epsilon", "delta", "accountant",
    "noise_multiplier", "sampling", "rounds", "participations", "clip", "people", "meaningful", "mechanism",
    "steps", "cap", "flip_probability", "numbers", "epsilon_rdp", "epsilon_prv", "epsilon_if_many",
    "epsilon_if_many_is",
)  # fmt: skip
ROUND = ("round", "epsilon", "clip", "gate")
VERSIONS = ("python", "commonground", "flwr", "torch", "peft", "opacus", "transformers", "numpy")


def public_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what may be published of a run.

    Args:
        result: a result.json.

    Returns:
        {"schema", "public": true, "says": what is covered, in sentences, "covered": bool, "statement",
        "privacy": {"shared", "private"}, "egress": {"tensors", "private_tensors", "manifest", "receipts"},
        "config", "versions", "rounds": [...]}. Where nothing is covered, `rounds` has no figure that a
        person's data had a part in.
    """
    privacy, sent = mapping(result, "privacy"), mapping(unmarked(result), "egress")
    says, covered = _covered(result)
    events = mapping(unmarked(result), "curves").get("shared") or ()
    shown = ROUND if covered else ROUND[:2]
    return {
        "schema": 1,
        "public": True,
        "says": says,
        "covered": covered,
        "statement": privacy.get("statement"),
        "privacy": {
            name: {key: value for key, value in mapping(privacy, name).items() if key in CLAIM}
            for name in ("shared", "private")
        },
        "egress": {
            key: sent[key] for key in ("tensors", "private_tensors", "manifest", "receipts") if key in sent
        },
        "config": _config(mapping(result, "config")),
        "versions": {key: value for key, value in mapping(result, "versions").items() if key in VERSIONS},
        "rounds": [{key: event[key] for key in shown if key in event} for event in events],
    }


def _covered(result: Mapping[str, Any]) -> tuple[list[str], bool]:
    """What an epsilon covers, in sentences, and whether it covers any figure."""
    claim = mapping(result, "privacy", "shared")
    says, covered = [], False
    bound = number(claim.get("epsilon"))
    noise = dig(result, "config", "privacy", "noise") or "seeded"
    if claim.get("epsilon") == "inf":
        says.append(
            "Nothing of this run is covered by an epsilon: the shared adapter was released without noise."
        )
    elif bound is None or claim.get("meaningful") is False:
        says.append("Nothing of this run is covered by an epsilon: too few people took part for a claim.")
    elif noise == "seeded":
        says.append(
            "No figure of this run is published: its noise was drawn from the run's seed, and whoever knows "
            "or guesses the seed can take it away. Run it with privacy.noise=os to publish figures."
        )
    else:
        covered = True
        says.append(
            "The figures of the rounds below are computed from the released shared adapters alone, which "
            f"the statement covers with epsilon {epsilon(bound)}."
        )
    says.append(
        "Accuracies, texts, counts of people in a round, times and everything about single people exist in "
        "the simulation only and are left out; no figure was measured on public data alone."
    )
    return says, covered


def _config(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration in numbers, switches and known words."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key in SEEDS:
            continue
        if isinstance(value, Mapping):
            if inner := _config(value):
                found[key] = inner
        elif isinstance(value, list):
            if key in WORDS:
                found[key] = value
        elif not isinstance(value, str) or key in WORDS or value == "inf":
            found[key] = value
    name = dig(values, "strategy", "name")
    if isinstance(name, str) and isinstance(values.get("strategy"), Mapping):
        found.setdefault("strategy", {})["name"] = name if name.isidentifier() else "another"
    return found


def write_public_result(result: Mapping[str, Any], folder: Path) -> Path:
    """Write `result.public.json` into a run's folder; raises `StorageError`."""
    text = json.dumps(public_result(result), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(folder / PUBLIC, (text + "\n").encode())
    return folder / PUBLIC


def write_public(result: Mapping[str, Any], folder: Path, page: Path | None = None) -> tuple[Path, Path]:
    """Write `result.public.json` into a run's folder, and a page of the same; return both places.

    Raises:
        StorageError: the disk refused.
    """
    from commonground.report.page import environment, write_page

    found, page = public_result(result), page or folder / PAGE
    config = json.dumps(found["config"], indent=2)
    manifest = json.dumps(mapping(found, "egress").get("manifest"), indent=1)
    template = environment().get_template("public.html")
    write_page(str(template.render(found=found, config=config, manifest=manifest)), page)
    return write_public_result(result, folder), page
