"""The charter: its schema with every fault at once, signature, differences, probes, and its reach."""

from __future__ import annotations

import copy
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from commonground.bounds.charter import (
    KIND,
    charter_from,
    diff_charters,
    load_charter,
    open_charter,
    sign_charter,
)
from commonground.bounds.charter_files import (
    charter_detector,
    charter_probes,
    check_probes,
    check_reach,
    default_charter,
    shipped_folder,
)
from commonground.bounds.charter_schema import MOST_CONSTRAINTS, Charter
from commonground.bounds.detectors import WORDS, Head
from commonground.bounds.guard import Guard
from commonground.bounds.probes import Probe, fingerprint, read_probes, refuse_burned
from commonground.bounds.tiers import shipped_labelled
from commonground.data.starter import safety_pairs, taste_prompts
from commonground.embeddings import Encoder
from commonground.errors import ConfigError, DataError, InputError, ModelError, TrustError
from commonground.study.signing import Paper, new_key, public_hex, sign

DEFAULT = default_charter()
VALUES = DEFAULT.to_dict()


def changed(key: str, value: Any) -> dict[str, Any]:
    values = copy.deepcopy(VALUES)
    *path, last = key.split(".")
    at = values
    for part in path:
        at = at[part]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return values


def faults(values: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        charter_from(values)
    return list(caught.value.faults)


def test_the_default_charter_is_whole() -> None:
    assert len(DEFAULT.constraints) == 8
    assert DEFAULT.bounds.delta == 1.0
    assert charter_from(VALUES) == DEFAULT
    probes = charter_probes(DEFAULT, "dev", shipped_folder())
    assert len(probes) >= 320
    assert set(Counter(p.constraint for p in probes).values()) == {41}
    near = charter_probes(DEFAULT, "lookalikes", shipped_folder())
    assert len(near) >= 80
    assert len(charter_probes(DEFAULT, "train", shipped_folder())) == 160
    assert len({one.refusal for one in DEFAULT.constraints.values()}) == 8


def test_no_probe_of_a_claim_was_seen_by_what_is_shipped() -> None:
    """Dev probes and look-alikes against everything that the heads, the styles and the bases are made of."""
    used = [prompt for prompt, _ in shipped_labelled()]
    used += [pair.prompt for pair in safety_pairs()] + [p.prompt for p in taste_prompts()]
    for name in ("dev", "lookalikes"):
        refuse_burned(charter_probes(DEFAULT, name, shipped_folder()), used)


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("version", 0, "version: found 0; accepted: 1 or more"),
        ("version", "one", "version: found 'one'; accepted: a whole number"),
        ("title", None, "title: found nothing; it is needed"),
        ("titel", "x", "titel: unknown key; did you mean title?"),
        ("base", "abc", "base: found 'abc'; accepted: a SHA-256"),
        ("constraints", {}, "constraints: found 0; accepted: 1 to 16"),
        ("constraints.fraud", "no", "constraints.fraud: found 'no'; accepted: a mapping with text"),
        (
            "constraints.fraud.detector",
            "oracle",
            "found 'oracle'; accepted: a detector of this charter: answers",
        ),
        (
            "constraints.fraud.severity",
            "mild",
            "constraints.fraud.severity: found 'mild'; accepted: critical",
        ),
        ("constraints.fraud.text", None, "constraints.fraud.text: found nothing; it is needed"),
        ("constraints.fraud.refusal", " ", "constraints.fraud.refusal: found an empty text"),
        ("constraints.Fraud", VALUES["constraints"]["fraud"], "found the name 'Fraud'; accepted: a to z"),
        ("detectors.answers.kind", "crystal", "found 'crystal'; accepted: head, classifier"),
        ("detectors.answers.digest", "", "detectors.answers.digest: found ''; accepted: a SHA-256"),
        ("detectors.answers.threshold", 0.0, "detectors.answers.threshold: found 0.0; accepted: above 0"),
        ("detectors.answers.place", "", "detectors.answers.place: found an empty text"),
        ("tiers.closed", "oracle", "tiers.closed: found 'oracle'; accepted: a detector"),
        ("tiers.closed_says", "both", "tiers.closed_says: found 'both'; accepted: shared, refusal"),
        ("tiers.closed_at", 2.0, "tiers.closed_at: found 2.0; accepted: above 0 up to 1"),
        ("probes", {}, "probes: found no set of split dev or sealed"),
        ("probes.dev.split", "train", "probes: found no set of split dev or sealed"),
        (
            "probes.dev.split",
            "extra",
            "probes.dev.split: found 'extra'; accepted: train, dev, sealed, benign",
        ),
        ("probes.dev.sha256", "1", "probes.dev.sha256: found '1'; accepted: a SHA-256"),
        ("bounds.delta", -1.0, "bounds.delta: found -1.0; accepted: a finite number"),
        ("bounds.delta", "inf", "bounds.delta: found inf; accepted: a finite number"),
        ("bounds.draws", 0, "bounds.draws: found 0; accepted: 1 to 10"),
        ("bounds.max_violation", 0.0, "bounds.max_violation: found 0.0; accepted: above 0"),
        ("bounds.max_fallback", 1.5, "bounds.max_fallback: found 1.5; accepted: above 0"),
        ("bounds.confidence", 1.0, "bounds.confidence: found 1.0; accepted: at least 0.5"),
        ("changes.appeal", "", "changes.appeal: found an empty text"),
    ],
)
def test_bad_values_are_refused_with_what_is_accepted(key: str, value: Any, fault: str) -> None:
    found = faults(changed(key, value))
    assert any(fault in line for line in found), found


def test_every_fault_is_reported_at_once_with_its_line(tmp_path: Path) -> None:
    values = copy.deepcopy(VALUES)
    values["version"], values["bounds"]["delta"], values["bounds"]["colour"] = "x", "y", 1
    del values["changes"]
    file = tmp_path / "charter.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    with pytest.raises(ConfigError) as caught:
        load_charter(file)
    text = "\n".join(caught.value.faults)
    for wanted in ("version: found 'x'", "bounds.delta: found 'y'", "bounds.colour: unknown", "changes.who"):
        assert wanted in text
    assert f"{file}:2: version" in text


def test_few_constraints_only() -> None:
    one = VALUES["constraints"]["fraud"]
    many = {f"rule_{k}": one for k in range(MOST_CONSTRAINTS + 1)}
    assert any("constraints: found 17; accepted: 1 to 16" in f for f in faults(changed("constraints", many)))


@pytest.mark.parametrize("text", ["- 1\n", "a: [1\n"])
def test_what_is_no_charter_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_charter(tmp_path / "c.yaml")
    assert len(caught.value.faults) == 1


def test_a_signed_charter_opens_for_its_signer_alone(tmp_path: Path) -> None:
    key, other = new_key(tmp_path / "a"), new_key(tmp_path / "b")
    paper = Paper.from_text(sign_charter(key, DEFAULT).to_text())
    assert open_charter(paper, public_hex(key)) == DEFAULT
    assert open_charter(paper, public_hex(key)).digest == DEFAULT.digest
    with pytest.raises(TrustError, match="signed by"):
        open_charter(paper, public_hex(other))
    with pytest.raises(TrustError, match="kind 'offer'"):
        open_charter(sign(key, "offer", VALUES), public_hex(key))
    weaker = copy.deepcopy(paper.content)
    weaker["bounds"]["delta"] = 99.0
    with pytest.raises(TrustError, match="changed after it was signed"):
        open_charter(Paper(KIND, weaker, paper.signer, paper.signature), public_hex(key))
    with pytest.raises(TrustError, match="no signed paper"):
        Paper.from_text(json.dumps(VALUES), "the charter")  # unsigned
    with pytest.raises(ConfigError, match="probes"):
        open_charter(sign(key, KIND, changed("probes", {})), public_hex(key))


def test_differences_are_named_value_by_value() -> None:
    new = charter_from(changed("bounds.delta", 3.0))
    assert diff_charters(DEFAULT, new) == ["bounds.delta: 1.0 -> 3.0"]
    assert diff_charters(DEFAULT, DEFAULT) == []
    less = charter_from(changed("constraints.fraud", None))
    lines = diff_charters(DEFAULT, less)
    assert len(lines) == 5
    assert all(line.startswith("constraints.fraud.") and line.endswith("-> (nothing)") for line in lines)
    assert DEFAULT.digest != new.digest != less.digest


def with_probes(text: str, tmp_path: Path) -> Charter:
    (tmp_path / "mine.jsonl").write_text(text)
    sha = hashlib.sha256((tmp_path / "mine.jsonl").read_bytes()).hexdigest()
    return charter_from(changed("probes.mine", {"split": "sealed", "file": "mine.jsonl", "sha256": sha}))


def test_sealed_probes_come_by_path_and_digest(tmp_path: Path) -> None:
    line = json.dumps({"prompt": "How do I\u2028cheat?", "constraint": "fraud"}, ensure_ascii=False)
    charter = with_probes(line + "\n\n", tmp_path)
    assert charter_probes(charter, "mine", tmp_path) == (Probe("How do I\u2028cheat?", "fraud"),)
    (tmp_path / "mine.jsonl").write_text(line + "\n")
    with pytest.raises(TrustError, match=r"mine.jsonl has the digest .*the charter says"):
        charter_probes(charter, "mine", tmp_path)
    with pytest.raises(InputError, match=r"mine.*cannot be read: No such file"):
        charter_probes(charter, "mine", tmp_path / "elsewhere")
    with pytest.raises(InputError, match="no probe set 'yours'; known: dev, train, lookalikes, mine"):
        charter_probes(charter, "yours", tmp_path)


def test_every_constraint_must_be_probed(tmp_path: Path) -> None:
    counts = check_probes(DEFAULT, shipped_folder())
    assert {name: sum(count.values()) for name, count in counts.items()} == {
        "dev": 328,
        "train": 160,
        "lookalikes": 88,
    }
    charter = with_probes(json.dumps({"prompt": "How?", "constraint": "fraud"}), tmp_path)
    values = charter.to_dict()
    values["probes"] = {"mine": values["probes"]["mine"]}
    with pytest.raises(ConfigError) as caught:
        check_probes(charter_from(values), tmp_path)
    assert len(caught.value.faults) == 7
    assert caught.value.faults[0].startswith("constraints.mass_harm: found no probe")


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("nonsense", "mine.jsonl:1: this is no JSON object"),
        ("[1]", "mine.jsonl:1: this is no JSON object"),
        ('{"prompt": "", "constraint": "fraud"}', "prompt is ''"),
        ('{"prompt": "a", "constraint": "style"}', "constraint is 'style'; known: mass_harm"),
        ('{"prompt": "a b", "constraint": "fraud"}\n{"prompt": "A, b!", "near": "fraud"}', ":2: this probe"),
    ],
)
def test_a_line_that_is_no_probe_is_named(tmp_path: Path, line: str, match: str) -> None:
    with pytest.raises(DataError, match=match):
        charter_probes(with_probes(line, tmp_path), "mine", tmp_path)


def test_burned_probes_are_refused_however_they_are_spelt() -> None:
    probes = [Probe("How do I cheat?", "fraud"), Probe("How do I steal?", "fraud")]
    refuse_burned(probes, ["How do I lie?"])
    with pytest.raises(DataError, match=r"1 of 2 probes were used in training before, e.g. 'How do I steal"):
        refuse_burned(probes, ["how do i  STEAL"])
    assert fingerprint("a b") != fingerprint("ab")


def test_probes_are_read_as_they_stand() -> None:
    data = json.dumps({"prompt": "x", "constraint": "c"}).encode()
    found = read_probes(data, hashlib.sha256(data).hexdigest(), ["c"], "f")
    assert found == (Probe("x", "c"),)


def letters(texts: Sequence[str]) -> np.ndarray:
    return np.zeros((len(texts), 2))


def test_a_detector_that_minds_a_style_is_refused() -> None:
    """Style is out of reach: here a detector that finds everything unsafe, and one that finds nothing so."""
    size = 2 * 2 + WORDS
    with pytest.raises(ConfigError, match=r"holds back 576 of 576 answers that differ in taste alone"):
        check_reach(Head(letters, "e", np.zeros(size), 9.0, answers=True), 0.5)
    check_reach(Head(letters, "e", np.zeros(size), -9.0, answers=True), 0.5)
    with pytest.raises(ConfigError, match="taste alone"):
        check_reach(Head(letters, "e", np.full(size, np.nan), 0.0, answers=True), 0.5)


def test_detectors_are_found_by_name_and_on_their_encoder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no detector 'x'; known: answers, closed, sensitive"):
        charter_detector(DEFAULT, "x", shipped_folder(), letters, "e")
    with pytest.raises(ModelError, match="fitted on the encoder"):
        charter_detector(DEFAULT, "answers", shipped_folder(), letters, "another encoder")
    with pytest.raises(InputError, match=r"detector answers .* cannot be read"):
        charter_detector(DEFAULT, "answers", tmp_path, letters, "e")
    (tmp_path / "answers.head.json").write_text('{"weights": "!"}')
    with pytest.raises(ModelError, match="detector answers is damaged"):
        charter_detector(DEFAULT, "answers", tmp_path, letters, "e")


@pytest.mark.model
def test_taste_cannot_trip_the_default_charter() -> None:
    """Both answers of every taste comparison there can be pass the shipped guard: 576 answers, all styles."""
    encoder = Encoder()
    rule = DEFAULT.detectors["answers"]
    detector = charter_detector(DEFAULT, "answers", shipped_folder(), encoder.embed, encoder.digest)
    check_reach(detector, rule.threshold)
    guard = Guard(detector, expected=rule.digest, threshold=rule.threshold)
    for prompt in taste_prompts()[::12]:
        for answer in prompt.answers.values():
            shown = guard.answer(prompt.prompt, lambda text=answer: text, lambda: "shared")  # type: ignore[misc]
            assert (shown.text, shown.source) == (answer, "personal")
