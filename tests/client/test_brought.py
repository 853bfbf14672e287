"""Files that a participant brings along: what is read of them, before anything is kept."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from commonground.client.brought import MOST, Vote, keep, look, new_votes
from commonground.errors import DataError, InputError


class Kept:
    """An owner's client that keeps in memory, and that can be cut off."""

    def __init__(self, after: int = 10**6) -> None:
        self.items: list[dict[str, Any]] = []
        self.left = after

    def add(self, prompt: str, chosen: str, rejected: str, tag: str, why: str = "") -> int:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        item = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "tag": tag, "verdict": "better"}
        self.items.insert(0, item)
        return len(self.items)

    def tie(self, prompt: str, a: str, b: str, verdict: str) -> int:
        self.items.insert(0, {"prompt": prompt, "chosen": a, "rejected": b, "tag": "", "verdict": verdict})
        return len(self.items)

    def comparisons(self, offset: int = 0, limit: int = 50) -> dict[str, Any]:
        return {"total": len(self.items), "items": self.items[offset : offset + limit]}


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_column_of_tags_is_kept_and_the_rest_is_what_was_said(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Q", "chosen": f"c{tag}", "rejected": "r", "tag": tag} for tag in ("safety", "taste", None)
    ]
    path = lines(tmp_path / "x.jsonl", rows)
    assert {(v.first, v.tag) for v in look(path).votes} == {
        ("csafety", "safety"), ("ctaste", "taste"), ("cNone", "taste"),
    }  # fmt: skip
    assert ("cNone", "safety") in {(v.first, v.tag) for v in look(path, tag="safety").votes}


def test_an_interrupted_import_goes_on_where_it_was(tmp_path: Path) -> None:
    rows = [{"prompt": "Q", "chosen": f"c{n}", "rejected": "r"} for n in range(450)]
    found = look(lines(tmp_path / "x.jsonl", rows))
    owner: Any = Kept(after=300)
    with pytest.raises(KeyboardInterrupt):
        keep(owner, new_votes(owner, found), print)
    owner.left = 10**6
    assert keep(owner, new_votes(owner, found), print) == 150
    assert len({item["chosen"] for item in owner.items}) == len(owner.items) == 450
    assert new_votes(owner, found) == []


def test_an_export_with_what_nobody_wrote_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    good = {"prompt": "Q", "chosen": "a", "rejected": "b", "tag": "safety", "why": "so", "time": "t"}
    tie = {"id": 1, "prompt": "Q", "first": "a", "second": "b", "verdict": "both bad", "tag": None, "why": ""}
    with zipfile.ZipFile(path, "w") as archive:
        odd = [{}, {"prompt": 1}, good | {"tag": "x"}, good | {"verdict": "best"}]
        archive.writestr(
            "comparisons.jsonl", "".join(f"{json.dumps(row)}\n" for row in (good, *odd)) + "[[[\n"
        )
        archive.writestr("undecided.jsonl", json.dumps(tie))
        archive.writestr("../../outside", "x")
    found = look(path)
    assert found.votes == [
        Vote("Q", "a", "b", "safety", "first", "so"),
        Vote("Q", "a", "b", "taste", "both bad"),
    ]
    assert found.bad.count == 5
    assert sorted(one.name for one in tmp_path.iterdir()) == ["x.zip"]


def test_a_file_that_unpacks_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("comparisons.jsonl", "w") as file,
    ):
        for _ in range(MOST // (1 << 22) + 1):
            file.write(b"\0" * (1 << 22))
    with pytest.raises(DataError, match="larger than 256 MB"):
        look(path)


def test_what_is_not_hers_is_asked_for_or_refused(tmp_path: Path) -> None:
    rows = [{"prompt": "Q", "chosen": f"c{n}", "rejected": "r", "user_id": f"u{n % 2}"} for n in range(4)]
    path = lines(tmp_path / "x.jsonl", rows)
    with pytest.raises(InputError, match=r"comparisons of 2 people: u0 \(2\), u1 \(2\)"):
        look(path)
    with pytest.raises(InputError, match="names no 'u7'; it names u0"):
        look(path, person="u7")
    assert [vote.first for vote in look(path, person="u1").votes] == ["c1", "c3"]
    with pytest.raises(DataError, match="does not exist"):
        look(tmp_path / "nothing")
