"""End to end with a language model: three devices train SmolLM2's top layers, bit for bit as the simulation.

Not in `make test`, for it takes minutes and 3 GB: `make night` runs it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fleet_traffic import said, sealed_digests
from leak_scanner import Scanner
from real_parts import texts
from whole_study import PEOPLE, secrets_of, whole_study

pytestmark = [pytest.mark.night, pytest.mark.model, pytest.mark.timeout(3000)]
ROUNDS = 5
POLICY = [
    f"rounds={ROUNDS}", "model.kind=policy", "model.layers=2", "model.adapter=lora", "shared.steps=1",
    "privacy.private.epsilon=inf", "privacy.private.steps=10", "model.answer_tokens=24",
    "data.pairs_per_person=4",
]  # fmt: skip


def test_five_rounds_of_a_policy_are_the_simulations_and_leak_nothing(tmp_path: Path) -> None:
    began = time.monotonic()
    with whole_study(tmp_path, POLICY, patience=2000, deadline=900.0) as whole:
        print(f"five rounds deployed: {time.monotonic() - began:.0f} s, with enrolment")
        print([f"{row['seconds']:.1f} s" for row in whole.site.overview()["rounds"]["list"]])
        deployed, simulated = whole.released(), whole.simulated_rounds()
        assert deployed.keys() == simulated.keys()
        assert sum(float(np.abs(value).sum()) for value in simulated.values()) > 0
        for name, value in simulated.items():
            assert deployed[name].tobytes() == value.tobytes(), name
        manifest, scanner = whole.site.study().manifest, Scanner()
        metrics = set[tuple[str, Any]]()
        for person, device in enumerate(whole.site.devices):
            captured = whole.site.proxies[device.name].recording.device()
            receipts = device.ask(lambda owner: owner.receipts())
            assert sealed_digests(captured, manifest) == {r["digest"] for r in receipts}
            assert len(receipts) == ROUNDS
            metrics |= said(captured).metrics
            for name, text in texts(whole.said[person]).items():
                scanner.text(f"{person}: {name}", text)
            device.down()
            newest = max(int(name.rsplit(" ", 1)[1]) for name in secrets_of(device))
            for name, value in secrets_of(device).items():
                if name.endswith(f" {newest}"):  # a corner of each: as it lies in memory, or transposed
                    scanner.tensor(f"{person}: {name}", value[tuple(slice(64) for _ in value.shape)][:4])
        for proxy in whole.site.proxies.values():
            assert scanner.scan(proxy.recording.device()) == []
        assert len(whole.site.devices) == PEOPLE
        # Of all devices: Flower asks for a part only once, and this one has the same bytes whoever sends it.
        assert metrics == {("num-examples", 1)}
