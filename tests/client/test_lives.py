"""What fits of a private adapter cost, and the draws of its lives.

The kinds: something is computed of the same private comparisons again, and nobody is charged; a secret draw
is made again where it must be kept, or kept where it must be made again; who is not trusted says when.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dp_accounting
import numpy as np
import pytest
import toy_vault
from dp_accounting.pld import PLDAccountant
from toy_vault import Vault, running
from toy_world import HashEncoder

from commonground.client import belongings
from commonground.client import lives as lives_room
from commonground.client.learner import Learner
from commonground.client.lives import ASKED, NEW_SHARED, TAKEN_BACK
from commonground.client.private_ledger import PrivateLedger
from commonground.errors import InputError, PrivacyError, Reason
from commonground.study.offer import Offer
from commonground.training import features

STEPS = 40


@pytest.fixture(autouse=True)
def encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "Encoder", HashEncoder)
    monkeypatch.setattr(belongings, "Encoder", HashEncoder)


def offer_with(**changes: Any) -> Offer:
    return toy_vault.offer_of(toy_vault.study_config(**{"privacy__private__epsilon": 8.0, **changes}))


@pytest.fixture
def box(tmp_path: Path, encoder: None) -> Iterator[Vault]:
    with running(tmp_path / "p", offer_with()) as found:
        found.consent()
        found.teach(6)
        yield found


def last(box: Vault) -> int:
    return box.operator.offer.settings.rounds + 1


def phase(box: Vault, round: int, value: float = 0.01, *, says: bool = False, **release: Any) -> None:
    """A private phase of the node's; `says` is what the message says of being final, which nobody signed."""
    arrays = box.operator.arrays(value)
    box.device.private_update(round, arrays, says, release=box.operator.release(round, arrays, **release))


def lives(box: Vault) -> list[dict[str, Any]]:
    """The life of each version, the oldest first."""
    return [json.loads(box.store.get(f"life {v.version}")) for v in box.store.adapters.all()]


def refused(box: Vault) -> dict[str, int]:
    return {row["reason"]: row["count"] for row in box.store.refusals.all()}


def take_back(box: Vault) -> None:
    """Undo down to a comparison of taste, which the adapter learned from."""
    while (found := box.owner.undo()) is not None and found["tag"] != "taste":
        pass


def by_pld(box: Vault, fits: int) -> float:
    """Epsilon of so many whole lifetimes by Google's accountant, which shares no code with ours."""
    claim = box.server.rounds.understood().terms.private_claim
    found = PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE, 1e-3)
    step = dp_accounting.PoissonSampledDpEvent(
        claim.sampling, dp_accounting.GaussianDpEvent(claim.noise_multiplier)
    )
    found.compose(dp_accounting.SelfComposedDpEvent(step, fits * claim.steps))
    return float(found.get_epsilon(claim.delta))


def test_who_sends_final_in_every_round_makes_no_lifetime_of_each(box: Vault) -> None:
    """A4: four rounds whose message says final were four fits, and the claim stayed that of one."""
    for round in range(1, last(box) + 1):
        phase(box, round, says=True)
    account = box.owner.status()["private"]["account"]
    assert (account["charged"], box.owner.status()["private"]["fits"]) == (1, 1)
    assert len({life["seed"] for life in lives(box)}) == 1
    assert [life["steps"] for life in lives(box)][-1] == STEPS
    claim = box.server.rounds.understood().terms.private_claim
    assert (
        account["epsilon"]
        == pytest.approx(claim.epsilon, rel=0.01)
        == pytest.approx(by_pld(box, 1), rel=0.02)
    )


def test_a_last_release_before_its_time_is_refused_and_one_that_denies_it_too(box: Vault) -> None:
    phase(box, 1, final=True)
    phase(box, last(box), final=False)
    assert refused(box) == {Reason.NOT_THE_LAST.value: 2}
    assert box.store.adapters.current() is None
    assert box.server.rounds.lives.ledger.fits() == []


def test_every_fit_is_charged_composed_shown_and_capped(box: Vault, tmp_path: Path) -> None:
    phase(box, 1)
    box.owner.private_cap(1000.0)
    for _ in range(2):
        box.owner.refit()
    take_back(box)
    box.server.rounds.catch_up()  # the vault's own thread may have been quicker: one of them did it
    phase(box, last(box), 0.2)  # newer than what it was finished on
    fits = box.server.rounds.lives.ledger.fits()
    claim = box.server.rounds.understood().terms.private_claim
    assert [fit["key"] for fit in fits] == [f"fit-{k}" for k in range(1, 6)]
    assert {(f["sampling"], f["noise_multiplier"], f["steps"]) for f in fits} == {
        (claim.sampling, claim.noise_multiplier, STEPS)
    }
    assert {fit["status"] for fit in fits} == {"committed"}
    assert len({life["seed"] for life in lives(box)}) == 5
    told = box.owner.ledger()["private"]
    assert told["epsilon"] == box.owner.status()["private"]["account"]["epsilon"]
    assert told["epsilon"] == pytest.approx(by_pld(box, 5), rel=0.02)
    assert told["epsilon"] > 2 * claim.epsilon
    assert f"{told['epsilon']:.4g}" in told["words"]
    assert told["words"] in box.owner.ledger()["words"]
    assert box.owner.ledger()["entries"] == []  # another unit: no charge of a message
    assert box.owner.ledger()["epsilon"] == 0.0
    assert PrivateLedger(box.store).epsilon(claim.delta) == told["epsilon"]  # and after a restart


def test_at_the_cap_it_freezes_in_one_line_until_she_raises_it(box: Vault) -> None:
    phase(box, 1)
    made = len(lives(box))
    box.owner.private_cap(box.server.rounds.understood().terms.private_claim.epsilon * 1.01)
    for _ in range(2):
        with pytest.raises(PrivacyError, match="the cap is") as caught:
            box.owner.refit()
        assert caught.value.reason is Reason.BUDGET
        assert "private-cap" in (caught.value.hint or "")
    phase(box, 2)  # this lifetime is paid for, and goes on
    assert len(lives(box)) == made + 1
    take_back(box)
    box.server.rounds.catch_up()
    phase(box, 3)  # taken back, and cannot be fitted anew: nothing more is learned
    assert len(lives(box)) == made + 1
    status = box.owner.status()
    assert "\n" not in status["private"]["frozen"]
    assert "It is frozen" in status["private"]["frozen"]
    assert TAKEN_BACK in status["refit"]
    assert "frozen" in status["refit"]
    assert status["private"]["account"]["charged"] == 1
    box.owner.private_cap(math.inf)
    assert box.owner.refit()["taste"] == 5
    assert box.owner.status()["private"]["frozen"] == ""
    with pytest.raises(InputError, match="above 0"):
        box.owner.private_cap(0.0)


def test_a_newer_version_refits_a_finished_adapter_once_a_study(box: Vault) -> None:
    box.owner.private_cap(math.inf)
    box.owner.refit()  # finished in the middle of the study
    for round in range(1, last(box)):
        phase(box, round, 0.1 * round)
    assert box.owner.status()["private"]["fits"] == 1
    assert len(lives(box)) == 1  # no version a round either
    for _ in range(3):
        phase(box, last(box), 0.7)
    assert box.owner.status()["private"]["fits"] == 2
    assert lives(box)[-1]["done"] > 0
    assert box.store.adapters.all()[-1].note.startswith(f"fitted anew because {NEW_SHARED}")


def test_a_default_cap_lets_a_second_fit_be(box: Vault) -> None:
    ledger, claim = box.server.rounds.lives.ledger, box.server.rounds.understood().terms.private_claim
    assert ledger.cap(claim) == 2 * claim.epsilon
    box.owner.refit()
    box.owner.refit()
    with pytest.raises(PrivacyError):
        for _ in range(4):
            box.owner.refit()


def test_going_back_pays_for_the_steps_that_are_taken_twice(box: Vault) -> None:
    box.owner.private_cap(math.inf)
    phase(box, 1)
    first = lives(box)[0]["steps"]
    phase(box, 2)
    box.owner.rollback(1)
    assert len(box.server.rounds.lives.ledger.fits()) == 1  # nothing is taken yet
    phase(box, 3)
    assert [fit["steps"] for fit in box.server.rounds.lives.ledger.fits()] == [STEPS, STEPS - first]
    assert lives(box)[-1]["seed"] not in {lives(box)[1]["seed"]}


def test_a_charge_is_on_the_disk_before_a_fit_and_a_cut_one_is_charged_once(
    box: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a kill leaves behind is what is there when the training begins."""
    seeds: list[int] = []
    whole = Learner.private

    def killed(self: Learner, *given: Any) -> Any:
        seeds.append(self._plan.seed)
        assert not box.store.database.connection.in_transaction
        statuses.append([fit["status"] for fit in box.server.rounds.lives.ledger.fits()])
        raise KeyboardInterrupt

    statuses: list[list[str]] = []
    monkeypatch.setattr(Learner, "private", killed)
    rounds = box.server.rounds
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            rounds.refit(ASKED)
    assert statuses == [["reserved"]] * 2  # the second time under the same charge
    assert len(set(seeds)) == 1  # and the same seed: nothing of the first was ever shown
    monkeypatch.setattr(Learner, "private", whole)
    rounds.refit(ASKED)
    assert lives(box)[-1]["seed"] == seeds[0]
    assert [fit["status"] for fit in rounds.lives.ledger.fits()] == ["committed"]
    rounds.refit(ASKED)
    assert lives(box)[-1]["seed"] != seeds[0]
    assert len(rounds.lives.ledger.fits()) == 2


def test_forgetting_begins_a_life_with_new_noise_that_is_charged(box: Vault) -> None:
    phase(box, 1)
    box.owner.reset()
    assert box.store.adapters.current() is None
    begun = json.loads(box.store.get("next life"))
    assert begun["paid"] == ""
    assert begun["since"] == box.store.feedback.newest()
    assert begun["steps"] == begun["done"] == 0
    box.teach(3)
    phase(box, 2)
    seeds = [life["seed"] for life in lives(box)]
    assert seeds[1] == begun["seed"] != seeds[0]
    assert lives(box)[1]["taste"] == 3
    assert len(box.server.rounds.lives.ledger.fits()) == 2


def flipped(box: Vault, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Every draw of flips from now on."""
    from commonground.training import label_coins, private_phase

    seen: list[np.ndarray] = []

    def spy(*given: Any) -> np.ndarray:
        seen.append(label_coins.flips(*given))
        return seen[-1]

    monkeypatch.setattr(private_phase, "flips", spy)
    return seen


def test_reported_choices_are_the_same_in_every_life_and_cost_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refit, undo and said again, back to a version, forgotten and said again: one coin a comparison."""
    offer = offer_with(privacy__private__mechanism="label", privacy__private__epsilon=0.1)
    with running(tmp_path / "label", offer) as box:
        box.consent()
        seen = flipped(box, monkeypatch)
        words = [(f"q {k}", f"kind {k}", f"curt {k}") for k in range(8)]
        for prompt, chosen, rejected in words:
            box.owner.add(prompt, chosen, rejected, "taste")
        box.owner.refit()
        box.owner.refit()
        box.owner.undo()
        box.owner.add(*words[-1], "taste")
        box.owner.refit()
        box.owner.rollback(1)
        box.owner.refit()
        box.owner.reset()
        for prompt, chosen, rejected in words:
            box.owner.add(prompt, chosen, rejected, "taste")
        box.owner.refit()
        whole = [flips for flips in seen if len(flips) == 8]
        assert len(whole) >= 5
        assert all((flips == whole[0]).all() for flips in whole)
        assert 0 < whole[0].sum() < 8 or whole[0].sum() in (0, 8)  # 48 % a coin: any pattern may come
        account = box.owner.ledger()["private"]
        assert account["epsilon"] == pytest.approx(0.1)
        assert account["charged"] == 0
        assert "costs nothing more" in account["words"]
        assert int(box.store.get("label seed")) > 1 << 64
        assert len({life["seed"] for life in lives(box)}) == len(lives(box))


def test_without_noise_no_number_is_shown(tmp_path: Path) -> None:
    with running(tmp_path / "plain", offer_with(privacy__private__epsilon="inf")) as box:
        box.consent()
        box.teach(3)
        for _ in range(4):
            box.owner.refit()  # the offer promises nothing: there is nothing to cap
        account = box.owner.ledger()["private"]
        assert account["epsilon"] == "inf"
        assert account["charged"] == 4
        assert "nothing is promised" in account["words"]


def test_a_private_charge_and_a_messages_are_two_accounts(box: Vault) -> None:
    box.shared(1)
    phase(box, 1)
    before = box.owner.ledger()
    box.owner.refit()
    after = box.owner.ledger()
    assert {k: after[k] for k in ("epsilon", "messages", "entries", "left")} == {
        k: before[k] for k in ("epsilon", "messages", "entries", "left")
    }
    assert after["private"]["epsilon"] > before["private"]["epsilon"]
    assert len(box.owner.receipts()) == 1


def test_a_charge_that_the_disk_refuses_lets_no_fit_be(box: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    from commonground.errors import StorageError

    def full(*_: Any, **__: Any) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(PrivateLedger, "charge", full)
    monkeypatch.setattr(Learner, "private", lambda *_: pytest.fail("it was fitted"))
    with pytest.raises(StorageError):
        box.owner.refit()
    phase(box, 1)
    assert lives(box) == []
    assert replace(box.server.rounds.lives.current()[0], seed=0).paid == ""


def test_every_life_draws_afresh_and_labels_are_turned_round_once(
    box: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same draws under two fits cancel; labels that are turned round anew tell the truth on average."""
    seen: list[tuple[object, object]] = []

    class Noted(Learner):
        def __init__(self, meant: Any, found: Any, seed: Any, person: Any, label: Any, noise: Any) -> None:
            seen.append((seed, label))
            super().__init__(meant, found, seed, person, label, noise)

    monkeypatch.setattr(lives_room, "Learner", Noted)
    phase(box, 1)
    box.owner.refit()
    box.owner.reset()
    box.teach(6)
    phase(box, 2)
    seeds = list(dict.fromkeys(seed for seed, _ in seen))
    assert len(seeds) >= 3  # of the first life, of the fresh fit, and of what came after the reset
    assert len({label for _, label in seen}) == 1
    assert seen[0][1] not in seeds
