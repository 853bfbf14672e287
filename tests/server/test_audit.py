"""The audit log: what its chain and its signed head show, and what a kill leaves."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest
from toy_patience import joined

from commonground.errors import TrustError
from commonground.server import audit as module
from commonground.server.audit import HEAD, LOG, Audit, entries, verify
from commonground.study.signing import load_key, new_key, public_hex


@pytest.fixture
def log(tmp_path: Path) -> tuple[Path, str]:
    """Four lines, and their signer."""
    (tmp_path / "run").mkdir()
    key = new_key(tmp_path / "signing.key")
    audit = Audit(tmp_path, key)
    for number in range(4):
        audit.add("happened", number=number)
    return tmp_path, public_hex(key)


def lines(folder: Path) -> list[str]:
    return (folder / LOG).read_text().splitlines()


def write(folder: Path, found: list[str]) -> None:
    (folder / LOG).write_text("".join(line + "\n" for line in found))


def test_lines_hang_together(log: tuple[Path, str]) -> None:
    folder, signer = log
    assert verify(folder, signer)["lines"] == 4
    assert [entry["values"] for entry in entries(folder)] == [{"number": k} for k in range(4)]
    assert verify(folder.parent, signer) == {"lines": 0, "last": "0" * 64, "pending": None}


@pytest.mark.parametrize("line", range(4))
def test_an_edited_line_is_seen(log: tuple[Path, str], line: int) -> None:
    folder, signer = log
    found = lines(folder)
    found[line] = found[line].replace(f'"number":{line}', '"number":7')
    write(folder, found)
    with pytest.raises(TrustError, match="audit log: line"):
        verify(folder, signer)


def test_a_dropped_moved_or_added_line_is_seen(log: tuple[Path, str]) -> None:
    folder, signer = log
    a, b, c, d = lines(folder)
    forged = json.loads(d) | {"n": 5, "previous": verify(folder, signer)["last"]}
    forged_line = json.dumps(forged, sort_keys=True, separators=(",", ":"))
    wrong = {
        "line 2 does not follow": [a, c, d],
        "line 1 does not follow": [b, c, d],
        "2 lines are here; 4 were signed": [a, b],
        "line 3 does not follow": [a, b, d, c],
        "5 lines are here; 4 were signed": [a, b, c, d, forged_line],
        "line 2 is damaged": [a, "{", c, d],
    }
    for words, found in wrong.items():
        write(folder, found)
        with pytest.raises(TrustError, match=words):
            verify(folder, signer)
    with pytest.raises(TrustError):  # and nothing is added to a log that does not hold
        Audit(folder, load_key(folder / "signing.key")).add("more")


def test_a_head_of_somebody_else_or_of_an_earlier_time_is_seen(log: tuple[Path, str], tmp_path: Path) -> None:
    folder, signer = log
    head = (folder / HEAD).read_text()
    Audit(folder, load_key(folder / "signing.key")).add("fifth")
    (folder / HEAD).write_text(head)
    with pytest.raises(TrustError, match="5 lines are here; 4 were signed"):
        verify(folder, signer)
    with pytest.raises(TrustError, match="accepted"):
        verify(folder, public_hex(new_key(tmp_path / "other.key")))
    (folder / HEAD).unlink()
    with pytest.raises(TrustError, match="is missing"):
        verify(folder, signer)


@pytest.mark.parametrize("kept", [0, 1, 40, 10_000])
def test_a_kill_while_a_line_is_written_loses_nothing(log: tuple[Path, str], kept: int) -> None:
    folder, signer = log
    whole = (folder / LOG).read_bytes()
    last = lines(folder)[-1].encode()
    (folder / LOG).write_bytes(whole[: -len(last) - 1] + last[:kept])
    assert verify(folder, signer)["lines"] == 4
    Audit(folder, load_key(folder / "signing.key")).add("next")
    assert (folder / LOG).read_bytes().startswith(whole)
    assert verify(folder, signer)["lines"] == len(lines(folder)) == 5


def _add(folder: Path, name: str) -> None:
    audit = Audit(folder, load_key(folder / "signing.key"))
    for number in range(10):
        audit.add(name, number=number)


def test_several_processes_write_one_log(log: tuple[Path, str]) -> None:
    folder, signer = log
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_add, args=(folder, f"w{k}")) for k in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        joined(writer)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert verify(folder, signer)["lines"] == 34


def test_a_line_more_does_not_read_all_before_it(
    log: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole log was checked for each new line: quadratic in all. A change since is found all the same."""
    folder, signer = log
    audit = Audit(folder, load_key(folder / "signing.key"))
    audit.add("first of this process")
    checked: list[Path] = []

    def counted(at: Path, by: str) -> dict[str, object]:
        checked.append(at)
        return verify(at, by)

    monkeypatch.setattr(module, "verify", counted)
    for number in range(20):
        audit.add("more", number=number)
    Audit(folder, load_key(folder / "signing.key")).add("of another process")
    audit.add("again")
    assert checked == []
    assert verify(folder, signer)["lines"] == 4 + 23
    text = (folder / LOG).read_text()
    write(folder, [text.splitlines()[1], *text.splitlines()[1:]])
    with pytest.raises(TrustError, match="line 1 does not follow"):
        audit.add("over a changed line")
    assert checked == [folder]
