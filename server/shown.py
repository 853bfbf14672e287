"""Rows of a study's tables as the plain values that pages and commands show."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from commonground.server.tables import Enrolled, Invited, Released, Round


def invitation_state(row: Invited, at: datetime | None = None) -> str:
    """Of one invitation: open | used | expired | withdrawn."""
    if row.withdrawn is not None:
        return "withdrawn"
    if row.used is not None:
        return "used"
    return "expired" if datetime.fromisoformat(row.expires) <= (at or datetime.now(UTC)) else "open"


def people_of(session: Session, places: int) -> dict[str, int]:
    """How many places, people enrolled, online and revoked, and open invitations."""
    rows = list(session.scalars(select(Enrolled)))
    here = [row for row in rows if row.revoked is None]
    return {
        "places": places,
        "enrolled": len(here),
        "online": sum(row.online for row in here),
        "revoked": len(rows) - len(here),
        "invited": sum(invitation_state(row) == "open" for row in session.scalars(select(Invited))),
    }


def rounds_of(session: Session, total: int) -> dict[str, Any]:
    """How far the rounds are, and each of them, the newest first."""
    rows = list(session.scalars(select(Round).order_by(Round.round.desc())))
    names = ("round", "began", "ended", "asked", "replies", "refused", "errors", "seconds", "void", "gate")
    ended = [row for row in rows if row.ended is not None]
    return {
        "done": max((row.round for row in ended), default=0),
        "of": total,
        "void": sum(row.void for row in ended),
        "under_way": next((row.round for row in rows if row.ended is None), None),
        "list": [values_of(row, *names) for row in rows],
    }


def releases_of(session: Session) -> list[dict[str, Any]]:
    """Every version of the shared adapter, the newest first."""
    newest = session.scalar(select(func.max(Released.version)))
    rows = session.scalars(select(Released).order_by(Released.version.desc()))
    names = ("version", "round", "tensors", "made", "of", "safety")
    return [values_of(row, *names) | {"current": row.version == newest} for row in rows]


def every(session: Session, table: type[Any]) -> list[Any]:
    """All rows of a table in the order of its key."""
    return list(session.scalars(select(table).order_by(*table.__table__.primary_key.columns)))


def values_of(row: object, *names: str) -> dict[str, Any]:
    """Some columns of a row."""
    return {name: getattr(row, name) for name in names}


def finite(value: float) -> float | str:
    """The number, or "inf" where it is infinite, which JSON has no number for."""
    return value if math.isfinite(value) else "inf"
