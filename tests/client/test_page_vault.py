"""The page over a real vault: what a person says arrives in the store, and what left is what is shown."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy_vault
from toy_pages import Served, Watched, chromium_opened, violations

pytestmark = pytest.mark.slow
VIEWS = ("", "learned", "privacy", "messages", "consent", "controls")


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[toy_vault.Vault]:
    offer = toy_vault.offer_of(toy_vault.study_config())
    with toy_vault.running(tmp_path_factory.mktemp("vault") / "profile", offer) as running:
        yield running


@pytest.fixture(scope="module")
def window(vault: toy_vault.Vault) -> Iterator[Watched]:
    folder = vault.profile.folder
    command = ["-m", "commonground.client.page", "--profile", str(folder), "--token-stdin"]
    page = Served(command, folder / "run", token=vault.owner.token)
    with chromium_opened() as browser:
        opened = Watched(browser)
        opened.enter(page.link)
        yield opened
        opened.close()
    assert page.stop() == 0
    assert page.errors.read_text() == ""
    assert opened.hosts() == {page.origin.split("://")[1]}


def test_a_person_consents_compares_and_sees_what_left(window: Watched, vault: toy_vault.Vault) -> None:
    page = window.open("consent")
    page.get_by_label("I have read what leaves").check()
    page.get_by_role("button", name="Accept version 1").click()
    page.get_by_text("You accepted version 1").wait_for()
    assert vault.owner.consent()["accepted"]["digest"] == vault.operator.offer.digest

    window.open("")
    shown: list[str] = []
    for key in ("a", "b", "t", "x"):
        page.locator(".votes").wait_for()
        shown.append(page.locator(".asked").inner_text())
        page.keyboard.press(key)
        page.get_by_text("Kept").or_(page.get_by_text("Is this about harm?")).first.wait_for()
        if page.get_by_text("Is this about harm?").count():
            page.keyboard.press("y")
        page.get_by_text("Kept").wait_for()
        page.keyboard.press("n")
        page.locator(".votes").wait_for()
    kept = vault.owner.comparisons()["items"][::-1]
    assert [item["prompt"] for item in kept] == shown
    assert [item["verdict"] for item in kept] == ["better", "better", "tie", "both bad"]

    vault.teach()
    sent = vault.shared(1)
    row = window.open("messages").locator("details")
    row.locator("summary").click()
    row.locator(".bytes").first.wait_for()
    text = row.inner_text()
    for name, array in sent.items():
        assert name in text
        assert f"{array.nbytes:,} bytes" in text
        assert array.astype("<f4").tobytes()[:16].hex(" ") in text


def test_every_view_stands_on_what_the_vault_says(window: Watched, vault: toy_vault.Vault) -> None:
    for view in VIEWS:
        page = window.open(view)
        assert "The page cannot reach" not in page.inner_text("main")
        assert violations(page) == []
    spent = vault.owner.ledger()
    text = window.open("privacy").inner_text("main")
    if spent["meaningful"]:
        assert f"ε = {spent['epsilon']:.4g} spent" in text
    else:
        assert "No epsilon is shown." in text
    assert f"{spent['messages']} of at most {spent['most']} message" in text


def test_everything_can_be_taken_away_and_then_destroyed(window: Watched, vault: toy_vault.Vault) -> None:
    page = window.open("controls")
    page.get_by_role("button", name="Make the file").click()
    with page.expect_download() as waiting:
        page.get_by_text("Save it").click()
    with zipfile.ZipFile(Path(waiting.value.path())) as file:
        lines = file.read("comparisons.jsonl").decode().splitlines()
    said = [item for item in vault.owner.comparisons()["items"] if item["verdict"] == "better"]
    assert {json.loads(line)["prompt"] for line in lines} == {item["prompt"] for item in said}
    study = vault.profile.study
    page.get_by_label(f"Type {study} to leave").fill(study)
    page.get_by_role("button", name="Leave and destroy everything here").click()
    page.get_by_role("heading", name="You have left").wait_for()
    assert not any(vault.profile.folder.glob("store.db*"))
