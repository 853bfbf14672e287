"""A study's folder with a history: people, rounds, releases, refusals, parts, as a server writes them."""

from __future__ import annotations

from pathlib import Path

from toy_study import make_study

from commonground.server.audit import Audit
from commonground.server.state import Study
from commonground.server.tables import Enrolled, Invited, Part, Refusal, Released, Round, now

TIME = "2026-11-28T09:30:00+00:00"
SECRET = "what nobody may read on the page"


def history(folder: Path) -> Study:
    """Make it; the caller closes the study."""
    study = make_study(folder, ["people=40", "rounds=12", "cohort=10"], enrolled=3)
    with study.database.writing() as session:
        session.get_one(Enrolled, 0).online = True
        session.get_one(Enrolled, 2).revoked = TIME
        session.add(Enrolled(slot=3, name="<script>window.broken = 1</script>", key=SECRET, since=TIME))
        session.add(Invited(name="dora", token=SECRET, made=TIME, expires="2099-01-01T00:00:00+00:00"))
        session.add(Invited(name="emil", token=SECRET + "2", made=TIME, expires=TIME))
        for number in range(1, 6):
            ended = None if number == 5 else TIME
            gate = {"action": "repaired" if number == 4 else "accepted", "loss": 0.4}
            row = Round(round=number, began=TIME, ended=ended, asked=10, replies=10 - number, seconds=31.4)
            row.refused, row.errors, row.void = int(number == 3), 1, number == 2
            row.gate = gate if ended else None
            session.add(row)
            score = {"loss": 0.5 - 0.04 * number, "accuracy": 0.7 + 0.03 * number}
            release = Released(
                version=number, round=number, tensors=f"{number:02x}" * 32, paper="{}", made=TIME
            )
            release.of, release.safety = (2 if number == 4 else None), (None if number == 1 else score)
            session.add(release)
        session.add(Refusal(reason="update does not pass the manifest", count=1204, last=TIME))
        session.add(Part(name="SuperLink", state="up", restarts=0, since=TIME))
        session.add(Part(name="front door", state="up", restarts=2, since=TIME))
        session.add(Part(name="rounds", state="waiting", words="starts again in 8 s", restarts=5, since=TIME))
    audit = Audit(study.folder, study.key)
    audit.add("up")
    audit.add("released", version=5, round=5, tensors="05" * 32, of=None, at=now())
    return study
