"""How a device stands, in one sentence for people and as plain values: what `device status` shows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import psutil

from commonground.client.parts import EXECUTOR, PAGE, read_json
from commonground.client.profile import Profile
from commonground.client.supervisor import STATE
from commonground.client.tally import read_counts
from commonground.errors import CommonGroundError

LONG = 10  # refusals in a row after which waiting alone will not help
START = "commonground device up"


def standing(
    profile: Profile, now: datetime | None = None, passphrase: Callable[[], str | None] = lambda: None
) -> dict[str, Any]:
    """How the device stands.

    Args:
        profile: the device's.
        now: None takes the clock.
        passphrase: gives that of the store, or None where a keyring has the key; asked only while it runs.

    Returns:
        study, address, profile, running (bool), words (one sentence), parts, link, executor (what is being
        done), vault (`OwnerClient.status()`, or None), page (a link for one browser, or None), refusals (what
        the executor refused, by reason).
    """
    now = now or datetime.now(UTC)
    state = read_json(profile.run / STATE)
    running = supervisor_of(state) is not None
    doing = read_json(profile.run / EXECUTOR) if running else {}
    vault, page = _vault(profile, passphrase) if running else (None, None)
    values: dict[str, Any] = {
        "study": profile.study,
        "address": profile.address,
        "profile": str(profile.folder),
        "running": running,
        "parts": state.get("parts", {}) if running else {},
        "link": state.get("link", "") if running else "",
        "executor": doing,
        "vault": vault,
        "page": page,
        "sandbox": state.get("sandbox", {}) if running else {},
        "refusals": read_counts(profile.log / "refusals.json"),
    }
    return values | {"words": in_words(state if running else {}, doing, vault, now)}


def in_words(
    state: dict[str, Any], doing: dict[str, Any], vault: dict[str, Any] | None, now: datetime
) -> str:
    """One sentence.

    Args:
        state: what the supervisor wrote; empty where none runs.
        doing: what the executor wrote.
        vault: `OwnerClient.status()`; None where the vault does not answer.
        now: the time.
    """
    if not state:
        return f"not running; start it: {START}"
    parts = state.get("parts", {})
    if vault is None and parts.get("vault", {}).get("up"):
        return "running; the vault tells more to whoever gives the passphrase of its store"
    if vault is None:
        return f"the vault is starting{_next(parts.get('vault', {}), now)}"
    down = [name for name, part in parts.items() if not part.get("up")]
    work = {"shared": "training", "private": "learning your taste (nothing leaves), after"}
    if vault["state"] in ("paused", "consent", "closed", "spent"):
        return _still(vault)
    if doing.get("doing") in work:
        return f"{work[doing['doing']]} round {doing.get('round', 0)}"
    link, node = state.get("link"), parts.get("node", {})
    if link == "offline":
        return f"waiting for the server{_retry(state, now)}"
    if link == "refused":
        late = " for long: you may have been revoked; ask the operator" if state["refused"] >= LONG else ""
        return f"the server does not let this device in{late}{_next(node, now)}"
    if "node" in down or link == "starting":
        return f"connecting to the server{_next(node, now)}"
    if down:
        return f"the {down[0]} is starting{_next(parts[down[0]], now)}"
    return "ready: connected, and waiting for the next round"


def supervisor_of(state: dict[str, Any]) -> psutil.Process | None:
    """The process that wrote a state, if it still runs; a pid that another program has now is not it."""
    with suppress(psutil.Error, KeyError, TypeError, ValueError):
        process = psutil.Process(int(state["pid"]))
        if abs(process.create_time() - float(state["created"])) < 1 and process.status() != "zombie":
            return process
    return None


def _still(vault: dict[str, Any]) -> str:
    words = {
        "paused": "paused by you: it stays connected and joins no round; go on: commonground device resume",
        "consent": "waiting for your consent: read the offer on the page, and accept it or leave",
    }
    return words.get(vault["state"], str(vault["words"]))


def _next(part: dict[str, Any], now: datetime) -> str:
    return _in(part.get("next"), now)


def _retry(state: dict[str, Any], now: datetime) -> str:
    return _in(state.get("retry"), now)


def _in(when: str | None, now: datetime) -> str:
    if not when:
        return ""
    seconds = (datetime.fromisoformat(when) - now).total_seconds()
    return f"; next try in {max(1, round(seconds))} s" if seconds > -60 else ""


def _vault(
    profile: Profile, passphrase: Callable[[], str | None]
) -> tuple[dict[str, Any] | None, str | None]:
    """What the vault tells its owner, and the page's link; None for what cannot be had."""
    from commonground.client.keys import unlock_link
    from commonground.client.owner import OwnerClient

    try:
        with OwnerClient(profile.folder, passphrase()) as owner:
            status, token = owner.status(), owner.token
    except CommonGroundError:
        return None, None
    with suppress(OSError, CommonGroundError):
        return status, unlock_link(token, (profile.run / PAGE).read_bytes()) or None
    return status, None
