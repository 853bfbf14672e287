"""`commonground device withdraw`, `passphrase`, `private-cap`, `import`: what is hers to change or bring."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commonground.client.commands import ProfileDir, Yes, _find, _owned, _owner, device_app
from commonground.client.prompts import agreed, changed_passphrase
from commonground.console import Format, Output, run_command
from commonground.errors import InputError, InterruptedRunError

if TYPE_CHECKING:
    from commonground.client.owner import OwnerClient

__all__ = ["device_app"]  # with these commands

WITHDRAWS = (
    "From then on nothing more leaves this device, and nothing more is learned from the study. What was sent "
    "stays sent, and the account of what it cost is kept. The operator sees refusals, as from a device that "
    "is paused, and still lists this one as enrolled. You can accept again on the page."
)


@device_app.command()
def withdraw(profile: ProfileDir = None, yes: Yes = False, format: Format = "text") -> None:
    """Take your consent back: nothing more is sent; what was sent stays sent.

    Example: `commonground device withdraw`
    """

    def run(owner: OwnerClient) -> dict[str, Any]:
        if not yes and not agreed(f"{WITHDRAWS}\nTake your consent back?"):
            raise InterruptedRunError("nothing was changed")
        return owner.withdraw()

    _owned(profile, format, run, "your consent is taken back: nothing more leaves this device")


@device_app.command("private-cap")
def private_cap(
    epsilon: Annotated[str, typer.Argument(help="Above 0; inf is no cap.")],
    profile: ProfileDir = None,
    format: Format = "text",
) -> None:
    """Set the most that all fits of your private adapter may cost one comparison together.

    Example: `commonground device private-cap 24`
    """
    try:
        most = float(epsilon)
    except ValueError:
        most = math.nan
    if not most > 0:
        raise typer.BadParameter(f"{epsilon!r} is no number above 0", param_hint="EPSILON")
    _owned(
        profile,
        format,
        lambda owner: owner.private_cap(most),
        f"fits of your private adapter may cost one comparison up to epsilon {most:g} together",
    )


@device_app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="An export of a device, or a file of comparisons of yours.")],
    profile: ProfileDir = None,
    tag: Annotated[str, typer.Option(help="taste or safety, where the file does not say.")] = "taste",
    person: Annotated[str, typer.Option(help="Who you are in a file that names several people.")] = "",
    columns: Annotated[
        list[str] | None, typer.Option(help="Where ours stands in the file: chosen=better, again for each.")
    ] = None,
    verdicts: Annotated[
        list[str] | None,
        typer.Option(help="What a verdict says: 1=a, again for each; a, b, tie, both bad, skip."),
    ] = None,
    preset: Annotated[str, typer.Option(help="The shape, where it should not be recognised.")] = "",
    yes: Yes = False,
    format: Format = "text",
) -> None:
    """Bring your old votes along: look at them first, then keep them on this device.

    Example: `commonground device import my-data.zip`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.client.brought import in_words, keep, look, new_votes
        from commonground.overrides import read_map

        if tag not in ("taste", "safety"):
            raise InputError(f"--tag is {tag!r}; accepted: taste, safety")
        found = look(
            path,
            tag="safety" if tag == "safety" else "taste",
            person=person,
            columns=read_map("--columns", columns or []),
            verdicts=read_map("--verdicts", verdicts or []),
            preset=preset,
        )
        with _owner(_find(profile)) as owner:
            new = new_votes(owner, found)
            for line in in_words(found, new, owner.status(), owner.ledger()):
                output.say(line)
            if new and not yes and not agreed("Keep these?"):
                raise InterruptedRunError("nothing was kept")
            kept = keep(owner, new, output.say)
        output.show(f"kept: {kept}; already here: {len(found.votes) - len(new)}")
        return {
            "kept": kept,
            "already": len(found.votes) - len(new),
            "left_out": dict(found.left_out),
            "bad_rows": found.bad.to_dict(),
        }

    run_command(format, work)


@device_app.command()
def passphrase(profile: ProfileDir = None, format: Format = "text") -> None:
    """Change the passphrase of this device, or set one beside the keyring.

    Example: `commonground device passphrase`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.client.keys import change_passphrase, ways
        from commonground.client.standing import standing

        found = _find(profile)
        before = ways(found.folder)
        old, new = changed_passphrase("passphrase" in before)
        if old == new:
            raise InputError("the new passphrase is the old one; nothing was changed")
        change_passphrase(found.folder, old, new)
        output.show("the passphrase is changed" if old is not None else "a passphrase is set")
        if standing(found)["running"]:
            output.show("this device was started with the old one: commonground device down, then up")
        return {"profile": str(found.folder), "ways": list(ways(found.folder))}

    run_command(format, work)
