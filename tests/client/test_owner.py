"""The owner's side of the vault, through its socket: every call, and what each error says."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import toy_vault
from toy_models import tiny_base
from toy_patience import until
from toy_vault import KEY, Vault, running
from toy_world import HashEncoder

from commonground import language_model
from commonground.bounds.budget import Budget
from commonground.bounds.charter_schema import Charter
from commonground.bounds.enforcement import Enforcement
from commonground.bounds.guard import Guard
from commonground.bounds.tiers import Placement
from commonground.client import answers, belongings, keys, sockets, takeout, told
from commonground.client import vault_pb2 as pb
from commonground.client.learner import Learner
from commonground.client.lives import NEW_BASE, TAKEN_BACK
from commonground.client.owner import OwnerClient
from commonground.client.sockets import OWNER, TOKEN_KEY, socket_folder
from commonground.client.told import policies
from commonground.client.vault_pb2_grpc import OwnerStub
from commonground.data.starter import STYLES, safety_pairs, taste_prompts
from commonground.errors import CommonGroundError, ConfigError, DataError, InputError, TrustError
from commonground.manifest import Manifest
from commonground.study.offer import Offer
from commonground.training import features
from commonground.training.model import person_rows


@pytest.fixture(autouse=True)
def encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "Encoder", HashEncoder)
    monkeypatch.setattr(belongings, "Encoder", HashEncoder)


@pytest.fixture
def offer(encoder: None) -> Offer:
    return toy_vault.offer_of(toy_vault.study_config(privacy__private__epsilon="inf"))


@pytest.fixture
def box(tmp_path: Path, offer: Offer) -> Iterator[Vault]:
    with running(tmp_path / "p", offer) as found:
        found.consent()
        yield found


def like_emoji(box: Vault, count: int = 12) -> None:
    """A person who prefers one style to another."""
    for prompt in taste_prompts()[:count]:
        box.owner.add(prompt.prompt, prompt.answers["emoji"], prompt.answers["formal"], "taste")


def private(box: Vault, round: int, value: float = 0.01, *, final: bool = False) -> None:
    """A private phase of the node's; the last one is that of the release after the last round."""
    arrays = box.operator.arrays(value)
    if final:
        round = box.operator.offer.settings.rounds + 1
    box.device.private_update(round, arrays, final, release=box.operator.release(round, arrays))


def eventually(found: Callable[[], bool]) -> None:
    """Until it holds."""
    until(found)


def test_what_she_says_is_kept_listed_and_taken_back(box: Vault) -> None:
    first = box.owner.add("why?", "kind", "curt", "taste", why="it is warmer")
    second = box.owner.tie("which?", "one", "two", "both bad")
    assert second > first
    page = box.owner.comparisons()
    assert page["total"] == 2
    newest, oldest = page["items"]
    assert (newest["verdict"], oldest["verdict"]) == ("both bad", "better")
    shown = ("id", "prompt", "chosen", "rejected", "tag", "why")
    assert [oldest[k] for k in shown] == [first, "why?", "kind", "curt", "taste", "it is warmer"]
    assert box.owner.comparisons(offset=1, limit=1)["items"] == [oldest]
    undone = box.owner.undo()
    assert undone is not None
    assert undone["id"] == second
    assert box.owner.status()["comparisons"] == {"safety": 0, "taste": 1, "ties": 0, "cap": 8}
    box.owner.undo()
    assert box.owner.undo() is None


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda o: o.add("p", "same", "same", "taste"), DataError, "must differ"),
        (lambda o: o.add("p", "a", "b", "other"), DataError, "tag is 'other'"),
        (lambda o: o.add("p", "a" * 30_000, "b", "taste"), DataError, "at most 20,000"),
        (lambda o: o.tie("p", "a", "b", "perhaps"), InputError, "verdict is 'perhaps'"),
        (lambda o: o.rollback(7), InputError, "no version 7"),
        (lambda o: o.receipt(3), InputError, "no receipt 3"),
        (lambda o: o.accept("0" * 64, 1.0), TrustError, "what you would accept"),
        (lambda o: list(o.generate("hello")), InputError, "writes none"),
        (lambda o: list(o.generate("hello", "other")), InputError, "which is 'other'"),
        (lambda o: list(o.generate("hello", tokens=0)), InputError, "tokens is 0"),
        (lambda o: o.export(Path("/nowhere/at/all.zip")), CommonGroundError, "cannot be written"),
    ],
)
def test_a_mistake_is_one_line_of_the_same_kind_here(
    box: Vault, call: Callable[[OwnerClient], Any], kind: type[CommonGroundError], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        call(box.owner)
    assert "\n" not in caught.value.message


def test_a_cap_must_be_a_number_above_zero(box: Vault) -> None:
    for cap in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="epsilon cap"):
            box.owner.accept(box.operator.offer.digest, cap)


def test_consent_says_what_it_means(tmp_path: Path, offer: Offer) -> None:
    with running(tmp_path / "p", offer) as box:
        found = box.owner.consent()
        assert found["offer"]["digest"] == offer.digest
        assert found["accepted"] is None
        assert found["fits"] is None
        assert found["changed"] is False
        meant = box.server.rounds.understood()
        assert (found["trust"], found["most"], found["separation"]) == ("local", meant.terms.most, 1)
        assert found["epsilon"] == pytest.approx(meant.terms.claim.epsilon)
        assert [row["name"] for row in found["leaves"]] == ["shared.safety.u"]
        assert found["size"] == 16
        assert "before a message leaves it" in found["words"][0]
        assert any("cannot be called back" in line for line in found["words"])
        after = box.owner.accept(offer.digest, 3.5)
        assert after["accepted"]["epsilon_cap"] == 3.5
        assert after["accepted"]["version"] == offer.version
        assert box.owner.status()["consented"] is True
    config = toy_vault.study_config(privacy__trust="central", privacy__shared__mechanism="banded")
    with running(tmp_path / "q", toy_vault.offer_of(config)) as box:
        assert "could reconstruct" in box.owner.consent()["words"][0]


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"software": "0.0.1"}, TrustError, "is for commonground 0.0.1"),
        ({"base": {"basis.taste": "0" * 64}}, CommonGroundError, "the base model's basis.taste has digest"),
        ({"manifest": None}, TrustError, "another manifest than the offer's: clip is"),
    ],
)
def test_an_offer_that_does_not_fit_this_device_cannot_be_accepted(
    tmp_path: Path, offer: Offer, change: dict[str, Any], kind: type[CommonGroundError], words: str
) -> None:
    if "manifest" in change:
        change = {"manifest": replace(Manifest.from_dict(offer.manifest), clip=1e9).to_dict()}
    with running(tmp_path / "p", replace(offer, **change)) as box:
        assert words in box.owner.consent()["fits"]
        with pytest.raises(kind, match=words):
            box.consent()
        assert box.owner.status()["state"] == "consent"


def test_ledger_and_receipts_agree_with_the_claim(box: Vault) -> None:
    box.teach()
    assert box.owner.ledger()["epsilon"] == 0
    assert box.owner.receipts() == []
    for round in (1, 2):
        sent = box.shared(round)
    found, claim = box.owner.ledger(), box.server.rounds.understood().terms.claim
    assert found["epsilon"] == pytest.approx(claim.epsilon_after(2))
    assert found["one"] == pytest.approx(claim.epsilon_after(3))
    assert (found["messages"], found["trust"], found["cap"], found["left"]) == (2, "local", "inf", "inf")
    assert [entry["status"] for entry in found["entries"]] == ["committed"] * 2
    assert any("this device has charged 2 message" in line for line in found["words"])
    newest, oldest = box.owner.receipts()
    assert (newest["round"], newest["release"], newest["names"]) == (2, 2, ["shared.safety.u"])
    assert oldest["epsilon"] < newest["epsilon"] == found["epsilon"]
    whole = box.owner.receipt(newest["id"])
    (tensor,) = whole["tensors"]
    assert tensor["bytes"] == sent["shared.safety.u"].tobytes()
    np.testing.assert_array_equal(tensor["values"], sent["shared.safety.u"])
    assert (tensor["name"], tensor["dtype"], tensor["shape"]) == ("shared.safety.u", "float32", [16])
    assert box.owner.receipt(oldest["id"])["tensors"] == []
    assert box.owner.status()["sent"] == 2


def test_suggestions_are_shipped_pairs_in_no_order(box: Vault) -> None:
    taste = {p.prompt: set(p.answers.values()) for p in taste_prompts()}
    harm = {p.prompt: {p.safe, p.unsafe} for p in safety_pairs()}
    safe_first, both, seen = 0, 0, set[str]()
    for _ in range(60):
        found = box.owner.suggest()
        assert found is not None
        assert set(found["answers"]) <= (taste | harm)[found["prompt"]]
        assert len(set(found["answers"])) == 2
        seen.add(found["prompt"])
        if found["prompt"] in harm:
            both += 1
            safe_first += found["answers"][0] in {p.safe for p in safety_pairs()}
    assert 0 < safe_first < both < 60
    assert len(seen) > 20


def test_what_it_learned_is_what_she_likes(box: Vault) -> None:
    nothing = box.owner.learned()
    assert (nothing["taste"], nothing["agrees"], nothing["styles"]) == (0, None, [])
    like_emoji(box)
    private(box, 1, final=True)
    found = box.owner.learned()
    assert (found["taste"], found["steps"], found["of"]) == (8, 40, 40)  # the newest that count
    assert found["agrees"]["after"] > found["agrees"]["before"]
    change = {row["name"]: row["after"] - row["before"] for row in found["styles"]}
    assert sorted(change) == sorted(STYLES)
    assert change["emoji"] > 0 > change["formal"]
    assert found["examples"]
    assert box.owner.status()["private"]["taste"] == 8


def margins(box: Vault, which: str) -> bytes:
    """Scores of some shipped answers under the shared or the personal policy, bit for bit."""
    meant = box.server.rounds.understood()
    shared, own = policies(box.server.rounds, meant)
    rows = person_rows([np.arange(1)])
    return b"".join(
        s.numpy().tobytes()
        for s in meant.table.public.scores(rows, shared, own if which == "personal" else None)
    )


def test_reset_is_bit_for_bit_the_shared_policy_and_forgets(box: Vault) -> None:
    like_emoji(box)
    private(box, 1, 0.3)
    assert margins(box, "personal") != margins(box, "shared")
    told = box.owner.reset()["private"]
    wanted = {"version": 0, "steps": 0, "of": 40, "taste": 0, "new": 0, "fits": 2}
    assert {name: told[name] for name in wanted} == wanted
    assert margins(box, "personal") == margins(box, "shared")
    private(box, 2, 0.3)
    assert box.owner.learned()["taste"] == 0
    assert margins(box, "personal") == margins(box, "shared")  # none of what was forgotten comes back
    box.owner.add("new", "kind", "curt", "taste")
    private(box, 3, 0.3)
    assert box.owner.status()["private"]["taste"] == 1


def test_going_back_to_a_version_brings_its_numbers_back(box: Vault) -> None:
    like_emoji(box)
    private(box, 1)
    before = margins(box, "personal")
    private(box, 2, 0.01)
    first, second = (row["version"] for row in reversed(box.owner.adapters()))
    assert [row["current"] for row in box.owner.adapters()] == [True, False]
    assert box.owner.rollback(first)["private"]["version"] == first
    assert margins(box, "personal") == before
    assert [row["current"] for row in box.owner.adapters()] == [False, True]
    seeds = {v: json.loads(box.store.get(f"life {v}"))["seed"] for v in (first, second)}
    assert seeds[first] != seeds[second]  # what comes after is drawn afresh


def test_a_comparison_taken_back_is_unlearned_and_it_says_so(box: Vault) -> None:
    like_emoji(box, 4)
    private(box, 1, 0.2, final=True)
    kept = box.store.adapters.state()
    box.owner.add("odd", "xxxx", "yyyy", "taste")
    box.owner.refit()
    learned = box.store.adapters.state()
    assert box.owner.status()["private"]["taste"] == 5
    box.owner.undo()
    eventually(lambda: box.owner.status()["private"]["taste"] == 4)
    again = box.store.adapters.state()
    assert kept is not None and learned is not None and again is not None  # noqa: PT018
    # No noise in this study: the same comparisons at the same adapter give the same numbers again.
    assert again["adapter/private.v"].tobytes() == kept["adapter/private.v"].tobytes()
    assert learned["adapter/private.v"].tobytes() != kept["adapter/private.v"].tobytes()
    status = box.owner.status()
    assert TAKEN_BACK in status["refit"]
    assert status["private"]["fits"] == 3
    box.owner.add("danger", "do not", "do", "safety")
    box.owner.undo()  # a safety comparison taught the private adapter nothing
    assert box.owner.status()["private"]["fits"] == 3


def test_a_comparison_taken_back_while_it_is_learned_is_unlearned_too(
    box: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    like_emoji(box, 4)
    whole = Learner.private

    def slow(self: Learner, *given: Any) -> Any:
        monkeypatch.undo()
        monkeypatch.setattr(features, "Encoder", HashEncoder)
        box.owner.undo()
        return whole(self, *given)

    monkeypatch.setattr(Learner, "private", slow)
    private(box, 1)
    assert TAKEN_BACK in (box.owner.status()["refit"] or "")
    private(box, 2)
    assert box.owner.status()["private"]["taste"] == 3
    assert box.owner.status()["private"]["fits"] == 2


def test_another_base_model_fits_it_anew(tmp_path: Path, offer: Offer, box: Vault) -> None:
    like_emoji(box, 4)
    private(box, 1)
    version = box.store.adapters.current()
    assert version is not None
    life = json.loads(box.store.get(f"life {version.version}"))
    box.store.put(f"life {version.version}", json.dumps(life | {"base": "that of another model"}))
    private(box, 2)
    assert NEW_BASE in box.owner.status()["refit"]


def test_the_tag_is_proposed_from_public_texts(box: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an encoder that knows nothing the classifier is never sure, and proposes the careful tag."""
    asked: list[bool] = []
    whole = HashEncoder.embed

    def watched(self: HashEncoder, texts: Any, progress: Any = None, *, keep: bool = True) -> np.ndarray:
        asked.append(keep)
        return whole(self, texts, progress, keep=keep)

    monkeypatch.setattr(HashEncoder, "embed", watched)
    pair = safety_pairs()[0]
    assert box.owner.propose_tag(pair.prompt, pair.safe, pair.unsafe) == "safety"
    assert asked == [True, False]  # her own texts are not written to the cache
    assert box.owner.propose_tag("a", "b", "c") in ("safety", "taste")


def test_the_vault_writes_an_export_into_the_profile_alone(
    box: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a service it can write nowhere else, and what it writes to its /tmp nobody finds."""
    written = []

    def watched(store: Any, path: Path, **more: Any) -> dict[str, int]:
        written.append(path.parent)
        return takeout.export(store, path, **more)

    monkeypatch.setattr(belongings, "export", watched)
    box.owner.export(tmp_path / "mine.zip")
    assert zipfile.is_zipfile(tmp_path / "mine.zip")
    assert written == [box.profile.run]
    assert list(box.profile.run.glob("*carried*")) == []
    with pytest.raises(InputError, match="exists"):
        box.owner.export(tmp_path / "mine.zip")
    assert len(written) == 1


def test_an_export_that_nobody_took_goes_with_the_store(box: Vault) -> None:
    (box.profile.run / "export-abc.zip").write_text("everything, in clear")
    box.owner.erase()
    assert list(box.profile.run.glob("*.zip")) == []


def test_everything_can_be_taken_away_and_then_erased(box: Vault, tmp_path: Path) -> None:
    box.teach(2)
    box.shared(1)
    private(box, 2)
    found = box.owner.export(tmp_path / "mine.zip")
    assert found == {"path": str(tmp_path / "mine.zip"), "bytes": (tmp_path / "mine.zip").stat().st_size}
    with zipfile.ZipFile(tmp_path / "mine.zip") as archive:
        assert b"a kind answer 1" in archive.read("comparisons.jsonl")
        assert b"this device has charged 1 message" in archive.read("README.txt")
    assert box.owner.erase()["erased"] is True
    assert box.server.mine.erased.is_set()
    assert list(box.profile.folder.glob("store*")) == []
    with pytest.raises(CommonGroundError):
        box.owner.status()


def test_without_the_token_nothing_is_told(box: Vault) -> None:
    channel = grpc.insecure_channel(f"unix:{socket_folder(box.profile.folder) / OWNER}")
    stub = OwnerStub(channel)
    calls = [name for name in vars(stub) if name[0].isupper()]
    assert len(calls) == 25
    for metadata in ((), ((TOKEN_KEY, "x" * 43),), ((TOKEN_KEY, ""),)):
        for name in calls:
            request = pb.DESCRIPTOR.services_by_name["Owner"].methods_by_name[name].input_type.name
            with pytest.raises(grpc.RpcError) as caught:
                answer = getattr(stub, name)(getattr(pb, request)(), metadata=metadata)
                list(answer)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED, name
    channel.close()


def test_no_vault_is_one_line(tmp_path: Path, box: Vault) -> None:
    with pytest.raises(InputError, match="no vault runs on the profile"):
        OwnerClient(tmp_path / "nothing")
    folder = tmp_path / "stale"
    sockets.run_folder(folder)
    (folder / "run" / sockets.TOKEN).write_bytes(keys.lock_token(keys.door_key(KEY), "old"))
    with OwnerClient(folder, key=KEY) as stale, pytest.raises(InputError, match="does not answer"):
        stale.status()


class Calm:
    """A detector that finds nothing."""

    name, digest = "calm", "c" * 64

    def score(self, prompts: Sequence[str], answers: Sequence[str] | None = None) -> list[float]:
        return [0.0 for _ in prompts]


def passing(charter: Charter, *_: Any, reach: bool) -> Enforcement:
    """A charter at work that lets everything pass."""
    return Enforcement(charter, Placement(Calm(), Calm(), 0.5, 0.5), Guard(Calm()), Budget(1.0))


def text_of(box: Vault, way: str) -> str:
    return "".join(piece.text for piece in box.owner.generate("what is a tide", way, 24))


def test_a_policy_study_writes_and_reset_writes_what_the_shared_policy_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language_model, "load_base", lambda base: tiny_base())
    monkeypatch.setattr(answers, "enforce", passing)  # test_answers.py is about what does not pass
    model = {"kind": "policy", "adapter": "lora", "layers": 2, "rank": 2}
    offer = toy_vault.offer_of(toy_vault.study_config(model=model, privacy__private__rate=0.5))
    with running(tmp_path / "p", offer) as box:
        box.consent()
        assert box.owner.suggest() is None
        for k in range(4):
            box.owner.add("how do I boil an egg", "moon moon sea", f"yes no {'maybe ' * k}", "taste")
        private(box, 1, 0.05, final=True)
        drawn = {text_of(box, "shared") for _ in range(6)}
        assert len(drawn) > 1  # two answers of one policy are two answers
        monkeypatch.setattr(told, "TEMPERATURE", 0.0)
        texts = {way: text_of(box, way) for way in ("base", "shared", "personal")}
        assert len(set(texts.values())) == 3
        (whole,) = box.server.rounds.understood().table.public.generate(  # type: ignore[attr-defined]
            ["what is a tide"], None, None, tokens=24
        )
        assert texts["base"] == whole
        assert box.owner.learned()["taste"] == 4
        box.owner.reset()
        assert text_of(box, "personal") == texts["shared"]


def test_an_error_of_many_faults_keeps_them(box: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise ConfigError(["one: wrong", "two: wrong"])

    monkeypatch.setattr(box.server.mine, "status", fail)
    with pytest.raises(ConfigError) as caught:
        box.owner.status()
    assert caught.value.faults == ("one: wrong", "two: wrong")
