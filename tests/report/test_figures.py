"""Figures: plotly accepts them, they show the right numbers, and missing numbers make no figure."""

import json
import re
from typing import Any

import plotly.graph_objects as go
import pytest

from commonground.report import figures
from commonground.report.drawing import LONGEST, layout, name_axis

Result = dict[str, Any]


def drawn(result: Result) -> dict[str, Any]:
    return {
        "taste": figures.intervals(result, "taste"),
        "safety": figures.intervals(result, "safety"),
        "distribution": figures.distribution(result),
        "groups": figures.groups(result),
        "curve": figures.curves(result, "taste"),
        "privacy": figures.privacy(result),
        "erased": figures.erased(result),
    }


def test_plotly_accepts_every_figure(result: Result, policy_result: Result) -> None:
    for each in (result, policy_result):
        for name, figure in drawn(each).items():
            assert figure is not None, name
            text = json.dumps(figure, allow_nan=False)
            checked = go.Figure(json.loads(re.sub(r'"var\(--[a-z-]+\)"', '"black"', text)))
            assert len(checked.data) > 0


def test_every_colour_is_in_the_style_sheet(result: Result) -> None:
    from importlib.resources import files

    style = (files("commonground.report") / "templates" / "page.css").read_text()
    used = set(re.findall(r"var\((--[a-z-]+)\)", json.dumps(drawn(result))))
    assert {"--personal", "--pooled", "--minority"} <= used
    for name in used:
        assert style.count(f"{name}:") == 3, name  # light, dark, print


def test_nothing_known_no_figure() -> None:
    assert set(drawn({}).values()) == {None}


def test_intervals_are_in_per_cent_and_asymmetric() -> None:
    entry = {"taste": {"accuracy": 0.7, "low": 0.6, "high": 0.72, "minority": None}}
    figure = figures.intervals({"policies": {"pooled": entry, "odd": {"taste": {"accuracy": 0.5}}}}, "taste")
    assert figure is not None
    trace = figure["data"][0]
    assert trace["x"] == [70, 50]
    assert trace["y"] == [0, 1]
    assert trace["error_x"]["arrayminus"] == [pytest.approx(10), None]
    assert trace["error_x"]["array"] == [pytest.approx(2), None]
    assert figure["layout"]["yaxis"]["ticktext"] == ["Pooled", "odd"]


def test_no_privacy_curve_where_no_epsilon_is_claimed(result: Result) -> None:
    few = result | {"privacy": {"shared": {"epsilon": None, "meaningful": False}}}
    assert figures.privacy(few) is None
    assert figures.privacy(result) is not None


def test_histogram_counts_everybody_once_and_zero_is_one_bar(result: Result) -> None:
    figure = figures.distribution(result)
    assert figure is not None
    others, few = figure["data"]
    assert sum(others["y"]) + sum(few["y"]) == 240
    assert sum(few["y"]) == sum(result["per_person"]["minority"])
    assert 0 in others["x"]


def test_few_people_are_drawn_one_by_one_from_the_largest_gain() -> None:
    table = {
        "person": ["a", "b", "c"],
        "minority": [False, True, False],
        "pooled": [0.5, 0.5, None],
        "personal": [0.4, 0.9, 0.9],
    }
    figure = figures.distribution({"per_person": table})
    assert figure is not None
    assert figure["layout"]["yaxis"]["ticktext"] == ["b (minority)", "a"]
    assert figure["data"][2]["x"] == [90, 40]


def test_people_lists_of_different_lengths_make_no_figure() -> None:
    assert figures.distribution({"per_person": {"pooled": [0.5], "personal": [0.5, 0.6]}}) is None


def test_names_are_shortened_and_their_markup_shown() -> None:
    style = layout(100, False)
    name_axis(style, ["<b>x</b> & y", "n" * 60])
    assert style["yaxis"]["ticktext"][0] == "&lt;b&gt;x&lt;/b&gt; &amp; y"
    assert len(style["yaxis"]["ticktext"][1]) == LONGEST
