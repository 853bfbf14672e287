import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_store import (
    MANIFEST,
    OFFER,
    SCOPE,
    banded_terms,
    bytes_of,
    cap_for,
    local_terms,
    noisy,
    open_store,
    upload,
)

from commonground.client.device_ledger import DeviceLedger, Upload, scope_of
from commonground.client.ledger_words import in_words, summary
from commonground.errors import PrivacyError, Reason, StorageError
from commonground.manifest import Sealed
from commonground.privacy.accounting import Charge, epsilon_composed, epsilon_gaussian, noise_for_gaussian
from commonground.privacy.banded import may_join
from commonground.privacy.claims import private_claim, shared_claim
from commonground.study.offer import Terms

LOCAL, BANDED = local_terms(), banded_terms()


def never() -> Sealed:
    raise AssertionError("a message was made")


def test_one_release_is_charged_made_and_kept_once(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ledger = DeviceLedger(store)
        first = ledger.once(upload(1), LOCAL, 100.0, noisy(1), clip=1.0)
        again = ledger.once(upload(1), LOCAL, 100.0, never)
        assert bytes_of(first.message) == bytes_of(again.message)
        assert first.receipt == again.receipt
        assert ledger.spent() == (LOCAL.charge,)
        assert [(e["key"], e["status"], e["round"]) for e in ledger.entries()] == [
            ("release-1", "committed", 1)
        ]
    with open_store(tmp_path) as store:  # and after a restart
        again = DeviceLedger(store).once(upload(1), LOCAL, 100.0, never)
        assert bytes_of(first.message) == bytes_of(again.message)


def test_what_is_refused_has_a_reason_of_its_own(tmp_path: Path) -> None:
    """The kind: refusals told apart; a charge at another cost, or a sampled one, spends no budget."""
    claim = LOCAL.claim
    sampled = replace(LOCAL, claim=replace(claim, participations=None, sampling=0.5))
    dearer = replace(LOCAL, claim=replace(claim, noise_multiplier=claim.noise_multiplier / 2))
    once = replace(LOCAL, claim=replace(claim, participations=1))
    with open_store(tmp_path) as store:
        ledger = DeviceLedger(store)
        ledger.reserve(upload(1), LOCAL, 100.0)

        def why(number: int, terms: Terms, cap: float = 100.0) -> Reason | None:
            with pytest.raises(PrivacyError) as caught:
                ledger.once(upload(number), terms, cap, never)
            return caught.value.reason

        assert why(1, dearer) is Reason.OTHER_COST
        assert why(2, sampled) is Reason.AMPLIFIED
        assert why(2, once) is Reason.TOO_OFTEN
        assert why(2, LOCAL, cap=1e-6) is Reason.BUDGET
        ledger.once(upload(1), LOCAL, 100.0, noisy(1))
        ledger.once(upload(2), LOCAL, 100.0, noisy(2))
        assert why(1, LOCAL) is Reason.ANSWERED  # its bytes are no longer kept


def test_it_is_charged_before_anything_is_made(tmp_path: Path) -> None:
    with open_store(tmp_path) as store, open_store(tmp_path) as other:
        ledger = DeviceLedger(store)

        def make() -> Sealed:
            # another connection sees it: the charge is committed, not only written
            assert [e["status"] for e in DeviceLedger(other).entries()] == ["reserved"]
            return noisy(1)()

        ledger.once(upload(1), LOCAL, 100.0, make)


def test_a_failed_attempt_stays_charged_and_its_release_can_still_be_answered(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ledger = DeviceLedger(store)

        def breaks() -> Sealed:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            ledger.once(upload(1), LOCAL, 100.0, breaks)
        assert [e["status"] for e in ledger.entries()] == ["reserved"]
        assert ledger.spent() == (LOCAL.charge,)
        ledger.once(upload(1), LOCAL, 100.0, noisy(1))
        assert [e["status"] for e in ledger.entries()] == ["committed"]
        assert ledger.spent() == (LOCAL.charge,)


def test_what_belongs_to_a_message_is_kept_with_it_or_not_at_all(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ledger = DeviceLedger(store)

        def along(sealed: Sealed) -> None:
            store.put("digest", sealed.receipt.digest)
            if store.get("stubborn"):
                raise StorageError("the disk refused")

        sent = ledger.once(upload(1), LOCAL, 100.0, noisy(1), along=along)
        assert store.get("digest") == sent.receipt.digest
        store.put("stubborn", "yes")
        with pytest.raises(StorageError):
            ledger.once(upload(2), LOCAL, 100.0, noisy(2), along=along)
        assert store.get("digest") == sent.receipt.digest
        assert store.outbox.find(SCOPE, "release-2") is None
        assert [e["status"] for e in ledger.entries()] == ["committed", "reserved"]


def test_of_two_messages_that_were_made_at_once_one_never_was(tmp_path: Path) -> None:
    """Another process answers the same release while this one trains: one message counts, with its writes."""
    with open_store(tmp_path) as store, open_store(tmp_path) as other:
        theirs: list[bytes] = []

        def make() -> Sealed:
            quicker = DeviceLedger(other)
            sent = quicker.once(upload(1), LOCAL, 100.0, noisy(1), along=lambda _: other.put("of", "theirs"))
            theirs.append(bytes_of(sent.message))
            return noisy(1)()

        ledger = DeviceLedger(store)
        ours = ledger.once(upload(1), LOCAL, 100.0, make, along=lambda _: store.put("of", "ours"))
        assert [bytes_of(ours.message)] == theirs
        assert store.get("of") == "theirs"
        assert ledger.spent() == (LOCAL.charge,)
        assert len(store.outbox.receipts()) == 1


def test_a_second_message_for_one_release_is_never_made(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ledger = DeviceLedger(store)
        for version in (1, 2):
            ledger.once(upload(version), LOCAL, 100.0, noisy(version))
        with pytest.raises(PrivacyError, match="release 1 was answered before"):
            ledger.once(upload(1), LOCAL, 100.0, never)  # its bytes are no longer kept
        changed = upload(2)
        for release in (
            replace(changed.release, round=3),
            replace(changed.release, offer="other"),
            replace(changed.release, tensors="others"),
        ):
            with pytest.raises(PrivacyError, match="release 2 was answered before"):
                ledger.once(Upload(SCOPE, release), LOCAL, 100.0, never)
        assert ledger.spent() == (LOCAL.charge._replace(steps=2),)
        store.outbox.keep(SCOPE, "release-3", OFFER, noisy(3)())  # by a way that charges nothing
        with pytest.raises(PrivacyError, match="release 3 was answered before"):
            ledger.once(upload(3), LOCAL, 100.0, never)


def test_other_tensors_under_a_reserved_number_are_refused(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ledger = DeviceLedger(store)
        assert ledger.reserve(upload(1), LOCAL, 100.0) is True
        assert ledger.reserve(upload(1), LOCAL, 100.0) is False
        other = Upload(SCOPE, replace(upload(1).release, tensors="others"))
        with pytest.raises(PrivacyError, match="release 1 was answered before"):
            ledger.once(other, LOCAL, 100.0, never)
        with pytest.raises(PrivacyError, match="was charged as"):
            ledger.once(upload(1), local_terms(most=9), 100.0, never)


def test_the_cap_is_over_all_studies_signers_offers_and_restarts(tmp_path: Path) -> None:
    cap = cap_for(LOCAL, 3)
    uploads = [upload(1), upload(2, 1, "next offer"), upload(1, scope=scope_of("another", "cd" * 32))]
    for one in uploads:
        with open_store(tmp_path) as store:
            DeviceLedger(store).once(one, LOCAL, cap, noisy(1))
    with open_store(tmp_path) as store:
        ledger = DeviceLedger(store)
        for one in (upload(9), upload(1, scope=scope_of("a third", "ef" * 32))):
            with pytest.raises(PrivacyError, match=f"the cap is {cap:.6g}"):
                ledger.once(one, LOCAL, cap, never)
        assert ledger.spent() == (LOCAL.charge._replace(steps=3),)
        assert ledger.epsilon(LOCAL.claim.delta) == pytest.approx(cap, rel=1e-9)
        assert len(store.database.rows("SELECT * FROM uploads")) == 3  # a refused one takes no part
        assert ledger.once(upload(9), LOCAL, cap_for(LOCAL, 4), noisy(9)).message is not None


def test_k_and_b_are_kept_whatever_the_server_asks(tmp_path: Path) -> None:
    assert (BANDED.most, BANDED.separation) == (5, 10)
    with open_store(tmp_path) as store:
        ledger = DeviceLedger(store)
        for round in range(1, 80):
            if round in (1, 11, 21, 31, 41):
                ledger.once(upload(round), BANDED, math.inf, noisy(round))
            else:
                with pytest.raises(PrivacyError, match="too often or too early"):
                    ledger.once(upload(round), BANDED, math.inf, never)
        replaced = epsilon_gaussian(2 / BANDED.claim.noise_multiplier, BANDED.claim.delta)
        assert ledger.epsilon(BANDED.claim.delta) == pytest.approx(replaced, rel=1e-9)
        with pytest.raises(PrivacyError, match="too early"):
            ledger.once(upload(99, round=20), BANDED, math.inf, never)  # an earlier round
        new = ledger.once(upload(100, round=1, offer="the next offer"), BANDED, math.inf, noisy(1))
        assert new.message is not None


def test_one_round_is_joined_once_however_many_releases_open_it(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ledger = DeviceLedger(store)
        ledger.once(upload(1, round=1), LOCAL, math.inf, noisy(1))
        with pytest.raises(PrivacyError, match="too early"):
            ledger.once(upload(2, round=1), LOCAL, math.inf, never)


def test_a_message_without_noise_needs_an_infinite_cap(tmp_path: Path) -> None:
    bare = Terms(replace(LOCAL.claim, noise_multiplier=0.0), LOCAL.private_claim)
    with open_store(tmp_path) as store:
        ledger = DeviceLedger(store)
        with pytest.raises(PrivacyError, match="epsilon to inf"):
            ledger.once(upload(1), bare, 1e9, never)
        ledger.once(upload(1), bare, math.inf, noisy(1))
        assert ledger.epsilon(1e-3) == math.inf
        assert "epsilon is infinite" in in_words(ledger, bare, OFFER, math.inf).splitlines()[-4]


def test_amplification_is_never_believed(tmp_path: Path) -> None:
    drawn = shared_claim(people=200, cohort=20, rounds=50, epsilon_target=4.0, clip=1.0)
    whole = replace(drawn, sampling=1.0, unit="comparison")
    with open_store(tmp_path) as store:
        ledger = DeviceLedger(store)
        for claim in (drawn, whole):
            with pytest.raises(PrivacyError, match="accepted: rate 1 and unit person"):
                ledger.once(upload(1), Terms(claim, LOCAL.private_claim), math.inf, never)
        assert ledger.entries() == []


events = st.lists(
    st.tuples(
        st.sampled_from(["one", "two"]),  # scope
        st.sampled_from(["old", "new"]),  # offer
        st.integers(1, 6),  # version
        st.integers(1, 6),  # round
        st.sampled_from(["answered", "reserved", "broken"]),
    ),
    max_size=14,
)


@settings(max_examples=25, deadline=None)
@given(events=events, cap=st.sampled_from([1.0, 4.0, 9.0, math.inf]))
def test_epsilon_is_the_accountants_on_what_a_plain_model_counts(
    events: list[tuple[str, str, int, int, str]], cap: float
) -> None:
    """A dictionary that follows the rules of E9 by hand, and the ledger, agree after every event."""
    terms = {"old": local_terms(2), "new": local_terms(3)}
    delta = LOCAL.claim.delta
    charged: dict[tuple[str, int], tuple[str, int]] = {}
    sent: dict[tuple[str, int], bytes] = {}
    before = 0.0

    def spent(*more: str) -> float:
        offers = [offer for offer, _ in charged.values()] + list(more)
        return epsilon_composed([terms[offer].charge for offer in offers], delta, "gaussian")

    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder)) as store:
        ledger = DeviceLedger(store)
        for scope, offer, version, round, what in events:
            key = (scope, version)
            one = upload(version, round, offer, scope)

            def make(what: str = what, round: int = round) -> Sealed:
                if what == "broken":
                    raise ZeroDivisionError
                return noisy(round)()

            rounds = [r for (s, _), (o, r) in charged.items() if (s, o) == (scope, offer)]
            allowed = may_join(len(rounds), max(rounds, default=0), round, terms[offer].most, 1)
            fresh = key not in charged and allowed and spent(offer) <= cap * (1 + 1e-9)
            same = charged.get(key) == (offer, round)
            try:
                if what == "reserved":
                    assert ledger.reserve(one, terms[offer], cap) is fresh
                else:
                    found = bytes_of(ledger.once(one, terms[offer], cap, make).message)
                    assert sent.setdefault(key, found) == found
                answered = True
            except ZeroDivisionError:
                answered = True
            except PrivacyError:
                answered = False
            assert answered <= (fresh or same)
            if fresh:
                assert answered
                charged[key] = (offer, round)
            assert ledger.epsilon(delta) == pytest.approx(spent(), rel=1e-12)
            assert ledger.epsilon(delta) >= before
            before = ledger.epsilon(delta)
            assert before <= cap * (1 + 1e-9)
            statuses = {(e["scope"], e["key"]): e["status"] for e in ledger.entries()}
            assert statuses == {
                (s, f"release-{v}"): "committed" if (s, v) in sent else "reserved" for s, v in charged
            }


def test_the_account_in_numbers(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ledger = DeviceLedger(store)
        none = summary(ledger, LOCAL, OFFER, cap_for(LOCAL, 3))
        assert (none["epsilon"], none["share"], none["left"], none["charged"]) == (0.0, 0.0, 3, 0)
        ledger.once(upload(1), LOCAL, 100.0, noisy(1))
        ledger.reserve(upload(2), LOCAL, 100.0)
        ledger.once(upload(1, scope="another"), LOCAL, 100.0, noisy(1))
        found = summary(ledger, LOCAL, OFFER, cap_for(LOCAL, 3))
        assert found["epsilon"] == pytest.approx(cap_for(LOCAL, 3), rel=1e-9)
        assert found["share"] == pytest.approx(1.0)
        assert (found["charged"], found["committed"], found["reserved"]) == (3, 2, 1)
        assert (found["taken"], found["most"], found["left"]) == (3, 4, 0)
        assert summary(ledger, LOCAL, "another offer", math.inf)["left"] == 4
        assert summary(ledger, LOCAL, OFFER, math.inf)["share"] == 0.0
        few = local_terms(people=20)
        told = summary(ledger, few, OFFER, 100.0)
        assert told["epsilon"] is None
        assert told["epsilon_if_many"] > 0


@pytest.mark.parametrize(("terms", "who"), [(LOCAL, "on this device"), (BANDED, "cannot see whether it is")])
def test_the_statement_says_unit_neighbours_adversary_and_number(
    tmp_path: Path, terms: Terms, who: str
) -> None:
    with open_store(tmp_path) as store:
        ledger = DeviceLedger(store)
        ledger.once(upload(1), terms, 100.0, noisy(1))
        words = in_words(ledger, terms, OFFER, 100.0)
        for part in (
            "the unit of privacy is one person",
            terms.claim.neighbours,
            terms.claim.adversary,
            f"epsilon = {ledger.epsilon(terms.claim.delta):.4g} at delta = {terms.claim.delta:.4g}",
            "Your cap is 100",
            "Nothing is ever refunded",
            "none that a server sends is read",
            "in which rounds it took part",
            who,
        ):
            assert part in words


def test_no_epsilon_is_said_where_something_left_uncharged(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ledger = DeviceLedger(store)
        ledger.once(upload(1), LOCAL, 100.0, noisy(1))
        store.outbox.keep(SCOPE, "release-7", OFFER, noisy(7)())  # by a way that charges nothing
        for ask in (
            lambda: ledger.epsilon(1e-3),
            lambda: summary(ledger, LOCAL, OFFER, 1.0),
            lambda: in_words(ledger, LOCAL, OFFER, 1.0),
        ):
            with pytest.raises(PrivacyError, match=r"without an account.*release-7"):
                ask()


def test_a_full_disk_charges_nothing_or_keeps_the_charge(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ledger = DeviceLedger(store)
        ledger.once(upload(1), LOCAL, 100.0, noisy(1))
        row = store.database.row("PRAGMA page_count")
        assert row is not None
        store.database.row(f"PRAGMA max_page_count = {row[0]}")
        with pytest.raises(StorageError, match="full"):
            for version in range(2, 500):
                ledger.reserve(upload(version), local_terms(most=999), math.inf)
        store.database.row("PRAGMA max_page_count = 100000")
        charged = len(ledger.entries())
        assert len(store.database.rows("SELECT * FROM uploads")) == charged
        assert ledger.reserve(upload(charged + 1), local_terms(most=999), math.inf) is True


def test_a_charge_is_that_of_methods_e8() -> None:
    """k uploads of multiplier z are one Gaussian of z / sqrt(k): (10, 8) gives 1.743 at 1e-6."""
    charge = Charge(1.0, 8.0, 10)
    assert epsilon_composed([charge], 1e-6, "gaussian") == pytest.approx(1.743, abs=5e-4)
    assert epsilon_gaussian(math.sqrt(10) / 8, 1e-6) == pytest.approx(1.743, abs=5e-4)
    assert LOCAL.charge == Charge(1.0, LOCAL.claim.noise_multiplier / 2, 1)
    assert BANDED.charge.noise_multiplier == pytest.approx(
        BANDED.claim.noise_multiplier * math.sqrt(BANDED.most)
    )
    assert MANIFEST.size == 9


def test_costs_under_different_neighbours_are_never_added(tmp_path: Path) -> None:
    """Class: numbers of different relations in one sum. A banded study's claim replaces a person by zeros.

    Two studies, each at epsilon 2 by its own claim. Added as they stand they would be 3.10; where all that
    the device sent is replaced by anything else, they are 5.64, and the cap is held to that.
    """
    delta, z = 200**-1.1, noise_for_gaussian(2.0, 200**-1.1)
    common: dict[str, Any] = {
        "people": 200,
        "cohort": 20,
        "rounds": 50,
        "epsilon_target": 2.0,
        "delta": delta,
    }
    banded = Terms(shared_claim(**common, mechanism="banded", clip=1.0), private_claim())
    local = Terms(shared_claim(**common, trust="local", participations=4, clip=1.0), private_claim())
    assert epsilon_gaussian(math.sqrt(2) / z, delta) == pytest.approx(3.10, abs=0.005)
    assert banded.claim.epsilon == pytest.approx(2, abs=2e-3)
    assert banded.account.noise_multiplier == banded.charge.noise_multiplier / 2
    assert local.account == local.charge
    with open_store(tmp_path) as store:
        ledger = DeviceLedger(store)
        for visit in range(banded.most):
            round = 1 + visit * banded.separation
            ledger.once(upload(round, round, "banded"), banded, math.inf, noisy(round))
        own = ledger.epsilon(delta)
        assert own == pytest.approx(epsilon_gaussian(2 / z, delta), rel=1e-3)
        for version in range(100, 100 + local.most):
            ledger.once(upload(version, version, "local"), local, 5.7, noisy(version))
        assert ledger.epsilon(delta) == pytest.approx(5.64, abs=0.01)
        told = in_words(ledger, local, "local", 5.7)
        assert "everything that this device sent is replaced by anything else" in told
        assert "or one person" not in told
        again = Upload(scope_of("another", "cd" * 32), upload(1).release)
        with pytest.raises(PrivacyError, match=r"the cap is 5\.7"):
            ledger.once(again, local, 5.7, never)
