"""The command line: `commonground`.

Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted and resumable.
"""

from __future__ import annotations

import itertools
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from commonground import __version__, hub
from commonground.client.commands_own import device_app
from commonground.console import Commands, Format, Output, run_command, stay_quiet
from commonground.errors import InputError, RunFolderError
from commonground.own_code import FLAG
from commonground.server.commands import server_app
from commonground.simulations.bench.commands import bench_app
from commonground.simulations.certify.charter_commands import charter_app
from commonground.simulations.output import RunProgress

stay_quiet()

app = typer.Typer(
    name="commonground",
    cls=Commands,
    help="Federated preference learning: a shared safety floor, and a private part that stays on the device."
    "\n\nExample: `commonground simulate people=300 rounds=40 --out runs/first`",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(
    help="Look at and check configurations.\n\nExample: `commonground config show people=300`",
    no_args_is_help=True,
)
data_app = typer.Typer(
    help="Look at and check data.\n\nExample: `commonground data check ratings-folder`", no_args_is_help=True
)
app.add_typer(config_app, name="config")
app.add_typer(data_app, name="data")


def _permit(wanted: bool) -> bool:
    if wanted:
        hub.permit(hub.ANY)
    return wanted


ConfigFile = Annotated[Path | None, typer.Option("--config", help="A YAML file; overrides win over it.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted overrides.", show_default=False)
]

AllowDownload = Annotated[
    bool,
    typer.Option(
        hub.FLAG,
        callback=_permit,
        help="Models and data sets that a file names may be fetched from the Hugging Face hub.",
    ),
]
AllowCode = Annotated[
    bool,
    typer.Option(FLAG, help="Names of code (module:Class) in the file may be imported, which runs it."),
]

app.add_typer(bench_app(run_command), name="bench")
app.add_typer(charter_app, name="charter")
app.add_typer(device_app, name="device")
app.add_typer(server_app, name="server")


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def simulate(
    overrides: Overrides = None,
    config: ConfigFile = None,
    out: Annotated[Path | None, typer.Option("--out", help="The run's folder; default runs/TIME.")] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Go on with the run in this folder.")
    ] = None,
    allow_code: AllowCode = False,
    allow_download: AllowDownload = False,
    format: Format = "text",
) -> None:
    """Simulate people who learn together and keep their taste to themselves.

    Example: `commonground simulate people=300 rounds=40 privacy.shared.epsilon=4 --out runs/first`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.simulations.folder import REPORT, RunFolder
        from commonground.simulations.settings import read_settings

        if resume is not None:
            if overrides or config is not None or out is not None:
                raise InputError(
                    "--resume takes the run's own configuration; give no --config, --out or overrides"
                )
            folder, settings = resume, RunFolder(resume).config(allow_code=allow_code)
        else:
            settings = read_settings(config, overrides or (), allow_code=allow_code)
            folder = out or _new_folder()
        # After the settings: a typo is answered before the heavy libraries are loaded.
        from commonground.report.table import headline_table
        from commonground.simulations.runner import simulate as run

        with RunProgress(output) as progress:
            result = run(settings, folder, progress)
        output.show(
            headline_table(result), "", result["privacy"]["statement"], "", f"report: {folder / REPORT}"
        )
        return {"folder": str(folder), "report": str(folder / REPORT), "result": result}

    run_command(format, work)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="The folder of both parts.")] = Path("runs/demo"),
    format: Format = "text",
) -> None:
    """The main job in two parts, reward and policy, in one report.

    Example: `commonground demo --out runs/demo`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.report.page import build_page
        from commonground.report.table import headline_table
        from commonground.simulations.folder import REPORT
        from commonground.simulations.parts import PARTS, run_parts

        results = run_parts(out)
        parts = [(title, results[name]) for name, title in PARTS.items()]
        for title, result in parts:
            output.show(title, headline_table(result), "")
        build_page(parts, out / REPORT)
        output.show(*(f"{title}: {result['privacy']['statement']}\n" for title, result in parts))
        output.show(f"report: {out / REPORT}")
        return {"report": str(out / REPORT), "parts": dict(parts)}

    run_command(format, work)


@app.command()
def compare(
    overrides: Overrides = None,
    config: ConfigFile = None,
    out: Annotated[Path | None, typer.Option("--out", help="Its folder; default runs/compare-TIME.")] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Go on with the tournament in this folder.")
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", help="Processes; default one a CPU.")] = None,
    allow_code: AllowCode = False,
    allow_download: AllowDownload = False,
    format: Format = "text",
) -> None:
    """Compare strategies on the same people and cohorts: which differences are real, and who pays.

    Example: `commonground compare strategies=[fedavg,fedadam] seeds=3 people=200 --out runs/tournament`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.simulations.compare.command import run_compare

        return run_compare(output, overrides or (), config, out, resume, workers, allow_code)

    run_command(format, work)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of finished runs.")],
    out: Annotated[Path | None, typer.Option("--out", help="The page; default DIR/report.html.")] = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Only what an epsilon covers: result.public.json, public.html.")
    ] = False,
    format: Format = "text",
) -> None:
    """Rebuild the page of a run from its `result.json`; several runs make one page.

    The page is not for publishing: it shows what only a simulation can see. `--publish` makes one that is.

    Example: `commonground report runs/first`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.report.page import build_page
        from commonground.report.public import write_public
        from commonground.simulations.folder import REPORT, RESULT, RunFolder

        parts = []
        for folder in folders:
            result = RunFolder(folder).result()
            if result is None:
                raise RunFolderError(f"{folder} holds no finished run: there is no {RESULT}")
            parts.append((folder.name if len(folders) > 1 else "", result))
        if publish and len(parts) > 1:
            raise InputError(
                f"--publish takes one run, not {len(parts)}: runs on the same people cost all their epsilons "
                "together, and noise of one seed cancels between them"
            )
        page = out or folders[0] / REPORT
        try:
            if publish:
                file, page = write_public(parts[0][1], folders[0], out)
                output.show(f"data: {file}", f"page: {page}")
                return {"result": str(file), "report": str(page)}
            build_page(parts, page)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            names = ", ".join(str(folder / RESULT) for folder in folders)
            raise RunFolderError(f"{names}: no whole result: {type(error).__name__}: {error}") from error
        output.show(f"report: {page}")
        return {"report": str(page)}

    run_command(format, work)


@app.command()
def certify(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A finished policy run, or a device's profile while it is up."),
    ],
    charter: Annotated[
        Path | None, typer.Option("--charter", help="A signed charter; default: the shipped one.")
    ] = None,
    signer: Annotated[
        str | None, typer.Option("--signer", help="Whose signature the charter must have: its fingerprint.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", help="Signs the certificate; default: the run's own, made here.")
    ] = None,
    probes: Annotated[int, typer.Option("--probes", help="How many are dealt over the people.")] = 300,
    tokens: Annotated[int, typer.Option("--tokens", help="Of an answer, at most.")] = 24,
    judge: Annotated[
        str, typer.Option("--judge", help="states, or a Hugging Face classifier by name or folder.")
    ] = "states",
    full: Annotated[
        bool, typer.Option("--full", help="Also attacks, and everybody is asked every probe.")
    ] = False,
    allow_code: AllowCode = False,
    allow_download: AllowDownload = False,
    format: Format = "text",
) -> None:
    """State how likely a personalised answer of a run is to break a charter, and how sure that is.

    Example: `commonground certify runs/first --charter charter.signed.json`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.simulations.certify.command import run_certify
        from commonground.simulations.certify.content import Asked

        return run_certify(output, run, Asked(charter, signer, key, probes, tokens, judge, full, allow_code))

    run_command(format, work)


@config_app.command("show")
def config_show(
    overrides: Overrides = None,
    config: ConfigFile = None,
    allow_code: AllowCode = False,
    format: Format = "text",
) -> None:
    """Print every key with the value a run would use.

    Example: `commonground config show model.kind=policy`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.recipe import resolve
        from commonground.settings import to_dict, to_yaml
        from commonground.simulations.settings import read_settings

        settings = resolve(read_settings(config, overrides or (), allow_code=allow_code))
        output.show(to_yaml(settings).rstrip())
        return {"config": to_dict(settings)}

    run_command(format, work)


@config_app.command("check")
def config_check(
    overrides: Overrides = None,
    config: ConfigFile = None,
    allow_code: AllowCode = False,
    format: Format = "text",
) -> None:
    """Say everything that is wrong with a configuration.

    Example: `commonground config check --config study.yaml`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.simulations.settings import read_settings

        read_settings(config, overrides or (), allow_code=allow_code)
        output.show("the configuration is fine")
        return {"faults": []}

    run_command(format, work)


@data_app.command("check")
def data_check(
    path: Annotated[Path, typer.Argument(help="A file or folder of comparisons or ratings.")],
    columns: Annotated[
        list[str] | None,
        typer.Option(help="Where ours stands: person=user_id, again for each; or {person: user_id}."),
    ] = None,
    verdicts: Annotated[
        list[str] | None,
        typer.Option(help="What a verdict says: 1=a, again for each; a, b, tie, both bad, skip."),
    ] = None,
    preset: Annotated[str, typer.Option(help="The shape, where it should not be recognised.")] = "",
    min_gap: Annotated[float | None, typer.Option(help="Ratings: least difference of a comparison.")] = None,
    missing: Annotated[
        list[float] | None, typer.Option(help="Ratings: a number that means that there is none.")
    ] = None,
    format: Format = "text",
) -> None:
    """Read a source as a run would: what is used, what is not, what remains, and the line to run it with.

    Example: `commonground data check battles.jsonl --columns person=voter`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.data.check import Given, check_path
        from commonground.data.check_words import check_lines
        from commonground.overrides import read_map

        found = check_path(
            path,
            Given(
                read_map("--columns", columns or []),
                read_map("--verdicts", verdicts or []),
                preset,
                min_gap,
                tuple(missing or ()),
            ),
        )
        output.show(*check_lines(found))
        return found

    run_command(format, work)


def _new_folder() -> Path:
    """runs/TIME, with a number where two runs begin in the same second."""
    name = time.strftime("%Y%m%d-%H%M%S")
    tries = (Path("runs") / (name if k == 1 else f"{name}-{k}") for k in itertools.count(1))
    return next(folder for folder in tries if not folder.exists())


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):  # names that are no text must not end a command
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    app(prog_name="commonground")


if __name__ == "__main__":
    main()
