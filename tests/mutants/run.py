"""Plant each bug of `patches.py` in a copy, run the nearest tests, and say which bugs no test has seen.

    make mutants                                 all of them
    python tests/mutants/run.py --only noise     those whose name or file has this word

A bug is killed when a test fails in the copy. First the same tests are run without any bug: where they fail,
nothing can be said. Exit code 1 where a bug survives that docs/mutants.md does not name, 2 where a patch does
not apply or the tests fail without one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from patches import PATCHES, Patch

ROOT = Path(__file__).resolve().parents[2]
KEPT = (
    "src",
    "client",
    "server",
    "strategies",
    "simulations",
    "tests",
    "docs",
    "pyproject.toml",
    "README.md",
)
SURVIVORS = ROOT / "docs" / "mutants.md"


def planted(patch: Patch, text: str) -> str:
    """A file's text with the bug in it.

    Raises:
        ValueError: its place is not there exactly once.
    """
    count = text.count(patch.old)
    if count != 1:
        raise ValueError(f"{patch.file}: {patch.old!r} is there {count} times; 1 is needed ({patch.name})")
    return text.replace(patch.old, patch.new)


def copied(folder: Path) -> Path:
    """A copy of the tree in which bugs are planted."""
    for name in KEPT:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy2(ROOT / name, folder / name)
    return folder


def tested(tree: Path, tests: tuple[str, ...]) -> tuple[bool, str]:
    """Whether the tests pass in a tree, and the last lines of what they said."""
    words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not night"]
    done = subprocess.run(
        [*words, *(str(tree / "tests" / test) for test in tests)],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode == 0, "\n".join(done.stdout.splitlines()[-6:])


def tried(patch: Patch) -> tuple[Patch, bool, str, float]:
    """One bug: whether it was seen, by what, and how long that took."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        tree = copied(Path(folder))
        file = tree / patch.file
        file.write_text(planted(patch, file.read_text()))
        passed, said = tested(tree, patch.tests)
    by = next((line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))), "")
    return patch, not passed, by, time.monotonic() - begun


def main() -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", action="append", default=[], help="a word of a bug's name or file")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="bugs at a time")
    given = parser.parse_args()
    chosen = [p for p in PATCHES if not given.only or any(w in f"{p.name} {p.file}" for w in given.only)]
    for patch in chosen:
        try:
            planted(patch, (ROOT / patch.file).read_text())
        except ValueError as error:
            print(f"error: {error}")
            return 2
    known = SURVIVORS.read_text() if SURVIVORS.exists() else ""
    suites = sorted({patch.tests for patch in chosen})
    new = 0
    with ThreadPoolExecutor(given.jobs) as pool, tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        whole = copied(Path(folder))
        for tests, (passed, said) in zip(
            suites, pool.map(lambda one: tested(whole, one), suites), strict=True
        ):
            if not passed:
                print(f"error: without a bug {' '.join(tests)} fails:\n{said}")
                return 2
        found = list[bool]()
        for patch, killed, by, seconds in pool.map(tried, chosen):
            found.append(killed)
            word = "killed  " if killed else "SURVIVED"
            print(f"{word} {patch.name} ({patch.file}, {seconds:.0f} s) {by}", flush=True)
            new += not killed and patch.name not in known
    print(f"{sum(found)} of {len(found)} killed; {new} survived that docs/mutants.md does not name")
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main())
