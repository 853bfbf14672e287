"""What `server init` says about one participant is what the server then holds them to."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_study import make_study

from commonground.privacy.tail import honest_reach
from commonground.server.deployed import study_job
from commonground.server.reach import reach_words


@pytest.mark.parametrize(
    ("trust", "overrides", "words"),
    [
        ("central", [], "by at most 1 clip a round"),
        ("local", [], "where an honest one moves it by 1"),
        ("local", ["strategy.name=rfa"], "where an honest one moves it by 1"),
        ("central", ["privacy.shared.epsilon=inf"], "set the shared adapter to whatever they like"),
    ],
)
def test_how_far_one_participant_reaches_is_said(
    tmp_path: Path, trust: str, overrides: list[str], words: str
) -> None:
    study = make_study(tmp_path / "study", overrides, trust=trust)
    said = reach_words(study.config, study.terms, study.manifest)
    assert words in said
    wrapper = study_job(study).wrapper()
    most = honest_reach(wrapper.manifest, wrapper.device_noise).joint / wrapper.manifest.clip
    if trust == "local":
        assert f"by up to {most:.0f} clips a round" in said
        assert ("strategy.name=rfa, fedmedian" in said) == (not overrides)
    else:
        assert most == 1
