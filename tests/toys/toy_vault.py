"""A whole vault for tests: a small reward study, a profile that was joined, a store with a known key.

`python toy_vault.py PROFILE [STEP]` runs the vault of a profile as a process of its own, under `KEY`, and
kills itself at a step of the round where one is named: STEPS of the ledger, or `answered`, once the message
is ready to be written to the socket.
"""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import toy_profile
from toy_patience import until
from toy_world import tiny_config

from commonground.client import services, vault, vault_device
from commonground.client.device_ledger import DeviceLedger
from commonground.client.learner import Insecure, Learner
from commonground.client.lives import Lives
from commonground.client.noise_secret import make_secret
from commonground.client.owner import OwnerClient
from commonground.client.profile import Profile, read_profile
from commonground.client.sockets import NODE, TOKEN, socket_folder
from commonground.client.store import NAME as STORE
from commonground.client.store import Store
from commonground.client.vault import VaultServer
from commonground.client.vault_device import VaultDevice
from commonground.config import Config
from commonground.manifest import Manifest
from commonground.server.setup import contract_of
from commonground.study.offer import Offer, as_config
from commonground.study.public_parts import NAME as PARTS
from commonground.study.public_parts import parts_digest, write_parts
from commonground.study.release import Release, sign_release, tensors_digest
from commonground.training.contract import charter_digest

KEY = bytes(range(32))  # scrypt and keyrings have tests of their own, and take a second each
Arrays = dict[str, np.ndarray]


def study_config(**changes: Any) -> Config:
    """A study of six people whose devices add the noise; `a__b=1` sets a.b."""
    return tiny_config(**{"privacy__trust": "local", "cohort": 3, **changes})


def offer_of(config: Config, manifest: Manifest | None = None, **changes: Any) -> Offer:
    """An offer over a configuration, with the manifest that an operator derives."""
    config = copy.deepcopy(config)
    config.bounds.charter = charter_digest(config)  # as `server init` does
    if manifest is None:
        manifest = contract_of(config, None)[0]
    return toy_profile.toy_offer(config=as_config(config), manifest=manifest.to_dict(), **changes)


def offer_with_parts(config: Config) -> tuple[Offer, bytes]:
    """As `server init` makes it: the offer names the model's public parts; and their file."""
    made = contract_of(config, None)
    data = write_parts(made.parts)
    base = {**made.manifest.versions, PARTS: parts_digest(data)}
    return offer_of(config, made.manifest, base=base), data


class Operator:
    """Signs releases of one offer; versions grow by themselves.

    Args:
        offer: whose.
    """

    def __init__(self, offer: Offer) -> None:
        self.offer, self.manifest, self.version = offer, Manifest.from_dict(offer.manifest), 0

    def arrays(self, value: float = 0.0) -> Arrays:
        """A shared adapter whose numbers are all `value`."""
        return {t.name: np.full(t.shape, value, t.dtype) for t in self.manifest.broadcast}

    def release(self, round: int, arrays: Mapping[str, np.ndarray], **changes: Any) -> str:
        """The next version, signed; `key` signs with another key."""
        key = changes.pop("key", toy_profile.KEY)
        self.version += 1
        values: dict[str, Any] = {
            "offer": self.offer.digest,
            "version": self.version,
            "round": round,
            "tensors": tensors_digest(self.manifest, arrays),
            "final": round > self.offer.settings.rounds,
        }
        return sign_release(key, Release(**values | changes))


class Vault:
    """A running vault in this process, and both ways to it.

    Attributes:
        server: the two services.
        owner: the person's side.
        device: the node's side.
        operator: who signs releases.
    """

    def __init__(
        self, profile: Profile, store: Store, insecure: Insecure | None, offer: Offer, key: bytes = KEY
    ) -> None:
        self.profile, self.store = profile, store
        self.server = VaultServer(profile, store, insecure)
        self.server.start()
        self.owner = OwnerClient(profile.folder, key=key)
        self.device = VaultDevice(str(socket_folder(profile.folder) / NODE))
        self.operator = Operator(offer)

    def consent(self, cap: float = float("inf")) -> None:
        """Accept what is offered."""
        self.owner.accept(self.operator.offer.digest, cap)

    def teach(self, count: int = 4) -> None:
        """Some comparisons of both tags."""
        for k in range(count):
            self.owner.add(f"question {k}", f"a kind answer {k}", f"a curt answer {k}", "taste")
            self.owner.add(f"danger {k}", f"please do not {k}", f"do it so {k}", "safety")

    def shared(self, round: int, arrays: Arrays | None = None, release: str | None = None) -> Arrays:
        """The message of a round, by the node's socket."""
        arrays = self.operator.arrays(0.01 * round) if arrays is None else arrays
        text = self.operator.release(round, arrays) if release is None else release
        return self.device.shared_update(round, arrays, release=text).tensors


@contextmanager
def running(
    folder: Path,
    offer: Offer,
    insecure: Insecure | None = None,
    address: str = toy_profile.NOBODY,
    parts: bytes | None = None,
    **changes: Any,
) -> Iterator[Vault]:
    """A vault over a profile that is made where it is missing; `changes` are of its invitation."""
    if (folder / "profile.json").exists():
        profile = read_profile(folder)
    else:
        profile = toy_profile.make_profile(folder, offer, address=address, parts=parts, **changes)
    with Store(folder / STORE, KEY) as store:
        own_noise(folder, store)
        found = Vault(profile, store, insecure, offer)
        try:
            yield found
        finally:
            found.owner.close()
            found.server.stop()


def own_noise(folder: Path, store: Store) -> None:
    """Tell a profile from others that have the same key, and make its secret where it is new."""
    name = folder / "toy.id"
    if not name.exists():
        name.write_text(os.urandom(16).hex())
    store.identity = name.read_text()
    make_secret(store.identity, keyring=False)


@contextmanager
def process(folder: Path, step: str = "", seed: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """A vault of its own, up; killed at the end where it runs. A seed makes its draws a simulation's."""
    run = folder / "run"
    (run / TOKEN).unlink(missing_ok=True)
    with (folder / "vault.log").open("ab") as log:
        child = subprocess.Popen([sys.executable, __file__, str(folder), step, seed], stdout=log, stderr=log)
    try:
        until(
            lambda: (run / TOKEN).exists() and (socket_folder(folder) / NODE).exists(),
            lambda: (folder / "vault.log").read_text()[-2000:],
            alive=child,
        )
        yield child
    finally:
        child.kill()
        child.wait()
        vault_device._channel.cache_clear()


def bytes_of(arrays: Arrays) -> bytes:
    """A message as one string of bytes."""
    return b"".join(name.encode() + value.tobytes() for name, value in arrays.items())


def die(step: str, at: str) -> None:
    """End this process like a power cut."""
    if step == at:
        os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path, step: str, seed: str) -> None:
    """The vault of a profile that dies at a step."""
    whole = services.sealed_message

    def reached(self: DeviceLedger, at: str) -> None:
        die(step, at)

    def handed(sealed: Any) -> Any:
        answer = whole(sealed)
        die(step, "answered")
        return answer

    fitted, saved = Learner.private, Lives.save

    def fit(self: Learner, *given: Any) -> Any:
        die(step, "fit charged")
        found = fitted(self, *given)
        die(step, "fit learned")
        return found

    def save(self: Lives, *given: Any) -> int:
        found = saved(self, *given)
        die(step, "fit saved")
        return found

    Learner.private, Lives.save = fit, save  # type: ignore[method-assign,assignment]
    DeviceLedger._reached = reached  # type: ignore[method-assign,assignment]
    services.sealed_message = handed
    profile = read_profile(folder)
    with Store(folder / STORE, KEY) as store:
        own_noise(folder, store)
        insecure = Insecure(int(seed), 0) if seed else None
        vault.serve(VaultServer(profile, store, insecure), threading.Event())


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:4])
