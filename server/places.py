"""What was refused of each place, and who is not asked any more for it.

A place is what enrolment gave and what `server revoke` takes away. Everything refused that an enrolled node's
key vouches for is counted under its place, on disk, whichever process refused it. After as many refusals as
the operator's setting says the place is quarantined: it is asked for nothing until the operator pardons it.
An honest device sends what passes, or says with a constant that it sends nothing; it is counted here where it
was cut off in the middle of a message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from commonground.errors import InputError
from commonground.server.audit import Audit
from commonground.server.tables import Enrolled, PlaceRefusal, Refusal, now

if TYPE_CHECKING:
    from commonground.server.state import Study


def refuse(study: Study, reason: str, *, slot: int | None = None, count: int = 1) -> None:
    """Count something that was refused, and quarantine its place where that was once too often.

    Args:
        study: its folder.
        reason: a constant of the program, never what was sent.
        slot: whose it was; None where nobody's key vouches for it.
        count: how often.
    """
    with study.database.writing() as session:
        _count(session, Refusal, {"reason": reason}, count)
        place = None if slot is None else session.get(Enrolled, slot)
        if place is not None:
            _count(session, PlaceRefusal, {"slot": place.slot, "reason": reason}, count)
            place.strikes += count
            most = int(study.settings.quarantine)
            if most and place.strikes >= most and place.quarantined is None and place.revoked is None:
                place.quarantined = now()
                Audit(study.folder, study.key).add(
                    "quarantined", slot=place.slot, name=place.name, refused=place.strikes, reason=reason
                )


def refuse_node(study: Study, reason: str, node: int, count: int = 1) -> None:
    """`refuse` for the place of a Flower node."""
    with study.database.reading() as session:
        slot = session.scalar(select(Enrolled.slot).where(Enrolled.node == str(node)))
    refuse(study, reason, slot=slot, count=count)


def pardon(study: Study, name: str) -> str:
    """Ask a quarantined place again, and count its refusals anew.

    Args:
        study: its folder.
        name: whose.

    Returns:
        What was done, in words.

    Raises:
        InputError: nobody of that name is enrolled, or their place is not in quarantine.
    """
    with study.database.writing() as session:
        place = session.scalar(select(Enrolled).where(Enrolled.name == name))
        if place is None:
            raise InputError(f"nobody called {name!r} is enrolled", hint="see commonground server status")
        if place.revoked is not None:
            raise InputError(f"{name!r} is revoked, which is for good", hint="invite them under another name")
        if place.quarantined is None and not place.strikes:
            raise InputError(f"{name!r} is not in quarantine, and nothing of theirs was refused")
        was, place.quarantined, place.strikes = place.quarantined, None, 0
        Audit(study.folder, study.key).add("pardoned", slot=place.slot, name=name)
    return "is asked again from the next round on" if was else "has a clean count"


def places_refused(session: Session) -> list[dict[str, Any]]:
    """One entry a place of which something was refused: slot, name, state, and reason -> count and last."""
    found = []
    for place in session.scalars(select(Enrolled).order_by(Enrolled.slot)):
        rows = session.scalars(select(PlaceRefusal).where(PlaceRefusal.slot == place.slot))
        reasons = {row.reason: {"count": row.count, "last": row.last} for row in rows}
        if reasons:
            found.append(
                {
                    "slot": place.slot,
                    "name": place.name,
                    "refused": sum(int(str(one["count"])) for one in reasons.values()),
                    "since_pardon": place.strikes,
                    "quarantined": place.quarantined,
                    "revoked": place.revoked,
                    "reasons": reasons,
                }
            )
    return found


def _count(session: Session, table: type[Any], key: dict[str, Any], count: int) -> None:
    found = session.get(table, tuple(key.values()))
    if found is None:
        found = table(**key, count=0, last=now())
        session.add(found)
    found.count += count
    found.last = now()
