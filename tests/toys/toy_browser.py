"""The browser that pages are opened in."""

from __future__ import annotations

import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
FLAGS += ["--disable-component-update", "--disable-sync"]


def chromium() -> str:
    """The browser's path; without one these tests fail, as a check that is skipped checks nothing."""
    for found in filter(None, map(shutil.which, NAMES)):
        return found
    pytest.fail(
        f"none of {', '.join(NAMES)} is on the PATH: apt-get install chromium (`make test` does, as root)",
        pytrace=False,
    )
