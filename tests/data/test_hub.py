"""Small local folders with the columns of known data sets; nothing here reaches a network."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commonground.data import huggingface
from commonground.data.feedback import TagFeedback
from commonground.data.sources import SourceSpec, load_tag
from commonground.errors import DataError

Write = Callable[..., Path]
ROWS = [{"prompt": f"p{n}", "chosen": f"c{n}", "rejected": f"r{n}", "person": f"u{n % 4}"} for n in range(40)]


def load(
    path: Path | str, preset: str = "", tag: Any = "safety", columns: Any = None, **change: Any
) -> TagFeedback:
    ask: dict[str, Any] = {
        "people": 4, "pairs_per_person": 40, "test_pairs": 40, "split": "warm", "seed": 1, **change
    }  # fmt: skip
    return load_tag(SourceSpec("hub", str(path), columns or {}, preset), tag, **ask)


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    import datasets

    path.parent.mkdir(parents=True, exist_ok=True)
    with huggingface.quiet_datasets():
        datasets.Dataset.from_list(rows).to_parquet(path)
    return path


def saved(tmp_path: Path) -> Path:
    import datasets

    with huggingface.quiet_datasets():
        datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def csv_file(tmp_path: Path) -> Path:
    path = tmp_path / "x.csv"
    path.write_text(
        "prompt,chosen,rejected,person\n" + "".join(",".join(row.values()) + "\n" for row in ROWS)
    )
    return path


def test_every_local_form_gives_the_same_feedback(tmp_path: Path, write_jsonl: Write) -> None:
    array = tmp_path / "x.json"
    array.write_text(json.dumps(ROWS))
    paths = [
        write_jsonl(ROWS),
        write_jsonl(ROWS, "zip/x.jsonl.gz"),
        write_jsonl(ROWS, "folder/data/train.jsonl").parent.parent,
        array,
        csv_file(tmp_path),
        write_parquet(tmp_path / "set/data/train-00000-of-00001.parquet", ROWS).parent.parent,
        saved(tmp_path),
    ]
    feedback = [load(path) for path in paths]
    assert len(feedback[0].people) == 4
    assert all(one == feedback[0] for one in feedback)


def test_only_the_split_train_of_a_folder_is_read(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data/train-00000-of-00001.parquet", ROWS)
    write_parquet(
        tmp_path / "data/test-00000-of-00001.parquet", [{**ROWS[0], "chosen": "held out elsewhere"}]
    )
    assert "held out elsewhere" not in {pair.chosen for pair in load(tmp_path).train}


def test_columns_map_and_bad_rows_have_places(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"q": f"p{n}", "win": f"c{n}", "lose": f"r{n}"} for n in range(20)]
    path = write_parquet(tmp_path / "x.parquet", [*rows, {"q": "p", "win": None, "lose": "r"}])
    feedback = load(path, columns={"prompt": "q", "chosen": "win", "rejected": "lose"})
    assert feedback.bad_rows.first == ["x.parquet[21]: chosen is missing"]
    with pytest.raises(DataError, match="no column 'chosen', 'rejected'; found: 'q', 'win', 'lose'"):
        load(path)


def test_conversations_in_parquet_are_read(tmp_path: Path) -> None:
    def said(role: str, content: str) -> dict[str, str]:
        return {"role": role, "content": content}

    rows = [
        {
            "chosen": [said("user", f"p{n}"), said("assistant", f"c{n}")],
            "rejected": [said("user", f"p{n}"), said("assistant", f"r{n}")],
        }
        for n in range(20)
    ]
    pair = load(write_parquet(tmp_path / "x.parquet", rows)).train[0]
    assert (pair.prompt[0], pair.chosen[0], pair.rejected[0]) == ("p", "c", "r")


def test_hh_rlhf_takes_the_folder_of_the_tag(write_jsonl: Write) -> None:
    def dialogues(kind: str) -> list[dict[str, str]]:
        start = "\n\nHuman: {kind} {n}\n\nAssistant:"
        return [
            {side: start.format(kind=kind, n=n) + f" {side} {n}" for side in ("chosen", "rejected")}
            for n in range(20)
        ]

    folder = write_jsonl(dialogues("harm"), "hh/harmless-base/train.jsonl.gz").parent.parent
    write_jsonl(dialogues("help"), "hh/helpful-base/train.jsonl.gz")
    write_jsonl(dialogues("test"), "hh/harmless-base/test.jsonl.gz")
    assert {pair.prompt.split()[0] for pair in load(folder, "hh-rlhf").train} == {"harm"}
    assert {pair.prompt.split()[0] for pair in load(folder, "hh-rlhf", "taste").train} == {"help"}
    assert load(folder, "hh-rlhf").train[0].chosen.startswith("chosen ")


def test_a_network_error_becomes_one_line_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    from huggingface_hub import constants

    seen: list[bool] = []

    def fails(*args: object, **kwargs: object) -> None:
        seen.append(constants.HF_HUB_OFFLINE and datasets.config.HF_HUB_OFFLINE)
        raise ConnectionError("Couldn't reach 'some/set' on the Hub\nand a long story")

    monkeypatch.setattr(datasets, "load_dataset", fails)
    monkeypatch.setattr(huggingface, "reachable", lambda endpoint: False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    with pytest.raises(DataError, match=r"'some/set' .* ConnectionError: Couldn't reach") as caught:
        load("some/set")
    assert "\n" not in caught.value.message
    assert "data.safety.path" in str(caught.value.hint)
    assert seen == [True]  # fails at once instead of after half a minute of retries
    assert (constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE) == (False, False)


def test_the_hub_is_asked_for_the_configuration_and_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[tuple[Any, ...]] = []

    def gives(name: str, config: str | None, *, data_dir: str | None, split: str) -> Any:
        asked.append((name, config, data_dir, split, datasets.config.HF_UPDATE_DOWNLOAD_COUNTS))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", gives)
    monkeypatch.setattr(huggingface, "reachable", lambda endpoint: True)
    assert len(load("Anthropic/hh-rlhf", "hh-rlhf").people) == 4
    load("owner/set:german")
    assert asked == [
        ("Anthropic/hh-rlhf", None, "harmless-base", "train", False),
        ("owner/set", "german", None, "train", False),
    ]


def test_no_host_means_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface, "getproxies", dict)
    assert not huggingface.reachable("http://127.0.0.1:9")
    monkeypatch.setattr(huggingface, "getproxies", lambda: {"https": "http://proxy"})
    assert huggingface.reachable("http://127.0.0.1:9")


def test_progress_bars_come_back() -> None:
    import datasets

    with huggingface.quiet_datasets():
        assert datasets.are_progress_bars_disabled()
    assert not datasets.are_progress_bars_disabled()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.parquet", b"not parquet", "is no data file we know"),
        ("x.txt", b"hello", "is no data file we know"),
        ("x.json", b"[1, 2", "is not JSON"),
        ("x.json", b"[1, 2]", r"not a JSON object \(2 rows\)"),
        ("x.csv", b"", "is empty"),
        ("x.csv", b"a,b\n1,2\n", "found: 'a', 'b'"),
        ("empty/readme.md", b"", "holds no data file"),
    ],
)
def test_a_local_copy_that_cannot_be_used_is_one_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load(path.parent if path.parent != tmp_path else path)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("path", ["/nowhere/at/all", "missing.jsonl", "a b"])
def test_a_missing_local_path_is_not_looked_for_on_the_hub(path: str) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load(path)


def test_nothing_is_written_where_the_run_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path / "in/x.parquet", ROWS)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    load(path)
    assert os.listdir(here) == []
    assert os.listdir(path.parent) == ["x.parquet"]
