"""End to end: three devices with tastes of their own, TLS, authentication, three rounds of `reward`.

Every device speaks through a proxy that ends TLS and writes down each byte. What comes out is bit for bit the
in-process simulation; nothing private is in what was sent; what was sent is in receipts and ledger.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fleet_traffic import HEADERS, said, sealed_digests
from leak_scanner import Scanner
from real_parts import texts
from whole_study import PEOPLE, Whole, secrets_of, whole_study

from commonground.client.guard import CONSTANTS
from commonground.client.learner import Learner, understand
from commonground.server.front_door import FLEET

pytestmark = pytest.mark.slow
ROUNDS = 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    sizes = [f"rounds={ROUNDS}"]
    with whole_study(tmp_path_factory.mktemp("study"), sizes) as found:
        yield found


@pytest.mark.identity(once=True)
def test_the_shared_adapter_is_bit_for_bit_that_of_the_simulation(whole: Whole) -> None:
    deployed, simulated = whole.released(), whole.simulated()
    assert deployed.keys() == simulated.keys()
    for name, value in simulated.items():
        assert np.abs(value).sum() > 0
        assert deployed[name].dtype == value.dtype
        assert deployed[name].tobytes() == value.tobytes(), name


def test_every_round_had_everybody_and_nothing_was_refused(whole: Whole) -> None:
    found = whole.site.overview()
    assert [(r["round"], r["replies"], r["void"]) for r in found["rounds"]["list"]] == [
        (round, PEOPLE, False) for round in range(ROUNDS, 0, -1)
    ]
    assert found["refusals"] == []
    assert [r["round"] for r in found["releases"]] == list(range(ROUNDS + 1, 0, -1))
    assert [d.refusals for d in whole.site.devices] == [{}] * PEOPLE


def test_what_was_sent_is_what_receipts_and_ledger_say(whole: Whole) -> None:
    manifest = whole.site.study().manifest
    for device in whole.site.devices:
        sent = sealed_digests(whole.site.proxies[device.name].recording.device(), manifest)
        receipts = device.ask(lambda owner: owner.receipts())
        assert sent == {r["digest"] for r in receipts}
        assert sorted(r["round"] for r in receipts) == list(range(1, ROUNDS + 1))
        ledger = device.ask(lambda owner: owner.ledger())
        assert [e["status"] for e in ledger["entries"]] == ["committed"] * ROUNDS


def test_nothing_but_sealed_messages_and_constants_leaves(whole: Whole) -> None:
    manifest, metrics = whole.site.study().manifest, set[tuple[str, Any]]()
    for proxy in whole.site.proxies.values():
        found = said(proxy.recording.device())
        metrics |= found.metrics
        assert found.kinds == {"train", "train.private"}
        assert found.errors <= set(CONSTANTS.items())
        assert found.configs == set()
        assert found.tensors == {(spec.shape, spec.dtype) for spec in manifest.sent}
        assert found.names == {"arrays", "metrics"} | {spec.name for spec in manifest.sent}
        assert found.headers <= HEADERS
        assert set(found.paths) <= {f"/v1/fleet/{name}" for name in FLEET} | {"/", "/parts", "/enrol"}
        assert found.odd == []
    # Of all devices: Flower asks for a part only once, and this one has the same bytes whoever sends it.
    assert metrics == {("num-examples", 1)}


def test_no_byte_holds_anything_private(whole: Whole) -> None:
    """Texts, private adapters, updates before their noise, and what the person is told about herself."""
    study = whole.site.study()
    meant, initial = understand(study.offer, study.parts), dict(np.load(study.folder / "initial.npz"))
    scanner, private = Scanner(), 0
    for person, device in enumerate(whole.site.devices):
        about = device.ask(lambda owner: owner.learned())
        for style in about["styles"]:
            for when in ("before", "after"):
                if len(f"{style[when]:.6g}".strip("-0.").replace(".", "")) == 6:
                    scanner.number(f"{person}: style {style['name']} {when}", style[when])
                    private += 1
        for name, text in texts(whole.said[person]).items():
            scanner.text(f"{person}: {name}", text)
        learner = Learner(meant, whole.said[person], seed=whole.config.seed, person=person)
        bare = learner.answer(1, initial, meant.manifest.clip, {}, None).update
        for name, tensor in bare.items():
            scanner.tensor(f"{person}: {name} before its noise", tensor[0].numpy())
        device.down()
        for name, value in secrets_of(device).items():
            scanner.tensor(f"{person}: {name}", value)
            private += 1
    assert private >= PEOPLE * (ROUNDS + 1)
    for name, proxy in whole.site.proxies.items():
        captured = proxy.recording.device()
        assert sum(map(len, captured.values())) > 50_000, name
        assert scanner.scan(captured) == []
