"""The command line: `commonground`.

Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted and resumable.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from commonground import __version__
from commonground.errors import CommonGroundError, InputError, InterruptedRunError, RunFolderError
from commonground.simulations.output import Output, RunProgress

# Nothing phones home, whatever the libraries' own defaults are.
for _name in ("FLWR_TELEMETRY_ENABLED", "RAY_USAGE_STATS_ENABLED"):
    os.environ.setdefault(_name, "0")
for _name in ("FLWR_DISABLE_UPDATE_CHECK", "HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

app = typer.Typer(
    name="commonground",
    help="Federated preference learning: a shared safety floor, and a private part that stays on the device.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Look at and check configurations.", no_args_is_help=True)
data_app = typer.Typer(help="Look at and check data.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(data_app, name="data")

Format = Annotated[str, typer.Option("--format", help="text, or json: one envelope on stdout.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A YAML file; overrides win over it.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted overrides.", show_default=False)
]


def _run(format: str, work: Callable[[Output], dict[str, Any]]) -> None:
    """Do a command's work and turn whatever happens into an exit code."""
    output = Output(format == "json")
    try:
        if format not in ("text", "json"):
            raise InputError(f"--format is {format!r}; accepted: text, json")
        output.done(work(output))
    except CommonGroundError as error:
        output.failed(error)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        output.failed(InterruptedRunError("stopped"))
        raise typer.Exit(InterruptedRunError.exit_code) from error


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
    format: Format = "text",
) -> None:
    """Simulate people who learn together and keep their taste to themselves.

    Example: `commonground simulate people=300 rounds=40 privacy.shared.epsilon=4 --out runs/first`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.report.table import headline_table
        from commonground.settings import load_config
        from commonground.simulations.folder import REPORT, RunFolder
        from commonground.simulations.runner import simulate as run

        if resume is not None:
            if overrides or config is not None or out is not None:
                raise InputError(
                    "--resume takes the run's own configuration; give no --config, --out or overrides"
                )
            folder, settings = resume, RunFolder(resume).config()
        else:
            settings = load_config(config, overrides or ())
            folder = out or Path("runs") / time.strftime("%Y%m%d-%H%M%S")
        with RunProgress(output) as progress:
            result = run(settings, folder, progress)
        output.show(
            headline_table(result), "", result["privacy"]["statement"], "", f"report: {folder / REPORT}"
        )
        return {"folder": str(folder), "report": str(folder / REPORT), "result": result}

    _run(format, work)


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
        from commonground.settings import load_config
        from commonground.simulations.folder import REPORT
        from commonground.simulations.parts import PARTS, part_file
        from commonground.simulations.runner import simulate as run

        parts = []
        for name, title in PARTS.items():
            with part_file(name) as file, RunProgress(output) as progress:
                result = run(load_config(file), out / name, progress)
            parts.append((title, result))
            output.show(title, headline_table(result), "")
        build_page(parts, out / REPORT)
        output.show(*(f"{title}: {result['privacy']['statement']}\n" for title, result in parts))
        output.show(f"report: {out / REPORT}")
        return {"report": str(out / REPORT), "parts": dict(parts)}

    _run(format, work)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of finished runs.")],
    out: Annotated[Path | None, typer.Option("--out", help="The page; default DIR/report.html.")] = None,
    format: Format = "text",
) -> None:
    """Rebuild the page of a run from its `result.json`; several runs make one page.

    Example: `commonground report runs/first`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.report.page import build_page
        from commonground.simulations.folder import REPORT, RESULT, RunFolder

        parts = []
        for folder in folders:
            result = RunFolder(folder).result()
            if result is None:
                raise RunFolderError(f"{folder} holds no finished run: there is no {RESULT}")
            parts.append((folder.name if len(folders) > 1 else "", result))
        page = out or folders[0] / REPORT
        build_page(parts, page)
        output.show(f"report: {page}")
        return {"report": str(page)}

    _run(format, work)


@config_app.command("show")
def config_show(overrides: Overrides = None, config: ConfigFile = None, format: Format = "text") -> None:
    """Print every key with the value a run would use.

    Example: `commonground config show model.kind=policy`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.recipe import resolve
        from commonground.settings import load_config, to_dict, to_yaml

        settings = resolve(load_config(config, overrides or ()))
        output.show(to_yaml(settings).rstrip())
        return {"config": to_dict(settings)}

    _run(format, work)


@config_app.command("check")
def config_check(overrides: Overrides = None, config: ConfigFile = None, format: Format = "text") -> None:
    """Say everything that is wrong with a configuration.

    Example: `commonground config check --config study.yaml`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.settings import load_config

        load_config(config, overrides or ())
        output.show("the configuration is fine")
        return {"faults": []}

    _run(format, work)


@data_app.command("check")
def data_check(
    path: Annotated[Path, typer.Argument(help="A rating folder, a pair file or a data set folder.")],
    format: Format = "text",
) -> None:
    """Read a source and count what is usable and what is not, with line numbers.

    Example: `commonground data check ratings-folder`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.data.check import check_path

        found = check_path(path)
        for key, value in found.items():
            if key != "bad_rows":
                output.show(f"{key}: {value}")
        bad = found.get("bad_rows") or {}
        output.show(f"bad rows: {bad.get('count', 0)}", *(f"  {line}" for line in bad.get("first", ())))
        return found

    _run(format, work)


def main() -> None:
    """The console script."""
    app(prog_name="commonground")


if __name__ == "__main__":
    sys.exit(main())
