"""The commands `commonground device ...`: what a participant types.

What does the work is imported when a command runs: `--help` answers at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commonground.client.prompts import PASSPHRASE_FILE, agreed, new_passphrase, passphrase_of
from commonground.console import Format, Output, run_command
from commonground.errors import CommonGroundError, InputError, InterruptedRunError
from commonground.hub import FLAG as DOWNLOAD

if TYPE_CHECKING:
    from commonground.client.owner import OwnerClient
    from commonground.client.profile import Profile

END = 120.0  # seconds that `down` waits
LEAVES = (
    "Leaving destroys the key of your data on this device. What was sent before cannot be called back: its "
    "influence on the shared adapter stays, and so does the privacy it cost."
)

device_app = typer.Typer(
    help="Take part in a study with a device of your own."
    "\n\nExample: `commonground device join study.invite`, then `commonground device up`",
    no_args_is_help=True,
)

ProfileDir = Annotated[
    Path | None,
    typer.Option("--profile", help="The device's folder; needed only where there is more than one study."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@device_app.command()
def join(
    file: Annotated[Path, typer.Argument(help="The invitation that the operator gave you.")],
    profile: Annotated[
        Path | None,
        typer.Option("--profile", help="The folder; default: a new one. A profile keeps what it has."),
    ] = None,
    signer: Annotated[
        str | None, typer.Option("--signer", help="The fingerprint that the operator told you, to compare.")
    ] = None,
    accept: Annotated[bool, typer.Option("--accept", help="Accept what is printed, without asking.")] = False,
    epsilon_cap: Annotated[
        float | None, typer.Option("--epsilon-cap", help="The most privacy you spend; default: all of it.")
    ] = None,
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Keep the key behind a passphrase, not in the keyring.")
    ] = False,
    allow_download: Annotated[
        bool, typer.Option(DOWNLOAD, help="Fetch the models that the study names, without asking.")
    ] = False,
    format: Format = "text",
) -> None:
    """Join a study: read what it means, decide, and enrol this device.

    Example: `commonground device join study.invite --signer "1a2b 3c4d ..."`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.client.join import Choices
        from commonground.client.join import join as run
        from commonground.client.profile import FILE, read_profile

        if profile is not None and (profile / FILE).exists():  # it keeps its key, and how that is kept
            words = passphrase_of(read_profile(profile))
        else:
            words = new_passphrase() if passphrase or PASSPHRASE_FILE in os.environ else None

        def fetches(text: list[str]) -> bool:
            for line in text:
                output.say(line)
            return allow_download or (sys.stdin.isatty() and agreed("Is it to be fetched?"))

        choices = Choices(signer, epsilon_cap, words, keyring=words is None, download=fetches)

        def decide(text: list[str], cap: float) -> bool:
            for line in text:
                output.say(f"\n{line}")
            output.say(f"\nYour cap: epsilon = {cap:.4g}. No message leaves that would go over it.\n")
            return accept or agreed("Do you take part under these terms?")

        made = run(file, profile, choices, decide, output.say)
        if made is None:
            raise InterruptedRunError("not accepted: nothing was kept and nothing was sent")
        output.show(f"joined {made.study} as {made.name}: {made.folder}", "next: commonground device up")
        return {"profile": str(made.folder), "study": made.study, "name": made.name, "slot": made.slot}

    run_command(format, work)


@device_app.command()
def up(
    profile: ProfileDir = None,
    page_port: Annotated[int, typer.Option("--page-port", help="The page's port; 0 takes a free one.")] = 0,
    no_page: Annotated[bool, typer.Option("--no-page", help="Without the page.")] = False,
    require_sandbox: Annotated[
        bool, typer.Option("--require-sandbox", help="Do not start where its parts cannot be confined.")
    ] = False,
    insecure_seed: Annotated[
        int | None, typer.Option("--insecure-seed", hidden=True, help="Tests on one machine only.")
    ] = None,
    insecure_person: Annotated[int, typer.Option("--insecure-person", hidden=True)] = 0,
    format: Format = "text",
) -> None:
    """Run the device until Ctrl-C, SIGTERM or `commonground device down`.

    Example: `commonground device up`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.client.confined import possible
        from commonground.client.node import Link
        from commonground.client.own_memory import keep_out_debuggers
        from commonground.client.parts import Port, Sandbox, parts_of
        from commonground.client.supervisor import Supervisor, first_contact, only_device

        keep_out_debuggers()
        found = _find(profile)
        found.check_software()
        vault = () if insecure_seed is None else _insecure(insecure_seed, insecure_person)
        walls = possible()
        if not walls.whole and require_sandbox:
            raise InputError(
                f"node and executor would run {walls.words}",
                hint="use a Linux with Landlock (5.13 or newer), or leave out --require-sandbox",
            )
        if not walls.whole:
            output.say(f"node and executor run {walls.words}; one that is taken over reads what you read")
        with only_device(found), _stopped() as stop:
            _check_page(None if no_page else page_port)
            words = passphrase_of(found)
            first_contact(found, output.say)
            link, port = Link(), Port()
            page = None if no_page else page_port
            sandbox = Sandbox(require_sandbox)
            parts = parts_of(found, link, port, passphrase=words, page=page, vault=vault, sandbox=sandbox)
            supervisor = Supervisor(found, parts, link, port, output.say, sandbox)
            supervisor.run(stop)
        if supervisor.left:
            _remove(found)  # on the page; `leave` does it by itself
            output.say("this device has left the study")
        return {"profile": str(found.folder), "left": supervisor.left}

    run_command(format, work)


@device_app.command()
def down(profile: ProfileDir = None, format: Format = "text") -> None:
    """End the running device.

    Example: `commonground device down`
    """

    def work(output: Output) -> dict[str, Any]:
        found = _find(profile)
        ended = _end(found)
        output.show("the device has ended" if ended else "the device was not running")
        return {"profile": str(found.folder), "ended": ended}

    run_command(format, work)


@device_app.command()
def status(profile: ProfileDir = None, format: Format = "text") -> None:
    """Say how the device stands.

    Example: `commonground device status`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.client.standing import standing

        asked = _find(profile)
        found = standing(asked, passphrase=lambda: passphrase_of(asked))
        vault = found["vault"] or {}
        output.show(f"{found['study']}: {found['words']}")
        if vault:
            counts, sent = vault["comparisons"], vault["sent"]
            kinds = f"{counts['safety']} about harm, {counts['taste']} of taste"
            output.show(f"comparisons: {kinds}; messages sent: {sent}")
            if account := vault["private"].get("account"):
                output.show(_fits(account))
        refused = {**found["refusals"], **vault.get("refusals", {})}
        if refused:
            output.show("refused: " + ", ".join(f"{reason} {count}" for reason, count in refused.items()))
        for name, walls in found["sandbox"].items():
            output.show(f"{name}: {walls}")
        if found["page"]:
            output.show(f"page (the link works once): {found['page']}")
        return found

    run_command(format, work)


@device_app.command()
def pause(profile: ProfileDir = None, format: Format = "text") -> None:
    """Join no round until `resume`: the device stays connected and refuses; nothing leaves.

    Example: `commonground device pause`
    """
    _owned(profile, format, lambda owner: owner.pause(), "paused: nothing leaves until you resume")


@device_app.command()
def resume(profile: ProfileDir = None, format: Format = "text") -> None:
    """Take part again.

    Example: `commonground device resume`
    """
    _owned(profile, format, lambda owner: owner.resume(), "taking part again")


@device_app.command()
def export(
    path: Annotated[Path, typer.Argument(help="The zip file to write; it must not exist.")],
    profile: ProfileDir = None,
    format: Format = "text",
) -> None:
    """Write everything that is yours into a plain zip file with a README.

    Example: `commonground device export my-data.zip`
    """
    _owned(profile, format, lambda owner: owner.export(path), f"written: {path}; it is not encrypted")


@device_app.command()
def reset(profile: ProfileDir = None, yes: Yes = False, format: Format = "text") -> None:
    """Forget what was learned about your taste: answers are the shared ones again; comparisons stay.

    Example: `commonground device reset`
    """

    def run(owner: OwnerClient) -> dict[str, Any]:
        if not yes and not agreed("Forget what this device learned about your taste?"):
            raise InterruptedRunError("nothing was changed")
        return owner.reset()

    _owned(profile, format, run, "the taste adapter is empty: answers are the shared policy's")


@device_app.command()
def leave(profile: ProfileDir = None, yes: Yes = False, format: Format = "text") -> None:
    """Leave the study: destroy the key and the store, and end the device.

    Example: `commonground device leave`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.client.standing import standing
        from commonground.client.takeout import erase

        found = _find(profile)
        contact = found.terms().contact
        output.say(LEAVES)
        if not yes and not agreed("Leave the study?"):
            raise InterruptedRunError("nothing was changed")
        if standing(found, passphrase=lambda: passphrase_of(found))["vault"] is not None:
            with _owner(found) as owner:
                owner.erase()
        _end(found)
        words = erase(found.folder)  # again, where no vault ran: that is no error
        _remove(found)
        output.show(words, f"the operator still lists you as enrolled: tell them ({contact})")
        return {"profile": str(found.folder), "left": True}

    run_command(format, work)


@device_app.command("install-service")
def install_service(
    profile: ProfileDir = None,
    passphrase_file: Annotated[
        Path | None, typer.Option("--passphrase-file", help="For a store behind a passphrase; mode 0600.")
    ] = None,
    into: Annotated[
        Path | None, typer.Option("--into", help="A folder; default: where systemd looks for yours.")
    ] = None,
    format: Format = "text",
) -> None:
    """Write a systemd user unit that keeps the device up.

    Example: `commonground device install-service`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.client.service import install, unit_name

        found = _find(profile)
        file, name = install(found, into, passphrase_file), unit_name(found)
        output.show(
            f"written: {file}",
            f"start it now and at every log-in: systemctl --user enable --now {name}",
            "keep it running while you are logged out: loginctl enable-linger",
        )
        return {"unit": str(file), "name": name}

    run_command(format, work)


def _fits(account: dict[str, Any]) -> str:
    """The account of the private adapter in one line."""
    one = account["unit"]
    if account["mechanism"] == "label":
        epsilon = float(account["epsilon"])
        return f"private adapter: epsilon {epsilon:.4g} for one {one}, however often it is fitted"
    if account["epsilon"] == "inf":
        return f"private adapter: {account['charged']} fit(s) without noise: no epsilon"
    line = (
        f"private adapter: {account['charged']} fit(s), together epsilon "
        f"{float(account['epsilon']):.4g} for one {one} at delta {account['delta']:.2g}, "
        f"cap {float(account['cap']):.4g}"
    )
    return f"{line}; {account['frozen']}" if account["frozen"] else line


def _owned(
    profile: Path | None, format: str, act: Callable[[OwnerClient], dict[str, Any]], words: str
) -> None:
    def work(output: Output) -> dict[str, Any]:
        with _owner(_find(profile)) as owner:
            found = act(owner)
        output.show(words)
        return found

    run_command(format, work)


def _owner(profile: Profile) -> OwnerClient:
    from commonground.client.owner import OwnerClient, locked_token

    locked_token(profile.folder)  # before anybody is asked for a passphrase
    return OwnerClient(profile.folder, passphrase_of(profile))


def _find(folder: Path | None) -> Profile:
    from commonground.client.profile import find_profile

    return find_profile(folder)


def _end(profile: Profile) -> bool:
    """End the supervisor of a profile and wait for it; False where none runs."""
    import psutil

    from commonground.client.parts import read_json
    from commonground.client.standing import supervisor_of
    from commonground.client.supervisor import STATE

    state = read_json(profile.run / STATE)
    process = supervisor_of(state)
    if process is None:
        return False
    try:
        process.terminate()
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied as error:
        raise InputError(f"the device (process {process.pid}) is another user's") from error
    last = time.monotonic() + END
    while supervisor_of(state) is not None:  # one that its own parent has not noted yet has ended as well
        if time.monotonic() > last:
            raise CommonGroundError(
                f"the device (process {process.pid}) does not end",
                hint=f"kill -9 {process.pid}; nothing is lost",
            )
        time.sleep(0.1)
    return True


def _remove(profile: Profile) -> None:
    """What is left of a profile whose store is erased; its log stays for the person to read."""
    from commonground.client.profile import CERTIFICATE, FILE
    from commonground.mishaps import storage_errors
    from commonground.study.public_parts import FILE as PARTS

    with storage_errors(profile.folder):
        for name in ("node.key", "ca.crt", "invitation", PARTS, *CERTIFICATE, FILE):
            (profile.folder / name).unlink(missing_ok=True)


def _insecure(seed: int, person: int) -> tuple[str, ...]:
    return ("--insecure-seed", str(seed), "--insecure-person", str(person))


def _check_page(port: int | None) -> None:
    """Say at once that the page's port is taken."""
    import socket

    if not port:
        return
    with socket.socket() as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise InputError(
                f"--page-port {port} cannot be opened: {getattr(error, 'strerror', None) or error}",
                hint="another program may use it; without --page-port a free one is taken",
            ) from error


@contextmanager
def _stopped() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set: a device that is told to end has done its work (exit code 0)."""
    stop = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
