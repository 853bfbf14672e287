"""`commonground certify` on a run of tiny language models: what is written, signed, refused, resumed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import toy_world
from click.testing import Result
from toy_charter import LOOKALIKES, PROBES, UNSAFE, save_charter, signed_charter
from toy_models import tiny_llama, tiny_tokenizer
from typer.testing import CliRunner

from commonground.bounds.charter import charter_from, load_charter, sign_charter
from commonground.bounds.intervals import Judge, upper
from commonground.data.labelled_answers import labelled_answers
from commonground.data.starter import safety_pairs
from commonground.errors import InterruptedRunError
from commonground.simulations.certify import run as runs
from commonground.simulations.certify.claims import Judged, violation_rate
from commonground.simulations.certify.content import Asked
from commonground.simulations.certify.run import CERTIFICATE, KEY, PAGE, certify
from commonground.simulations.cli import app
from commonground.simulations.device_attacks import full
from commonground.simulations.device_attacks.base import Effort
from commonground.simulations.device_attacks.registry import ATTACKS
from commonground.simulations.folder import RESULT
from commonground.simulations.runner import simulate
from commonground.simulations.settings import read_settings
from commonground.study.charters import trusted_charter
from commonground.study.signing import Paper, load_key, new_key, public_hex
from commonground.training import features

pytestmark = pytest.mark.slow
PEOPLE = 3
WORDS = [
    f"people={PEOPLE}", "rounds=1", "cohort=3", "data.pairs_per_person=4", "data.test_pairs=2",
    "model.layers=1", "model.rank=2", "model.adapter=lora", "shared.steps=1", "privacy.private.steps=1",
    "evaluation.resamples=100", "evaluation.prompts=1", "evaluation.tokens=1", "model.kind=policy",
    "bounds.answers=false",
]  # fmt: skip
FEW = ("--tokens", "4", "--probes", "26")


@pytest.fixture(scope="module")
def patch(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The toy encoder stands in for MiniLM in this file."""
    with pytest.MonkeyPatch.context() as found:
        found.setattr(features, "Encoder", toy_world.HashEncoder)
        found.setattr(runs, "Encoder", toy_world.HashEncoder)
        found.setenv("COMMONGROUND_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield found


@pytest.fixture(scope="module")
def finished(patch: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    base = tmp_path_factory.mktemp("base")
    tiny_tokenizer().save_pretrained(base)
    tiny_llama().save_pretrained(base)
    folder = tmp_path_factory.mktemp("runs") / "run"
    simulate(read_settings(None, [*WORDS, f"model.base={base}"]), folder)
    return folder


@pytest.fixture(scope="module")
def charter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed charter."""
    return signed_charter(tmp_path_factory.mktemp("charter"))


@pytest.fixture(scope="module")
def certified(finished: Path, charter: Path) -> tuple[Path, Result]:
    """A copy of the run, certified by the command."""
    folder = finished.parent / "certified"
    shutil.copytree(finished, folder)
    return folder, call("certify", folder, "--charter", charter, *FEW)


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def error(result: Result) -> str:
    """The one line that says what was wrong."""
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_a_certificate_is_signed_by_the_runs_key_and_says_what_was_found(
    certified: tuple[Path, Result], charter: Path
) -> None:
    folder, result = certified
    assert result.exit_code == 0, result.output
    paper = Paper.from_text((folder / CERTIFICATE).read_text())
    key = load_key(folder / KEY)
    assert (folder / KEY).stat().st_mode & 0o777 == 0o600
    found = paper.opened("certificate", public_hex(key))
    assert found["charter"]["digest"] == trusted_charter(charter).charter.digest
    assert found["charter"]["signer"] == trusted_charter(charter).signer
    assert found["run"]["people"] == PEOPLE
    assert found["claim"] in result.stdout
    assert found["procedure"]["split"] == "dev"
    assert "sealed" in result.stdout
    assert re.search(r"answers: \d+ of \d+", result.stderr)
    answers = kept(folder)
    assert len(answers) == len(PROBES) + len(LOOKALIKES) + 4 * PEOPLE
    assert found["overall"]["answers"] == len(PROBES)
    assert {name: one["answers"] for name, one in found["constraints"].items()} == Counter(
        constraint for _, constraint in PROBES
    )
    assert sorted(one["answers"] for one in found["people"]) == [8, 9, 9]
    assert sum(one["events"] for one in found["people"]) == found["overall"]["events"]
    assert found["worst_person"] in found["people"]
    assert found["worst_person"]["verdict"] == "insufficient evidence"  # 9 probes cannot show 5 %


def test_the_stack_is_what_the_charter_says(certified: tuple[Path, Result]) -> None:
    found = content(certified[0])
    placed = found["tiers"]["placed"]
    assert {tier: one["prompts"]["probe"] for tier, one in placed.items()} == {
        "free": 1, "sensitive": 1, "closed": 24
    }  # fmt: skip
    assert {tier: one["prompts"]["lookalike"] for tier, one in placed.items()} == {
        "free": 0, "sensitive": 6, "closed": 0
    }  # fmt: skip
    assert found["tiers"]["errors"]["probes_looser"] == {"prompts": 26, "count": 2, "share": 2 / 26}
    assert placed["closed"]["shown"]["personal"] == 0
    for answer in kept(certified[0]):
        words = answer["text"].split()
        assert UNSAFE not in words  # zero violations by the guard's own measure
        assert answer["tier"] != "closed" or answer["source"] != "personal"
        if answer["source"] == "refusal":
            assert "unsafe" in answer["reasons"]
            assert UNSAFE in answer["shared"].split()
    sources = Counter(answer["source"] for answer in kept(certified[0]))
    assert sources["personal"] > 0
    assert sources["shared"] > 0
    assert sources["refusal"] > 0
    benign = found["benign"]
    assert benign["lookalikes"]["answers"] == len(LOOKALIKES)
    assert benign["everyday"]["answers"] == 4 * PEOPLE
    assert sum(one["answers"] for one in benign["groups"].values()) == len(LOOKALIKES) + 4 * PEOPLE


def test_the_page_loads_nothing_and_has_every_plot(certified: tuple[Path, Result]) -> None:
    page = re.sub(r"<script.*?</script>", "", (certified[0] / PAGE).read_text(), flags=re.S)
    assert content(certified[0])["claim"].replace("'", "&#39;") in page
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)=[\"']https?:", page)
    for word in ("constraints", "people", "groups"):
        assert f'id="{word}"' in page
    assert "Attacks on the device" not in page  # they were not asked for


def test_a_stop_keeps_answers_and_the_same_command_goes_on(
    certified: tuple[Path, Result], finished: Path, charter: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    asked = Asked(charter=charter, tokens=4, probes=26)
    told: list[int] = []

    def stop(name: str, done: int, total: int) -> None:
        if name == "answers":
            told.append(done)
            if len(told) == 2:
                raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError, match="the answers written so far are kept"):
        certify(folder, asked, stop)
    assert not (folder / CERTIFICATE).exists()
    [file] = (folder / "state" / "certify").iterdir()
    before = file.read_bytes()
    assert before.count(b"\n") == 2
    file.write_bytes(before + b'{"chunk": 2, "answ')  # the end of a line that a kill tore off
    certify(folder, asked, lambda *_: None)
    assert file.read_bytes().startswith(before)
    assert kept(folder) == kept(certified[0])
    same = ("overall", "anytime", "any_adapter", "constraints", "people", "tiers", "benign", "judge")
    assert {k: content(folder)[k] for k in same} == {k: content(certified[0])[k] for k in same}


def test_a_key_of_ones_own_signs(certified: tuple[Path, Result], charter: Path, tmp_path: Path) -> None:
    key = new_key(tmp_path / "mine.key")
    folder = tmp_path / "run"
    shutil.copytree(certified[0], folder, ignore=shutil.ignore_patterns(KEY))
    words = ("--charter", charter, "--key", tmp_path / "mine.key", *FEW, "--format", "json")
    result = call("certify", folder, *words)
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)["data"]
    assert data["signer"] == public_hex(key)
    assert data["content"] == content(folder)
    assert not (folder / KEY).exists()


@pytest.mark.night
def test_full_asks_everybody_every_probe_and_attacks_too(
    finished: Path, charter: Path, tmp_path: Path, patch: Any
) -> None:
    patch.setattr(full, "Effort", lambda: Effort(2))
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    asked = ("certify", folder, "--charter", charter, "--tokens", "4", "--probes", "20", "--full")
    result = call(*asked)
    assert result.exit_code == 0, result.output
    found = content(folder)
    assert [one["answers"] for one in found["people"]] == [20] * PEOPLE
    assert found["overall"]["answers"] == 20
    attacks = found["attacks"]
    assert set(attacks["attacks"]) == set(ATTACKS)
    assert attacks["worst"] in ATTACKS
    for one in attacks["attacks"].values():
        assert set(one["cells"]) == {"none", "guard", "tiers"}
        assert {cell["answers"] for cell in one["cells"].values()} == {attacks["prompts"]} == {20}
        assert one["cells"]["guard"]["guard"] == one["cells"]["tiers"]["guard"] == 0
        assert one["cells"]["none"]["fallback"] == 0
    assert sum(one["cells"]["none"]["guard"] for one in attacks["attacks"].values()) > 0
    assert "P5 cancellation" in result.stdout
    page = (folder / PAGE).read_text()
    assert "Attacks on the device" in page
    assert page.index("P1 inverted") < page.index("P5 cancellation") < page.index("P6 trigger")
    # what was drawn is kept: the same command finds the same, and draws nothing
    kept = {file: file.read_bytes() for file in (folder / "state" / "certify").iterdir()}
    assert call(*asked).exit_code == 0
    assert content(folder)["attacks"] == attacks
    assert {file: file.read_bytes() for file in (folder / "state" / "certify").iterdir()} == kept


def test_what_is_refused(finished: Path, charter: Path, tmp_path: Path, patch: Any) -> None:
    plain = save_charter(tmp_path / "plain")
    assert "is not signed; a signed charter is needed" in error(call("certify", finished, "--charter", plain))
    other = ("--charter", charter, "--signer", "0" * 64)
    assert "is signed by" in error(call("certify", finished, *other))
    damaged = tmp_path / "damaged.json"
    damaged.write_text(charter.read_text().replace("Toy charter", "Any charter"))
    assert "was changed after it was signed" in error(call("certify", finished, "--charter", damaged))
    guard = ("--charter", charter, "--judge", "answers")
    assert "is the charter's detector answers" in error(call("certify", finished, *guard))
    base = signed_charter(tmp_path / "base", base="a" * 64)
    assert "the charter was made for aaaa" in error(call("certify", finished, "--charter", base))
    changed = signed_charter(tmp_path / "changed")
    (tmp_path / "changed" / "asked.jsonl").write_text("{}")
    assert "probe set asked.jsonl has the digest" in error(call("certify", finished, "--charter", changed))
    assert "--probes is 0; accepted: 1 or more" in error(call("certify", finished, "--probes", "0"))
    lost = ("--charter", charter, "--key", tmp_path / "none.key")
    assert "signing key" in error(call("certify", finished, *lost))
    assert "holds no run" in error(call("certify", tmp_path))
    for file in (CERTIFICATE, PAGE, KEY):
        assert not (finished / file).exists()


def test_burned_probes_are_refused(finished: Path, tmp_path: Path) -> None:
    file = save_charter(tmp_path)
    data = json.dumps({"prompt": safety_pairs()[0].prompt.upper(), "constraint": "tides"}) + "\n"
    values = load_charter(file).to_dict()
    (tmp_path / "asked.jsonl").write_text(
        data + json.dumps({"prompt": "new", "constraint": "boiling"}) + "\n"
    )
    values["probes"]["asked"]["sha256"] = hashlib.sha256((tmp_path / "asked.jsonl").read_bytes()).hexdigest()
    signed = tmp_path / "burned.json"
    signed.write_text(sign_charter(new_key(tmp_path / "k"), charter_from(values)).to_text())
    assert "1 of 2 probes were used in" in error(call("certify", finished, "--charter", signed))


def test_a_run_of_rewards_or_one_that_lost_its_adapters_is_refused(
    finished: Path, charter: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    os.remove(folder / "state" / "job-shared.json")
    assert "the adapters of the run are gone" in error(call("certify", folder, "--charter", charter))
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("kind: policy", "kind: reward"))
    assert "a run of model.kind=policy is needed" in error(call("certify", folder, "--charter", charter))
    (folder / RESULT).unlink()
    assert "holds no finished run" in error(call("certify", folder, "--charter", charter))


def content(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / CERTIFICATE).read_text())["content"]
    return found


def kept(folder: Path) -> list[dict[str, Any]]:
    """Every answer that was written, in the order of the chunks."""
    [file] = (folder / "state" / "certify").iterdir()
    return [one for line in file.read_text().splitlines() for one in json.loads(line)["answers"]]


def test_the_overall_bound_is_the_stated_one(certified: tuple[Path, Result]) -> None:
    found = content(certified[0])
    judge = found["judge"]
    record = Judge(judge["hits"], judge["violations"], judge["alarms"], judge["safe"])
    shown = sum(found["tiers"]["placed"][t]["shown"][s] for t in ("free", "sensitive", "closed")
                for s in ("personal", "shared"))  # fmt: skip
    events = found["overall"]["events"]
    rows = [Judged("closed", False, k < events, False, False) for k in range(shown)]
    rows += [Judged("closed", True, False, False, False)] * (len(PROBES) - shown)
    again = violation_rate(rows, record, 0.05)
    assert found["overall"]["high"] == pytest.approx(again.high)
    # the toy charter's guard looks for one word that no labelled answer holds
    dev = [row for row in labelled_answers() if row.split == "dev" and row.violation is not None]
    assert found["guard"]["hits"] == found["guard"]["alarms"] == 0
    assert found["guard"]["violations"] + found["guard"]["safe"] == len(dev)
    assert found["overall"]["high"] <= upper(shown, len(PROBES), 0.025)
