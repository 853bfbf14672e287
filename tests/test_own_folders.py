"""Class of fault: a folder is removed because of its name or place, and not because this program made it."""

from __future__ import annotations

from pathlib import Path

import pytest

from commonground.errors import RunFolderError, StorageError
from commonground.own_folders import (
    MARK,
    make_draft,
    numbered,
    remove_draft,
    remove_known,
    sweep_drafts,
    unmark,
)

NAMES = ("a.json", "b.bin")


def _thesis(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("three years")
    return folder


def test_only_files_of_ours_are_removed_and_all_of_them_or_none(tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    ours.mkdir()
    for name in NAMES:
        (ours / name).write_text("x")
    remove_known(ours, NAMES)
    assert not ours.exists()
    remove_known(ours, NAMES)  # a missing one is no error

    theirs = _thesis(tmp_path / "theirs")
    (theirs / "a.json").write_text("x")
    with pytest.raises(RunFolderError, match=r"holds 'thesis\.txt', which this run did not write"):
        remove_known(theirs, NAMES)
    assert sorted(p.name for p in theirs.iterdir()) == ["a.json", "thesis.txt"]


def test_links_are_never_followed(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "a.json").write_text("x")
    link = tmp_path / "link"
    link.symlink_to(theirs)
    with pytest.raises(RunFolderError, match="left alone"):
        remove_known(link, NAMES)
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "a.json").symlink_to(theirs / "a.json")
    with pytest.raises(RunFolderError, match=r"holds 'a\.json'"):
        remove_known(inside, NAMES)
    marked = tmp_path / "marked"
    make_draft(marked).close()
    draft = tmp_path / "draft"
    draft.symlink_to(marked)
    with pytest.raises(StorageError, match="not made by this program"):
        remove_draft(draft)
    assert (theirs / "a.json").read_text() == "x"
    assert (marked / MARK).is_file()


def test_a_draft_goes_only_if_it_is_marked_and_nobody_is_making_it(tmp_path: Path) -> None:
    theirs = _thesis(tmp_path / ".study.init-notes")
    with pytest.raises(StorageError, match="not made by this program"):
        remove_draft(theirs)
    draft = tmp_path / ".study.init-1234"
    held = make_draft(draft)
    (draft / "key").write_text("x")
    with pytest.raises(StorageError, match="being made by another process"):
        remove_draft(draft)
    sweep_drafts(tmp_path, ".study.init-")
    assert (draft / "key").exists()
    assert (theirs / "thesis.txt").exists()
    held.close()
    sweep_drafts(tmp_path, ".study.init-")
    assert not draft.exists()
    assert (theirs / "thesis.txt").exists()


def test_the_prefix_of_a_sweep_is_no_pattern(tmp_path: Path) -> None:
    make_draft(tmp_path / ".other.init-1").close()
    sweep_drafts(tmp_path, ".*.init-")
    assert (tmp_path / ".other.init-1").is_dir()


def test_a_finished_draft_is_a_draft_no_longer(tmp_path: Path) -> None:
    make_draft(tmp_path / "draft").close()
    (tmp_path / "draft" / "key").write_text("x")
    (tmp_path / "draft").rename(tmp_path / "profile")
    unmark(tmp_path / "profile")
    with pytest.raises(StorageError):
        remove_draft(tmp_path / "profile")
    assert (tmp_path / "profile" / "key").read_text() == "x"


def test_people_are_numbered() -> None:
    assert [numbered(k) for k in (0, 8, 12345)] == ["p0001", "p0009", "p12346"]
