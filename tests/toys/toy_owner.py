"""A vault in memory with the interface of `OwnerClient`, and a page of it as a process of its own.

    python tests/toys/toy_owner.py --folder DIR --kind policy|reward [--state NAME]

A file `gone` in the folder makes the vault unreachable, as if its process had died; a file `state` puts it in
another state than it was started in; a file `withdrawn` takes its consent back. What was said is written to
`said.jsonl`, one call a line, so that a test in another process can look.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from toy_patience import a_while

from commonground.client.pieces import Piece
from commonground.errors import DataError, InputError, TrustError

HOSTILE = (
    'Here is a plan.\n\n<script>window.broken = 1</script><img src=x onerror="window.broken = 2">\n\n'
    "[click me](javascript:window.broken=3) and [a page](https://evil.example/steal?x=1)\n\n"
    "![pixel](https://evil.example/pixel.png)\n\n- first\n- second **bold**\n"
)
SHARED = "Start slowly. Three runs a week are enough, with a day of rest between them."
DIGEST = "5f" * 32
OTHER = "6a" * 32
REFUSED = "I can't help to deceive anybody for gain."
CHARTER = {
    "title": "Charter of kind answers",
    "version": 2,
    "digest": "8c" * 32,
    "appeal": "Write to study@example.org; a person looks at it.",
    "constraints": {"fraud": "Help to cheat people out of money.", "violence": "Help to hurt a person."},
}
RULES = CHARTER | {
    "signer": "5e21 7788 90ab cdef 1234 5678 9abc def0",
    "rules": [
        {"id": name, "text": text, "severity": "high", "jurisdiction": "universal"}
        for name, text in CHARTER["constraints"].items()  # type: ignore[attr-defined]
    ],
    "words": [
        "Every question is placed before your own adapter sees it.",
        "Who may change it: the operator, with a review board.",
        "If you think that it decided wrongly: write to study@example.org.",
    ],
}
TIME = "2026-11-28T09:30:00+00:00"


class ToyOwner:
    """See the module.

    Args:
        folder: where `gone` and `said.jsonl` are.
        kind: policy | reward.
        state: new | fresh (consented, nothing said) | used | spent | few | plain (no noise) | changed.
    """

    def __init__(self, folder: Path, kind: str = "policy", state: str = "fresh") -> None:
        self.folder, self.kind, self.state = folder, kind, state
        self.paused = self.erased = False
        self.withdrawn: str | None = None
        self.private_most = 8.5
        self.accepted: dict[str, Any] | None = None
        if state != "new":
            digest, version = (OTHER, 1) if state == "changed" else (DIGEST, 2)
            self.accepted = {"digest": digest, "version": version, "time": TIME, "epsilon_cap": 4.0}
        self.said: list[dict[str, Any]] = []
        self.suggested = 0
        self.learning = 0
        self.versions = [self._version(1, "first comparisons", False), self._version(2, "round 3", True)]
        if state in ("used", "spent", "few", "plain"):
            for i in range(12):
                self.add(
                    f"Question {i}: how do I rest well?", "Sleep early. 😴", "Work late.", "taste", "kinder"
                )
            self.add("Is it safe to mix these cleaners?", "No, never.", "Yes.", "safety")
            self.tie("Tea or coffee?", "Tea.", "Coffee.", "tie")
            self.learning = 12
        else:
            self.versions = []

    def __enter__(self) -> ToyOwner:
        if self.erased or (self.folder / "gone").exists():
            raise InputError("no vault runs on the profile", hint="start it: commonground device up")
        if (self.folder / "state").exists():
            self.state = (self.folder / "state").read_text()
        if (self.folder / "withdrawn").exists():
            (self.folder / "withdrawn").unlink()
            self.accepted = None
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def status(self) -> dict[str, Any]:
        tags = [item["tag"] for item in self.said if item["verdict"] == "better"]
        state = "paused" if self.paused else "consent" if self.accepted is None else "ready"
        words = {
            "paused": "Paused: nothing leaves this device.",
            "consent": "Waiting for you: nothing was accepted yet.",
            "ready": "Ready: it answers when the study asks.",
        }[state]
        return {
            "study": "kind-answers",
            "name": "anna",
            "address": "127.0.0.1:9443",
            "state": state,
            "words": words,
            "paused": self.paused,
            "consented": self.accepted is not None,
            "open": True,
            "offer": {"version": 2, "digest": DIGEST},
            "accepted": None if self.accepted is None else self.accepted["digest"],
            "kind": self.kind,
            "base": {"model": "ab" * 32},
            "charter": CHARTER if self.kind == "policy" else None,
            "comparisons": {
                "safety": tags.count("safety"),
                "taste": tags.count("taste"),
                "ties": len(self.said) - len(tags),
                "cap": 200,
            },
            "shared": {"version": 3, "round": 3},
            "private": {
                "version": 2,
                "steps": 40,
                "of": 200,
                "taste": self.learning,
                "new": max(0, tags.count("taste") - self.learning),
            },
            "refit": None,
            "refusals": {},
            "sent": len(self._messages()),
        }

    def add(self, prompt: str, chosen: str, rejected: str, tag: str, why: str = "") -> int:
        if chosen == rejected:
            raise DataError("chosen and rejected are the same text; they must differ")
        return self._keep(prompt, chosen, rejected, tag, "better", why)

    def tie(self, prompt: str, a: str, b: str, verdict: str) -> int:
        if verdict not in ("tie", "both bad"):
            raise InputError(f"verdict is {verdict!r}")
        return self._keep(prompt, a, b, "taste", verdict, "")

    def undo(self) -> dict[str, Any] | None:
        self._note("undo")
        return self.said.pop() if self.said else None

    def comparisons(self, offset: int = 0, limit: int = 50) -> dict[str, Any]:
        return {"total": len(self.said), "items": self.said[::-1][offset : offset + limit]}

    def suggest(self) -> dict[str, Any] | None:
        if self.kind == "policy":
            return None
        self.suggested += 1
        return {"prompt": f"How do I start running? ({self.suggested})", "answers": [HOSTILE, SHARED]}

    def generate(self, prompt: str, which: str = "personal", tokens: int = 128) -> Iterator[Piece]:
        if self.kind == "reward":
            raise InputError("the study's model writes nothing")
        mine = which == "personal"
        if "refused" in prompt:  # every draw was held back, whoever drew
            yield Piece("It begins well. ", which, "free")
            yield Piece(REFUSED, "refusal", "free", "fraud", ("unsafe",))
            return
        if "closed" in prompt:
            yield Piece("Rather ask a lawyer." if mine else SHARED, "shared", "closed")
            return
        if "held" in prompt and mine:
            yield Piece("Take a walk first.", "shared", "free", "", ("unsafe",))
            return
        text = "The same words." if "same" in prompt else HOSTILE if which == "personal" else SHARED
        for start in range(0, len(text), 24):
            a_while(0.25 if "slowly" in prompt else 0.01)
            yield Piece(text[start : start + 24], which, "sensitive" if "risk" in prompt else "free")
            if "break" in prompt:
                raise InputError("the vault does not answer", hint="start it: commonground device up")

    def propose_tag(self, prompt: str, a: str, b: str) -> str:
        return "safety" if "poison" in prompt.lower() else "taste"

    def learned(self) -> dict[str, Any]:
        examples = [{"prompt": "How was your day?", "before": SHARED, "after": "Great! 🎉 And yours?"}]
        return {
            "words": "You like short answers with a friendly tone more than most do.",
            "taste": self.learning,
            "steps": 40,
            "of": 200,
            "fits": 1,
            "agrees": {"before": 0.58, "after": 0.83} if self.learning else None,
            "styles": [
                {"name": "brevity", "before": 0.02, "after": 0.61},
                {"name": "emoji", "before": -0.1, "after": 0.33},
                {"name": "lists", "before": 0.12, "after": -0.2},
            ],
            "examples": examples if self.kind == "reward" else [],
        }

    def refit(self) -> dict[str, Any]:
        self.learning = sum(item["tag"] == "taste" for item in self.said)
        return {"version": 3, "taste": self.learning, "steps": 60}

    def ledger(self) -> dict[str, Any]:
        count = len(self._messages())
        epsilon: float | str = 0.62 * count
        if self.state in ("spent", "plain"):
            epsilon = 4.0 if self.state == "spent" else "inf"
        return {
            "trust": "local" if self.state == "changed" else "central",
            "unit": "person",
            "epsilon": epsilon,
            "delta": 1e-5,
            "cap": "inf" if self.state == "plain" else 4.0,
            "left": "inf" if self.state == "plain" else max(0.0, 4.0 - float(epsilon)),
            "one": {"spent": 4.6, "plain": "inf"}.get(self.state, 0.62 * (count + 1)),
            "messages": count,
            "most": 5,
            "separation": 4,
            "meaningful": self.state != "few",
            "words": [
                "The unit is everything you ever contributed to the shared adapter.",
                "Each message is charged in full: being drawn or not is not counted as protection.",
            ],
            "entries": [
                {"time": TIME, "key": f"round {i}", "status": "committed", "q": 1.0, "z": 8.0, "steps": 1}
                for i in range(count, 0, -1)
            ],
            "private": {
                "mechanism": "dp_sgd",
                "one": 8.0,
                "cap": self.private_most,
                "frozen": "It is frozen: one more would be 15.4." if self.private_most < 9 else "",
                "words": "This device has charged 2 fit(s) of your private adapter.",
            },
        }

    def receipts(self) -> list[dict[str, Any]]:
        return self._messages()

    def receipt(self, id: int) -> dict[str, Any]:
        values = np.arange(384, dtype="<f4") * np.float32(id)
        tensor = {
            "name": "shared.safety.weight",
            "dtype": "float32",
            "shape": [384],
            "bytes": values.tobytes(),
        }
        found = next(m for m in self._messages() if m["id"] == id)
        return found | {"tensors": [] if id == 1 else [tensor | {"values": values}]}

    def consent(self) -> dict[str, Any]:
        return {
            "offer": {
                "study": "kind-answers",
                "version": 2,
                "digest": DIGEST,
                "purpose": "We want to learn which answers people find kind, and which ones are harmful.",
                "contact": "study@example.org",
                "shares": "comparisons about harm, as clipped changes to a common adapter",
                "opens": TIME,
                "closes": "2027-02-28T09:30:00+00:00",
                "software": "0.1.0",
                "signer": "3f:91:0c:77:aa:14",
            },
            "accepted": self.accepted,
            "withdrawn": self.withdrawn,
            "changed": self.accepted is not None and self.accepted["digest"] != DIGEST,
            "trust": "central",
            "epsilon": 4.0,
            "delta": 1e-5,
            "meaningful": True,
            "clip": 0.5,
            "noise_multiplier": 1.31,
            "most": 5,
            "separation": 4,
            "size": 384,
            "leaves": [{"name": "shared.safety.weight", "shape": [384], "dtype": "float32"}],
            "words": [
                "The operator sees your single messages without noise, and could reconstruct parts of your "
                "safety feedback from one of them.",
                "At most five messages leave.",
                "What was sent before cannot be called back.",
            ],
            "claim": ["Shared adapter (40 people): epsilon = 4 at delta = 1e-05."],
            "charter": RULES if self.kind == "policy" else None,
            "fits": None,
        }

    def accept(self, offer_digest: str, epsilon_cap: float) -> dict[str, Any]:
        if offer_digest != DIGEST:
            raise TrustError("the digest is not that of the offer")
        self.accepted = {"digest": DIGEST, "version": 2, "time": TIME, "epsilon_cap": epsilon_cap}
        self.withdrawn = None
        self._note("accept", cap=epsilon_cap)
        return self.consent()

    def withdraw(self) -> dict[str, Any]:
        self._note("withdraw")
        self.accepted, self.withdrawn = None, TIME
        return self.consent()

    def private_cap(self, epsilon: float) -> dict[str, Any]:
        self._note("private_cap", epsilon=epsilon)
        self.private_most = epsilon
        found: dict[str, Any] = self.ledger()["private"]
        return found

    def passphrase(self, old: str, new: str) -> dict[str, Any]:
        if old != "the old one":
            raise InputError("the passphrase is wrong", hint="try again")
        self._note("passphrase")
        return {"ways": ["passphrase"]}

    def pause(self) -> dict[str, Any]:
        self.paused = True
        return self.status()

    def resume(self) -> dict[str, Any]:
        self.paused = False
        return self.status()

    def adapters(self) -> list[dict[str, Any]]:
        return self.versions[::-1]

    def rollback(self, version: int) -> dict[str, Any]:
        self.versions = [v | {"current": v["version"] == version} for v in self.versions]
        self._note("rollback", version=version)
        return self.status()

    def reset(self) -> dict[str, Any]:
        self.learning = 0
        self._note("reset")
        return self.status()

    def export(self, path: Path) -> dict[str, Any]:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("README.txt", "What this is.\n")
            file.writestr("comparisons.jsonl", "".join(json.dumps(item) + "\n" for item in self.said))
        return {"path": str(path), "bytes": path.stat().st_size}

    def erase(self) -> dict[str, Any]:
        self.erased = True
        self._note("erase")
        return {"erased": True}

    def _messages(self) -> list[dict[str, Any]]:
        count = {"used": 3, "few": 3, "spent": 5, "plain": 1}.get(self.state, 0)
        return [
            {
                "id": i,
                "time": TIME,
                "round": i,
                "release": i,
                "bytes": 1536,
                "names": ["shared.safety.weight"],
                "digest": f"{i:02x}" * 32,
                "epsilon": 0.62 * i,
            }
            for i in range(count, 0, -1)
        ]

    def _version(self, version: int, reason: str, current: bool) -> dict[str, Any]:
        about = {"version": version, "time": TIME, "reason": reason, "steps": 20 * version}
        return about | {"taste": 6 * version, "release": version, "current": current}

    def _keep(self, prompt: str, a: str, b: str, tag: str, verdict: str, why: str) -> int:
        item = {"id": len(self.said) + 1, "time": TIME, "prompt": prompt, "chosen": a, "rejected": b}
        self.said.append(item | {"tag": tag, "verdict": verdict, "why": why})
        self._note("said", **self.said[-1])
        return len(self.said)

    def _note(self, what: str, **values: Any) -> None:
        with (self.folder / "said.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"what": what} | values) + "\n")


def main() -> None:
    """Serve the page over a vault in memory."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--kind", default="policy")
    parser.add_argument("--state", default="fresh")
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()

    from commonground.client.page.desk import Desk
    from commonground.web.serving import Place, serve

    owner = ToyOwner(given.folder, given.kind, given.state)
    desk = Desk(lambda: owner, given.folder)

    def build() -> None:
        from commonground.client.page.pages import build

        build(desk)

    serve(Place(given.folder, given.port, where="Ask for one."), "commonground", build)


if __name__ == "__main__":
    main()
