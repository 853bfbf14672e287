"""A store with a person's life in it, small enough to be made a hundred times."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from commonground.client.device_ledger import DeviceLedger, Upload, scope_of
from commonground.client.store import Store
from commonground.manifest import Manifest, Sealed, TensorSpec, seal
from commonground.privacy.accounting import epsilon_gaussian
from commonground.privacy.claims import shared_claim
from commonground.privacy.private_claims import private_claim
from commonground.study.offer import Terms
from commonground.study.release import Release

KEY = bytes(range(32))
SCOPE = scope_of("toy-study", "ab" * 32)
OFFER = "0f" * 32
MANIFEST = Manifest((TensorSpec("layer.A", (2, 3)), TensorSpec("layer.B", (3,))), clip=1.0)


def local_terms(most: int = 4, people: int = 200) -> Terms:
    """k messages of one person, any two a round apart; each costs one Gaussian."""
    claim = shared_claim(
        trust="local", people=people, cohort=people, rounds=50, epsilon_target=8.0, delta=5e-4, clip=1.0,
        participations=most,
    )  # fmt: skip
    return Terms(claim, private_claim())


def banded_terms() -> Terms:
    """k = 5 messages, any two 10 rounds apart."""
    claim = shared_claim(
        trust="central", people=200, cohort=20, rounds=50, epsilon_target=4.0, mechanism="banded", clip=1.0
    )
    return Terms(claim, private_claim())


def cap_for(terms: Terms, messages: int) -> float:
    """The epsilon that exactly so many messages reach."""
    return epsilon_gaussian(math.sqrt(messages) / terms.account.noise_multiplier, terms.claim.delta)


def upload(version: int, round: int | None = None, offer: str = OFFER, scope: str = SCOPE) -> Upload:
    """The answer to release `version`, which opens the round of the same number."""
    return Upload(scope, Release(offer, version, version if round is None else round, f"tensors-{version}"))


def noisy(round: int) -> Callable[[], Sealed]:
    """Seals an update that is another one each time, as one with fresh noise is."""

    def make() -> Sealed:
        draw = np.random.default_rng(int.from_bytes(os.urandom(8)))
        return seal(
            MANIFEST,
            {t.name: (draw.random(t.shape) * 0.1).astype("f4") for t in MANIFEST.tensors},
            round=round,
        )

    return make


def state(seed: int) -> dict[str, np.ndarray]:
    """A private state as `PrivateState.to_arrays` gives it."""
    draw = np.random.default_rng(seed)
    names = ("adapter/layer.A", "total/layer.A", "moments/m.layer.A")
    arrays = {name: draw.standard_normal((1, 2, 3)).astype(np.float32) for name in names}
    return arrays | {"steps": np.array([seed], np.int64)}


def open_store(folder: Path) -> Store:
    """The store of a folder, made if it does not exist."""
    return Store(folder / "store.db", KEY)


def live(store: Store, terms: Terms, version: int) -> bytes:
    """One round of a person's life: feedback, a message, a new private adapter.

    Returns:
        The bytes of the message that left.
    """
    store.feedback.add(f"prompt {version}", "yes", "no", "safety" if version % 2 else "taste", "because")
    sent = DeviceLedger(store).once(upload(version), terms, math.inf, noisy(version))
    store.adapters.save(state(version), offer=OFFER, round=version, shared_version=version, note="a visit")
    return bytes_of(sent.message)


def bytes_of(message: dict[str, np.ndarray] | None) -> bytes:
    """A message as one string of bytes."""
    if message is None:
        raise ValueError("the message is not kept")
    return b"".join(value.tobytes() for value in message.values())
