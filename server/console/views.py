"""The views of the console, each drawn from one overview. Nothing in them is about one person's data."""

from __future__ import annotations

import math

from commonground.server.console.books import Document
from commonground.web import measures, parts
from commonground.web.figures import many, number, tile, when

TONES = {"up": "good", "starting": "warn", "waiting": "warn", "down": "bad"}
STRIP = 60  # rounds or releases in a strip
LIST = 100  # rows of a list
ACTIONS = {"accepted": "accepted", "repaired": "repaired", "rolled_back": "rolled back"}
NO_NUMBER = (
    "No epsilon is shown: with so few people the number would promise nothing. The noise is added all the "
    "same."
)
NO_NOISE = "There is no noise in this study, so epsilon has no limit and nothing is promised to anybody."


def overview(found: Document) -> None:
    """How it goes."""
    people, rounds, budget = found["people"], found["rounds"], found["budget"]
    newest = next((r for r in found["releases"] if r["current"]), None)
    with parts.box("tiles"):
        tile(f"{people['online']} of {people['enrolled']}", "devices online", f"{people['places']} places")
        tile(f"{rounds['done']} of {rounds['of']}", "rounds done", many(rounds["void"], "void round"))
        tile("none" if newest is None else str(newest["version"]), "newest release", _safety(newest))
        tile(
            _spent(budget),
            "privacy spent",
            f"of {number(budget['epsilon'])} in all" if _tells(budget) else "",
        )
    with parts.card("Progress"):
        words = f"{rounds['done']} of {many(rounds['of'], 'round')} done"
        measures.gauge("Rounds done", rounds["done"], rounds["of"], words, role="progressbar")
        _strip(found)
    with parts.card("Health"):
        if not found["health"]:
            parts.nothing("The server has not been started", "commonground server up starts it.")
        for part in found["health"]:
            with parts.box("row apart line"):
                with parts.box("grow", "p"):
                    parts.el("span", "", f"dot {TONES.get(part['state'], '')}", aria_hidden="true")
                    parts.el("span", part["name"], "strong")
                    parts.el(
                        "span", f" {part['state']}" + (f": {part['words']}" if part["words"] else ""), "soft"
                    )
                since = f"since {when(part['since'])}, {many(part['restarts'], 'restart')}"
                parts.el("p", since, "small soft")
    with parts.card("Refusals", note="What was asked of this server, or sent to it, and not taken."):
        if not found["refusals"]:
            parts.nothing("Nothing was refused", "Whoever is refused is counted here, by reason.")
            return
        parts.table(
            "Refusals by reason",
            ("Reason", "Times", "Last"),
            [(r["reason"], f"{r['count']:,}", when(r["last"])) for r in found["refusals"]],
            numbers=(1,),
        )


def people(found: Document) -> None:
    """Who is enrolled, and who was invited."""
    counts = found["people"]
    with parts.card(f"{counts['enrolled']} of {many(counts['places'], 'place')} taken"):
        if not found["enrolled"]:
            parts.nothing("Nobody yet", "commonground server invite makes an invitation for one person.")
        else:
            parts.table(
                "Enrolled devices",
                ("Name", "Place", "Since", "State"),
                [
                    (
                        row["name"],
                        str(row["slot"] + 1),
                        when(row["since"]),
                        _where(row),
                    )
                    for row in found["enrolled"]
                ],
            )
    if found["places"]:
        note = (
            "Refusals that a place's own key vouches for. commonground server revoke shuts it out; "
            "server pardon lifts a quarantine."
        )
        with parts.card(f"{many(len(found['places']), 'place')} with refusals", note=note):
            parts.table(
                "Refusals by place",
                ("Name", "Place", "Refused", "Why", "Last"),
                [
                    (
                        row["name"],
                        str(row["slot"] + 1),
                        f"{one['count']:,}",
                        reason,
                        when(one["last"]),
                    )
                    for row in found["places"]
                    for reason, one in row["reasons"].items()
                ],
                numbers=(2,),
            )
    with parts.card(many(counts["invited"], "open invitation")):
        if not found["invitations"]:
            parts.nothing("No invitation was made", "commonground server invite makes one.")
            return
        parts.table(
            "Invitations",
            ("For", "Made", "Expires", "State"),
            [
                (row["name"], when(row["made"]), when(row["expires"]), row["state"])
                for row in found["invitations"]
            ],
        )


def rounds(found: Document) -> None:
    """Every round, the newest first."""
    listed = found["rounds"]["list"]
    with parts.card(f"{found['rounds']['done']} of {many(found['rounds']['of'], 'round')} done"):
        if not listed:
            parts.nothing("No round yet", "The first begins once enough devices are online.")
            return
        _strip(found)
        parts.table(
            "Rounds",
            ("Round", "Began", "Updates", "Errors", "Refused", "Seconds", "Outcome"),
            [
                (
                    str(row["round"]),
                    when(row["began"]),
                    f"{row['replies']} of {row['asked']}",
                    str(row["errors"]),
                    str(row["refused"]),
                    f"{row['seconds']:.0f}" if row["ended"] else "",
                    _outcome(row),
                )
                for row in listed[:LIST]
            ],
            numbers=(2, 3, 4, 5),
        )


def releases(found: Document) -> None:
    """Every version of the shared adapter, with its score on public pairs."""
    listed = found["releases"]
    note = (
        "Scores are on public pairs about harm that no participant wrote: the share that a version orders "
        "rightly, and its loss."
    )
    with parts.card(many(len(listed), "release"), note=note):
        if not listed:
            parts.nothing("No release yet", "The first round makes the first one.")
            return
        scored = [row for row in listed if row["safety"]][:STRIP][::-1]
        if len(scored) > 1:
            values = [float(row["safety"]["accuracy"]) for row in scored]
            measures.strip(
                values, f"Public safety score of {many(len(values), 'release')}, the newest at the right"
            )
        parts.table(
            "Releases",
            ("Version", "Round", "Made", "Right on public pairs", "Loss", "Tensors", "State"),
            [
                (
                    str(row["version"]),
                    str(row["round"]),
                    when(row["made"]),
                    f"{100 * row['safety']['accuracy']:.1f} %" if row["safety"] else "not scored",
                    f"{row['safety']['loss']:.4f}" if row["safety"] else "",
                    row["tensors"][:12],
                    _version(row),
                )
                for row in listed[:LIST]
            ],
            numbers=(3, 4),
        )


def privacy(found: Document) -> None:
    """The statement, and what is left."""
    budget = found["budget"]
    with parts.card("Budget of the whole study"):
        if not budget["meaningful"]:
            parts.notice(NO_NUMBER)
        elif not _tells(budget):
            parts.notice(NO_NOISE, "bad")
        else:
            spent, all_ = float(budget["spent"]), float(budget["epsilon"])
            with parts.box("row apart"):
                parts.el("p", f"ε = {number(spent)} spent", "big")
                parts.el("p", f"of {number(all_)}, at δ = {number(budget['delta'], 2)}", "soft")
            words = f"epsilon {number(spent)} of {number(all_)} spent, {number(budget['left'])} left"
            measures.gauge("Privacy spent", spent, all_, words)
        who = (
            "each device, before it sends"
            if budget["trust"] == "local"
            else "this server, to the sum of a round"
        )
        parts.pairs(
            [
                ("Who adds the noise", who),
                ("Messages of one person", f"at most {budget['most']}, {budget['separation']} rounds apart"),
                ("Charged", "void rounds too"),
            ]
        )
    with parts.card("Statement"), parts.box("statement"):
        parts.statement(found["statement"].splitlines())
    with parts.card("Study"):
        parts.pairs(
            [
                ("Purpose", found["purpose"] or "none given"),
                ("Contact", found["contact"] or "none given"),
                ("Version of the offer", str(found["version"])),
                ("Open", f"{when(found['opens'])} to {when(found['closes'])}"),
                ("Front door", found["address"]),
                ("Signing key", found["signer"]),
            ]
        )


def _strip(found: Document) -> None:
    listed = [row for row in found["rounds"]["list"] if row["ended"]][:STRIP][::-1]
    if listed:
        values = [row["replies"] / row["asked"] if row["asked"] else 0.0 for row in listed]
        bad = [bool(row["void"]) for row in listed]
        words = f"Share of asked devices that sent an update in the last {many(len(listed), 'round')}"
        measures.strip(values, words, bad)


def _where(row: Document) -> str:
    if row["revoked"]:
        return f"revoked {when(row['revoked'])}"
    if row["quarantined"]:
        return f"in quarantine since {when(row['quarantined'])}, not asked"
    return "online" if row["online"] else "offline"


def _outcome(row: Document) -> str:
    if not row["ended"]:
        return "under way"
    if row["void"]:
        return "void, charged"
    gate = row["gate"] or {}
    return ACTIONS.get(str(gate.get("action")), "done")


def _version(row: Document) -> str:
    words = ["current"] if row["current"] else []
    if row["of"] is not None:
        words.append(f"version {row['of']} again")
    return ", ".join(words)


def _safety(release: Document | None) -> str:
    if release is None or not release["safety"]:
        return ""
    return f"{100 * release['safety']['accuracy']:.1f} % right on public pairs"


def _tells(budget: Document) -> bool:
    """Whether a number says something."""
    return bool(budget["meaningful"]) and math.isfinite(float(budget["epsilon"]))


def _spent(budget: Document) -> str:
    if not budget["meaningful"]:
        return "no number"
    return f"ε = {number(budget['spent'])}" if _tells(budget) else "no limit"
