"""`commonground server ...`: what an operator types."""

from __future__ import annotations

import logging
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from commonground import hub
from commonground.console import Format, Output, run_command
from commonground.errors import CommonGroundError, InputError
from commonground.server.commands_kept import Folder, audit_app, release_app, table
from commonground.terminal import log_to_stderr

server_app = typer.Typer(
    help="Run a study with real devices.\n\nExample: `commonground server up studies/first`",
    no_args_is_help=True,
)
server_app.add_typer(release_app, name="release")
server_app.add_typer(audit_app, name="audit")

STARTS = 300.0  # seconds for a detached server to be up, on a machine that does other things


@server_app.command()
def init(
    folder: Folder,
    name: Annotated[str, typer.Option("--name", help="The study's name: a to z, 0 to 9, hyphens.")],
    address: Annotated[str, typer.Option("--address", help="HOST:PORT that devices reach.")],
    closes: Annotated[str, typer.Option("--closes", help="When the study ends, ISO 8601.")],
    purpose: Annotated[str, typer.Option("--purpose", help="What it is for; participants read it first.")],
    contact: Annotated[str, typer.Option("--contact", help="Whom participants ask.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Dotted overrides.", show_default=False),
    ] = None,
    trust: Annotated[
        str | None, typer.Option("--trust", help="local | central: who adds the noise. No default.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="A YAML file; overrides win over it.")
    ] = None,
    deadline: Annotated[float, typer.Option("--deadline", help="Seconds that a round waits.")] = 600.0,
    minimum: Annotated[
        int | None, typer.Option("--minimum", help="Updates that a round needs; default half of the cohort.")
    ] = None,
    min_online: Annotated[
        int, typer.Option("--min-online", help="Devices that must be online before a round begins.")
    ] = 1,
    insecure_seed: Annotated[
        int | None, typer.Option("--insecure-seed", help="For tests on 127.0.0.1 alone: a known noise.")
    ] = None,
    charter: Annotated[
        Path | None,
        typer.Option("--charter", help="A signed charter, its files beside it; default: the shipped one."),
    ] = None,
    allow_download: Annotated[
        bool, typer.Option(hub.FLAG, help="A model that a file or a charter names may be fetched.")
    ] = False,
    format: Format = "text",
) -> None:
    """Make a study's folder: keys, certificates, the signed offer.

    Example: `commonground server init studies/first --trust local --name first --address study.example:8443
    --closes 2027-06-30 --purpose "What a safe answer is" --contact me@example.org people=50 rounds=20`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.server.reach import reach_words
        from commonground.server.setup import Wanted, init_study
        from commonground.server.state import Study
        from commonground.study.signing import fingerprint

        if allow_download:
            hub.permit(hub.ANY)
        wanted = Wanted(
            trust, name, address, closes, purpose, contact, config, overrides or (), deadline, minimum,
            min_online, insecure_seed, charter,
        )  # fmt: skip
        init_study(folder, wanted, lambda what, done, total: output.say(f"{what}: {done} of {total}"))
        study = Study(folder)
        digest = study.config.bounds.charter
        output.show(
            study.statement(),
            "",
            reach_words(study.config, study.terms, study.manifest),
            f"signer: {fingerprint(study.signer)}  (participants compare it, over another channel)",
            *([f"charter: {digest[:16]}  (participants accept it with the offer)"] if digest else []),
            f"next: commonground server invite {folder} NAME",
        )
        found = {"folder": str(folder), "signer": study.signer, "offer": study.offer.digest}
        return found | {"charter": digest}

    run_command(format, work)


@server_app.command()
def up(
    folder: Folder,
    detach: Annotated[bool, typer.Option("--detach", help="Run in the background.")] = False,
    bind: Annotated[str, typer.Option("--bind", help="IP address to listen on, if it is another.")] = "",
    deadline: Annotated[float | None, typer.Option("--deadline", help="Seconds that a round waits.")] = None,
    min_online: Annotated[
        int | None, typer.Option("--min-online", help="Devices that must be online before a round begins.")
    ] = None,
    patience: Annotated[
        float | None, typer.Option("--patience", help="Seconds to wait for them; then it begins with fewer.")
    ] = None,
    quarantine: Annotated[
        int | None, typer.Option("--quarantine", help="Refusals after which a place is not asked; 0 = never.")
    ] = None,
    format: Format = "text",
) -> None:
    """Run the study's server until Ctrl-C, or in the background.

    Example: `commonground server up studies/first --detach`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.server import supervisor
        from commonground.server.state import Study

        study = Study(folder)
        study.change(deadline=deadline, min_online=min_online, patience=patience, quarantine=quarantine)
        address = study.settings.address
        study.close()
        if detach:
            pid = _detached(folder, bind)
            output.show(f"{address} is up (process {pid}); logs are in {folder / 'log'}")
            return {"address": address, "pid": pid}
        log_to_stderr("%(asctime)s %(message)s")
        logging.getLogger("httpx").setLevel(logging.WARNING)
        output.say(f"{address}: Ctrl-C stops the server; logs are in {folder / 'log'}")
        supervisor.up(folder, bind)
        return {"address": address}

    run_command(format, work)


@server_app.command()
def down(folder: Folder, format: Format = "text") -> None:
    """Stop the study's server; rounds go on where they were when it is up again.

    Example: `commonground server down studies/first`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.server.state import Study
        from commonground.server.supervisor import down as stop

        stopped = stop(Study(folder).folder)
        output.show("the server is stopped" if stopped else "the server was not running")
        return {"stopped": stopped}

    run_command(format, work)


@server_app.command()
def status(folder: Folder, format: Format = "text") -> None:
    """Say how the study stands: people, rounds, releases, refusals, privacy spent.

    Example: `commonground server status studies/first`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.server.state import Study

        found = Study(folder).overview()
        people, rounds, budget = found["people"], found["rounds"], found["budget"]
        state = "finished" if found["finished"] else "runs" if found["running"] else "is not running"
        output.show(
            f"{found['study']} {state}; trust: {found['trust']}; open until {found['closes']}",
            *([f"the rounds do not go on: {found['trouble']}"] if found["trouble"] else []),
            *([found["waits"]] if found["waits"] and found["running"] and not found["trouble"] else []),
            f"people: {people['enrolled']} of {people['places']} enrolled, {people['online']} online, "
            f"{people['revoked']} revoked, {people['invited']} invited",
            f"rounds: {rounds['done']} of {rounds['of']} done, {rounds['void']} void",
            f"privacy: at most epsilon {_number(budget['spent'])} of {_number(budget['epsilon'])} spent of "
            f"any one person at delta {budget['delta']:g}"
            if budget["meaningful"]
            else "privacy: no epsilon is shown; with so few people the number would promise nothing",
        )
        for title, rows in (("part", found["health"]), ("refused", found["refusals"])):
            if rows:
                output.show(table(title, rows))
        for place in found["places"]:
            output.show(place_words(place, folder))
        return found

    run_command(format, work)


@server_app.command()
def console(
    folder: Folder,
    port: Annotated[int, typer.Option("--port", help="Of https://127.0.0.1; 0 takes a free one.")] = 0,
    format: Format = "text",
) -> None:
    """Show the study in a browser of this machine, until Ctrl-C; its first line is a link that works once.

    Example: `commonground server console studies/first`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.server.console.__main__ import serve_console

        serve_console(folder, port)
        return {}

    run_command(format, work)


@server_app.command()
def invite(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="Whom: how you call them.")],
    out: Annotated[Path | None, typer.Option("--out", help="The file; default NAME.invite.")] = None,
    days: Annotated[float, typer.Option("--days", help="Days until it expires.")] = 7.0,
    format: Format = "text",
) -> None:
    """Write a single-use invitation; hand it over in a way that nobody else can read.

    Example: `commonground server invite studies/first ada --out ada.invite`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.server.enrolment import invite as write
        from commonground.server.state import Study
        from commonground.study.signing import fingerprint

        study = Study(folder)
        file = out or Path(f"{_file_name(name)}.invite")
        expires = write(study, name, file, days)
        output.show(
            f"{file}: for {name}, good for one device until {expires}",
            f"tell them the signer over another channel: {fingerprint(study.signer)}",
        )
        return {"file": str(file), "name": name, "expires": expires}

    run_command(format, work)


@server_app.command()
def revoke(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="Whom.")],
    format: Format = "text",
) -> None:
    """Shut a device out, or withdraw an invitation; what was learned from it stays learned.

    Example: `commonground server revoke studies/first ada`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.server.enrolment import revoke as shut_out
        from commonground.server.state import Study
        from commonground.server.supervisor import inside

        study = Study(folder)
        control = inside(study)
        try:
            done = shut_out(study, name, None if control is None else control.unregister)
        finally:
            if control is not None:
                control.close()
        output.show(f"{name}: {done}")
        return {"name": name, "done": done}

    run_command(format, work)


@server_app.command()
def pardon(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="Whom.")],
    format: Format = "text",
) -> None:
    """Ask a place again that is in quarantine, and count its refusals anew.

    Example: `commonground server pardon studies/first ada`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.server.places import pardon as ask_again
        from commonground.server.state import Study

        done = ask_again(Study(folder), name)
        output.show(f"{name} {done}")
        return {"name": name, "done": done}

    run_command(format, work)


def place_words(place: dict[str, Any], folder: Path) -> str:
    """One line about a place of which something was refused, with what can be done.

    Args:
        place: as `places.places_refused` gives it.
        folder: the study's.
    """
    reasons = ", ".join(f"{reason} ({one['count']})" for reason, one in place["reasons"].items())
    words = f"{place['name']} (place {place['slot'] + 1}): {place['refused']} refused: {reasons}"
    if place["revoked"]:
        return f"{words}; revoked"
    whom = shlex.quote(place["name"])
    if place["quarantined"]:
        return (
            f"{words}; in quarantine since {place['quarantined']}: not asked any more. "
            f"commonground server pardon {folder} {whom}, or server revoke {folder} {whom}"
        )
    return f"{words}; commonground server revoke {folder} {whom} shuts it out"


def _detached(folder: Path, bind: str) -> int:
    """Start the supervisor in the background and wait until its front door is open; its process id."""
    from commonground.child_environment import child_environment
    from commonground.server.state import Study
    from commonground.server.supervisor import ready

    study = Study(folder)
    path = study.log / "server.log"
    start = path.stat().st_size if path.is_file() else 0
    with path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "commonground.server.supervisor", str(study.folder), bind],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=child_environment(),
        )  # fmt: skip
    end = time.monotonic() + STARTS
    while time.monotonic() < end:
        if process.poll() is not None:
            with path.open("rb") as log:
                log.seek(start)
                said = log.read().decode(errors="replace").splitlines()
            lines = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
            hint = next((line.removeprefix("hint: ") for line in said if line.startswith("hint: ")), None)
            raise InputError(lines[0] if lines else f"the server ended at once; see {path}", hint=hint)
        if ready(study.folder, process.pid):
            return process.pid
        time.sleep(0.2)
    process.terminate()
    raise CommonGroundError(f"the server is not up after {STARTS:g} s", hint=f"see {study.log}")


def _file_name(name: str) -> str:
    """A name without what a path cannot hold."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip(".") or "person"


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
