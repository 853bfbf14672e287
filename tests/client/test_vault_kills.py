"""kill -9 of a real vault process within a round: one message a release, and one charge.

Every write of the ledger is killed in test_device_ledger_kills.py; here are the steps of a whole process.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import toy_profile
import toy_vault
from toy_encoder import save_encoder
from toy_patience import LIMIT, ended, until
from toy_vault import bytes_of, process

from commonground.client import vault_device
from commonground.client.device_ledger import STEPS, DeviceLedger
from commonground.client.owner import OwnerClient
from commonground.client.private_ledger import PrivateLedger
from commonground.client.sockets import NODE, socket_folder
from commonground.client.store import NAME as STORE
from commonground.client.store import Store
from commonground.client.vault_device import VaultDevice
from commonground.errors import CommonGroundError
from commonground.study.offer import Offer


@pytest.fixture(scope="module")
def offer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Offer]:
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMMONGROUND_CACHE", str(folder / "cache"))
        yield toy_vault.offer_of(toy_vault.study_config(model__base=str(save_encoder(folder / "model"))))


def ready(folder: Path) -> OwnerClient:
    """The owner's side, once it answers."""
    owner = OwnerClient(folder, key=toy_vault.KEY)
    until(owner.status, "the vault", unless=(CommonGroundError,))
    return owner


def ask(folder: Path, round: int, arrays: dict[str, np.ndarray], release: str) -> bytes | None:
    """The bytes of a message; None where the vault died over it."""
    device = VaultDevice(str(socket_folder(folder) / NODE))
    try:
        _ = device.manifest
        return bytes_of(device.shared_update(round, arrays, release=release).tensors)
    except CommonGroundError as error:
        if not isinstance(error.__cause__, grpc.RpcError):
            raise
        return None


def joined(folder: Path, offer: Offer) -> tuple[dict[str, np.ndarray], str]:
    """A profile in `folder`; a round's adapter, and the release that signs it."""
    toy_profile.make_profile(folder, offer)
    operator = toy_vault.Operator(offer)
    arrays = operator.arrays(0.1)
    return arrays, operator.release(1, arrays)


def agreed(folder: Path, offer: Offer) -> None:
    """The vault is up, and its owner has said something and agreed."""
    owner = ready(folder)
    owner.add("danger", "please do not", "do it so", "safety")
    owner.accept(offer.digest, 50.0)
    owner.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "step",
    [pytest.param(s, marks=() if s == STEPS[1] else pytest.mark.night) for s in (*STEPS[1:], "answered")],
)
def test_killed_at_any_step_there_is_one_message_and_one_charge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offer: Offer, step: str
) -> None:
    folder, arrays, release = tmp_path / "p", *joined(tmp_path / "p", offer)
    with process(folder, step) as child:
        agreed(folder, offer)
        with monkeypatch.context() as now:
            now.setattr(vault_device, "RESTART", 0.1)
            assert ask(folder, 1, arrays, release) is None
        assert ended(child) == -signal.SIGKILL
    with Store(folder / STORE, toy_vault.KEY) as store:
        store.check()
        entries = [entry["status"] for entry in DeviceLedger(store).entries()]
        made = [sent.receipt.digest for sent in store.outbox.receipts()]
    assert entries == ["committed" if step in ("kept", "answered") else "reserved"]
    assert len(made) == (step in ("kept", "answered"))
    with process(folder):
        owner = ready(folder)
        first = ask(folder, 1, arrays, release)
        assert first is not None
        assert ask(folder, 1, arrays, release) == first
        receipts = owner.receipts()
        assert [row["round"] for row in receipts] == [1]
        assert made in ([], [receipts[0]["digest"]])
        ledger = owner.ledger()
        assert (ledger["messages"], [row["status"] for row in ledger["entries"]]) == (1, ["committed"])
        assert ledger["epsilon"] == pytest.approx(receipts[0]["epsilon"])
        owner.close()


@pytest.mark.slow
def test_a_vault_that_is_killed_over_a_message_and_started_again_loses_no_round(
    tmp_path: Path, offer: Offer
) -> None:
    folder, arrays, release = tmp_path / "p", *joined(tmp_path / "p", offer)
    with ThreadPoolExecutor(1) as asking:
        with process(folder, "made") as child:
            agreed(folder, offer)
            answer = asking.submit(ask, folder, 1, arrays, release)
            assert ended(child) == -signal.SIGKILL
        with process(folder):
            owner = ready(folder)
            assert answer.result(LIMIT) is not None
            assert [row["status"] for row in owner.ledger()["entries"]] == ["committed"]
            owner.close()


@pytest.mark.night
@pytest.mark.parametrize("step", ["fit charged", "fit learned", "fit saved"])
def test_a_fit_that_is_killed_is_charged_once_and_made_again_with_the_same_noise(
    tmp_path: Path, step: str
) -> None:
    """Whatever a killed fit has shown is what the next one shows: one charge covers both."""
    config = toy_vault.study_config(
        model__base=str(save_encoder(tmp_path / "model")), privacy__private__epsilon=8.0
    )
    offer, folder = toy_vault.offer_of(config), tmp_path / "p"
    joined(folder, offer)
    with process(folder, step) as child:
        agreed(folder, offer)
        owner = ready(folder)
        for k in range(4):
            owner.add(f"which tea {k}", f"green {k}", f"black {k}", "taste")
        with pytest.raises(CommonGroundError):
            owner.refit()
        assert ended(child) == -signal.SIGKILL
    with Store(folder / STORE, toy_vault.KEY) as store:
        store.check()
        assert [fit["status"] for fit in PrivateLedger(store).fits()] == ["reserved"]
        assert store.adapters.all() == []  # the version and its commit are one transaction
    states = []
    with process(folder):
        owner = ready(folder)
        owner.refit()
        assert owner.status()["private"]["account"]["charged"] == 1
        owner.close()
    with Store(folder / STORE, toy_vault.KEY) as store:
        assert [fit["status"] for fit in PrivateLedger(store).fits()] == ["committed"]
        [version] = store.adapters.all()
        states.append(store.adapters.state(version.version))
    assert all(state for state in states)
