"""The participant's page of one profile: `python -m commonground.client.page --profile DIR --port N`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from commonground.client.keys import lock_link
from commonground.client.own_memory import keep_out_debuggers
from commonground.client.owner import OwnerClient
from commonground.client.page.desk import Desk
from commonground.client.sockets import run_folder
from commonground.console import Commands, Format, Output, run_command, stay_quiet
from commonground.errors import InputError

WHERE = "A new link: commonground device status."

app = typer.Typer(cls=Commands, add_completion=False, name="commonground.client.page")


@app.command()
def page(
    profile: Annotated[Path, typer.Option(help="the device's profile folder")],
    port: Annotated[int, typer.Option(help="port on 127.0.0.1; 0 takes a free one")] = 0,
    token_stdin: Annotated[bool, typer.Option(help="read the vault's token, one line")] = False,
    format: Format = "text",
) -> None:
    """Serve the page on 127.0.0.1 until it is stopped; its link is the first line on stdout."""

    def work(output: Output) -> dict[str, str]:
        if not profile.is_dir():
            raise InputError(
                f"{profile} is no profile folder", hint="make one: commonground device join FILE"
            )
        from commonground.web.serving import Place, serve

        run = run_folder(profile)
        desk = Desk(lambda: OwnerClient(profile, token=token), run)

        def build() -> None:
            from commonground.client.page.pages import build

            build(desk)

        lock = (lambda link: link) if token is None else (lambda link: lock_link(token, link))
        serve(Place(run, port, where=WHERE, lock=lock), "commonground", build)
        return {"profile": str(profile)}

    stay_quiet()
    keep_out_debuggers()
    token = sys.stdin.readline().strip() if token_stdin else None
    run_command(format, work)


if __name__ == "__main__":
    app()
