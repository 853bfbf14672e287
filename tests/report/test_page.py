"""The page as text: whole, escaped, self-contained, and robust to what is missing."""

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from commonground.errors import StorageError
from commonground.report.page import build_page, render_page

Result = dict[str, Any]


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the 4.8 MB of plotly.js, for tests that render often."""
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "")


def test_the_whole_page(tmp_path: Path, result: Result, policy_result: Result) -> None:
    path = tmp_path / "deep" / "report.html"
    build_page([("Reward", result), ("Policy", policy_result)], path)
    text = path.read_text()
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    assert text.count("plotly.js v") == 1
    for heading in (
        "What each model gets right",
        "Who gains, who loses",
        "Group by group",
        "How it is spread over people",
        "Round by round",
        "Information erased by aggregation",
        "Against the planted truth",
        "Check: can the choice be told from format alone",
        "What left the devices, and what did not",
        "The privacy statement",
        "What exists only because this is a simulation",
        "The data",
        "How to reproduce",
    ):
        assert text.count(f">{heading}") == 2, heading
    assert text.count("<h3>What each model writes") == 1  # only the policy run writes
    assert "commonground simulate people=240" in text
    assert "ratings.csv.gz:17: rating is not a number" in text


@pytest.mark.usefixtures("light")
def test_nothing_is_fetched(result: Result) -> None:
    text = render_page([("Reward", result)])
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)""", text)
    assert "default-src 'none'" in text
    assert "url(" not in text
    assert "@import" not in text


@pytest.mark.usefixtures("light")
def test_markup_is_shown_and_never_run(build_result: Callable[..., Result], evil: str) -> None:
    made = build_result(6, writes=True)
    made["per_person"]["person"][0] = evil
    made["writing"]["people"][0]["likes"] = made["writing"]["prompts"][0] = evil
    made["privacy"]["statement"] = made["reproduce"] = evil
    made["config"][evil] = made["versions"][evil] = evil
    made["policies"][evil] = made["policies"]["base"]
    made["policies"]["personal"]["taste"]["groups"][evil] = {"accuracy": 0.5}
    made["policies"]["pooled"]["taste"]["groups"][evil] = {"accuracy": 0.5}
    made["egress"]["tensors"] = [evil]
    made["egress"]["receipts"][0]["manifest"] = evil
    made["data"]["left_out"][evil] = 1
    made["format_probe"]["note"] = evil
    text = render_page([(evil, made)])
    assert "<script>window" not in text
    assert "<b>bold" not in text
    assert text.count("&lt;script&gt;window.broken") >= 12
    assert text.count("<script") == 3  # data, plotly, ours


@pytest.mark.usefixtures("light")
def test_only_our_own_scripts_carry_the_nonce(policy_result: Result) -> None:
    text = render_page([("Policy", policy_result)])
    nonce = re.search(r"'nonce-([0-9a-f]{32})'", text)
    assert nonce is not None
    assert text.count(f'nonce="{nonce[1]}"') == 2
    assert render_page([("Policy", policy_result)]) == text  # the same result, the same bytes


def places(values: Any, depth: int) -> Iterator[tuple[Any, ...]]:
    """Paths of everything in a result; of a list only its first entry."""
    inner = list(values.items()) if isinstance(values, dict) else list(enumerate(values))[:1]
    for key, value in inner:
        yield (key,)
        if depth > 1 and isinstance(value, (dict, list)):
            yield from ((key, *rest) for rest in places(value, depth - 1))


@pytest.mark.usefixtures("light")
def test_any_missing_or_empty_value_leaves_a_page(build_result: Callable[..., Result]) -> None:
    made = build_result(6, writes=True)
    paths = [p for p in places(made, 4) if p[:2] != ("policies", "local")]
    assert len(paths) > 200
    for path in paths:
        whole = made | copy.deepcopy({path[0]: made[path[0]]})
        target: Any = whole
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = None
        render_page([("x", whole)])
        if isinstance(target, dict):
            del target[path[-1]]
            render_page([("x", whole)])


@pytest.mark.usefixtures("light")
def test_an_empty_result_and_no_part() -> None:
    assert "What exists only because this is a simulation" in render_page([("nothing", {})])
    assert "How to read this page" in render_page([])


@pytest.mark.usefixtures("light")
def test_a_gain_that_may_be_chance_is_grey(result: Result) -> None:
    made = copy.deepcopy(result)
    row = made["paired"]["personal_minus_pooled"]
    sure = render_page([("x", made)]).count("unclear")
    row["low"] = -0.01
    assert render_page([("x", made)]).count("unclear") == sure + 1


@pytest.mark.usefixtures("light")
def test_a_failed_write_leaves_the_old_page(
    tmp_path: Path, result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left on device") as caught:
        build_page([("x", result)], path)
    assert caught.value.exit_code == 2
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("light")
def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        build_page([], tmp_path / "file" / "report.html")
