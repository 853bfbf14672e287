"""A device whose processor rounds otherwise than the operator's: it joins and takes part all the same.

The other processor is played: what the device computes by itself differs in the last bit of every number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_front_door import front_door
from toy_models import tiny_base
from toy_profile import charter_of, invite
from toy_vault import Vault, offer_with_parts, running, study_config
from toy_world import HashEncoder

from commonground import language_model
from commonground.client import keys
from commonground.client.join import Choices, join
from commonground.client.keys import open_key
from commonground.client.learner import understand
from commonground.client.store import NAME as STORE
from commonground.client.store import Store
from commonground.clipping import joint_norm
from commonground.errors import ModelError
from commonground.manifest import Manifest
from commonground.study.offer import Offer
from commonground.study.public_parts import FILE
from commonground.training import features

WORDS = "four words that suffice"
CONFIGS: dict[str, dict[str, Any]] = {
    "reward": {},
    "tanh": {"model__form": "tanh"},
    "policy": {"model": {"kind": "policy", "adapter": "core", "layers": 2, "rank": 2}},
}


class OtherEncoder(HashEncoder):
    """Rounds otherwise."""

    def embed(self, texts: Any, progress: Any = None, *, keep: bool = True) -> np.ndarray:
        return nudged(super().embed(texts, progress, keep=keep))


def nudged(values: np.ndarray) -> np.ndarray:
    """The last bit of every number otherwise."""
    return np.asarray(np.nextafter(values, np.array(9, values.dtype)), values.dtype)


@pytest.fixture(params=CONFIGS)
def study(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Offer, bytes]:
    """An offer and its parts, made on the operator's processor; everything after runs on the other one."""
    monkeypatch.setattr(features, "Encoder", HashEncoder)
    monkeypatch.setattr(language_model, "load_base", lambda base: tiny_base())
    monkeypatch.setitem(keys.SCRYPT, "n", 2**10)  # what it costs to guess has a test of its own
    made = offer_with_parts(study_config(**CONFIGS[request.param]))
    other_processor(monkeypatch)
    return made


def other_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings, and what is made of them or of seeds by linear algebra, from now on."""
    qr = np.linalg.qr
    monkeypatch.setattr(features, "Encoder", OtherEncoder)
    monkeypatch.setattr(np.linalg, "qr", lambda values: tuple(nudged(p.astype("f4")) for p in qr(values)))


def test_it_joins_and_answers_a_round(study: tuple[Offer, bytes], tmp_path: Path) -> None:
    offer, parts = study
    (tmp_path / "door").mkdir()
    file, said = tmp_path / "study.invite", list[str]()
    with front_door(tmp_path / "door") as door:
        door.parts = parts
        file.write_text(invite(offer, door.ca, door.address))
        choices = Choices(passphrase=WORDS, keyring=False)
        made = join(file, tmp_path / "profile", choices, lambda text, cap: True, said.append)
    assert made is not None
    assert (made.folder / FILE).read_bytes() == parts
    key = open_key(made.folder, WORDS)
    with Store(made.folder / STORE, key) as store:
        vault = Vault(made, store, None, offer, key)
        try:
            vault.teach()
            sent = vault.shared(1)
            assert vault.device.manifest.digest == vault.operator.manifest.digest
            assert vault.owner.status()["refusals"] == {}
        finally:
            vault.owner.close()
            vault.server.stop()
    assert sent.keys() == {spec.name for spec in vault.operator.manifest.sent}
    assert 0 < joint_norm(sent) < np.inf


def test_without_given_parts_it_could_not(study: tuple[Offer, bytes]) -> None:
    """What the test above shows does not hold by itself."""
    offer, parts = study
    charter = charter_of(offer)
    assert understand(offer, parts, charter).manifest.digest == Manifest.from_dict(offer.manifest).digest
    with pytest.raises(ModelError, match=r"has digest .*; the offer says"):
        understand(bare(offer), None, charter)


def bare(offer: Offer) -> Offer:
    """The same offer without the name of its parts."""
    return Offer(**{**offer.to_dict(), "base": {n: v for n, v in offer.base.items() if n != "parts"}})


def test_parts_that_are_lost_or_changed_later_stop_the_device_with_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(features, "Encoder", HashEncoder)
    offer, parts = offer_with_parts(study_config())
    spoiled = bytearray(parts)
    spoiled[len(parts) // 2] ^= 1
    for name, found, words in (
        ("lost", None, "the study's public parts are missing"),
        ("changed", bytes(spoiled), "the study's public parts have digest"),
        ("right", parts, None),
    ):
        with running(tmp_path / name, offer, parts=found) as vault:
            fits = vault.owner.consent()["fits"]
        assert (fits or "").startswith(words or ""), name
        assert (fits is None) == (words is None), name
