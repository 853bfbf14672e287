"""The operator's console in a real browser, over TLS with the study's own certificate."""

from __future__ import annotations

import json
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import toy_books
from toy_pages import DESK, PHONE, Served, Watched, chromium_opened, too_wide, violations

from commonground.server.audit import HEAD, LOG
from commonground.server.state import Study
from commonground.server.tables import Enrolled, Round

pytestmark = pytest.mark.slow
VIEWS = {
    "": "How it goes",
    "people": "People",
    "rounds": "Rounds",
    "releases": "Releases",
    "privacy": "Privacy",
    "audit": "Audit log",
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    made = toy_books.history(tmp_path_factory.mktemp("console") / "study")
    yield made
    made.close()


@pytest.fixture(scope="module")
def served(study: Study) -> Iterator[Served]:
    page = Served(["-m", "commonground.server.console", str(study.folder)], study.run, "console.url")
    yield page
    assert page.stop() == 0
    said = page.errors.read_text().splitlines()
    assert [line for line in said if "/signing.key not found" not in line] == []
    assert not page.file.exists()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium_opened() as opened:
        yield opened


@pytest.fixture(scope="module")
def window(browser: Any, served: Served) -> Iterator[Watched]:
    opened = Watched(browser, ignore_https_errors=True)
    opened.enter(served.link)
    yield opened
    assert opened.hosts() == {urlsplit(served.origin).netloc}
    assert opened.troubles == []
    opened.close()


def test_it_speaks_tls_with_the_study_s_certificate_and_lets_in_by_the_link_alone(
    served: Served, study: Study
) -> None:
    assert served.origin.startswith("https://127.0.0.1:")
    assert stat.S_IMODE(served.file.stat().st_mode) == 0o600
    trusting = ssl.create_default_context(cafile=study.folder / "ca.crt")
    with httpx.Client(verify=trusting) as client:
        assert client.get(served.origin + "/").status_code == 403
        answer = client.get(served.link)
        assert answer.status_code == 200
        assert "; Secure" in answer.headers["set-cookie"]
        assert client.get(served.first).status_code == 403
    with pytest.raises(httpx.ConnectError, match=r"(?i)certificate"):
        httpx.get(served.origin)
    plain = served.origin.replace("https", "http")
    with pytest.raises(httpx.HTTPError):
        httpx.get(plain)


def test_it_shows_the_study_and_nothing_of_one_person(window: Watched) -> None:
    page = window.page
    text = page.inner_text("main")
    for words in ("1 of 3", "4 of 12", "85.0 % right on public pairs", "starts again in 8 s", "1,204"):
        assert words in text
    text = window.open("people").inner_text("main")
    assert "<script>window.broken = 1</script>" in text  # a name is text
    assert page.evaluate("window.broken === undefined")
    columns = [name.inner_text() for name in page.locator("thead th").all()]
    assert columns == ["Name", "Place", "Since", "State", "For", "Made", "Expires", "State"]
    assert toy_books.SECRET not in page.content()
    outcomes = window.open("rounds").locator("tbody tr td:last-child").all_inner_texts()
    assert outcomes == ["under way", "repaired", "accepted", "void, charged", "accepted"]
    row = window.open("releases").locator("tbody tr", has_text="version 2 again").inner_text()
    assert "82.0 %" in row
    assert "0.3400" in row
    assert page.locator("tbody tr", has_text="current").locator("th").inner_text() == "5"
    text = window.open("privacy").inner_text("main")
    assert "No epsilon is shown: with so few people" in text
    assert "this server, to the sum of a round" in text
    assert page.get_by_role("meter").count() == 0


def test_it_follows_the_study_by_itself(window: Watched, study: Study) -> None:
    page = window.open("")
    page.get_by_text("4 of 12", exact=True).wait_for()
    with study.database.writing() as session:
        session.get_one(Round, 5).ended = toy_books.TIME
        session.get_one(Enrolled, 1).online = True
    page.get_by_text("5 of 12", exact=True).wait_for()
    page.get_by_text("2 of 3", exact=True).wait_for()


def test_the_audit_log_is_checked_and_can_be_taken_away(window: Watched, study: Study) -> None:
    page = window.open("audit")
    page.get_by_text("Yes: 3 lines, each following from the one before.").wait_for()
    for button, name in (("Download the log", LOG), ("Download its signed head", HEAD)):
        with page.expect_download() as waiting:
            page.get_by_text(button).click()
        assert Path(waiting.value.path()).read_bytes() == (study.folder / name).read_bytes()
    for other in ("signing.key", "..%2Fsigning.key", "state.db"):
        status = page.evaluate("(at) => fetch(at).then((r) => r.status)", f"audit/{other}")
        window.troubles.clear()  # the browser complains of the refusal, as it should
        assert status == 404
    log = study.folder / LOG
    kept = log.read_bytes()
    lines = kept.splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | {"event": "down"}).encode()
    log.write_bytes(b"\n".join(lines) + b"\n")
    assert "No: audit log: line 2 is damaged." in window.open("audit").inner_text(".notice")
    log.write_bytes(kept)


@pytest.mark.parametrize(("scheme", "size"), [("light", PHONE), ("dark", DESK)])
def test_every_view_is_accessible_and_fits(
    browser: Any, served: Served, scheme: str, size: dict[str, int]
) -> None:
    window = Watched(browser, scheme, size, ignore_https_errors=True)
    window.enter(served.link)
    for view, title in VIEWS.items():
        page = window.page if view == "" else window.open(view)
        assert page.locator("h1").inner_text() == title
        assert violations(page) == []
        assert too_wide(page) == []
    window.close()
