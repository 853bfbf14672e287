"""The commands `commonground bench ...`.

What does the measuring is imported when a command runs: `--help` answers at once.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from commonground.console import Output

Run = Callable[[str, Callable[[Output], dict[str, Any]]], None]

PAGES = {"scale": "plot", "bounds": "bounds_plot"}  # parts that draw, and who draws for them

Quick = Annotated[bool, typer.Option("--quick", help="A small run, to see that it works.")]
Check = Annotated[bool, typer.Option("--check", help="Exit with 1 when a bar is missed.")]
Out = Annotated[Path | None, typer.Option("--out", help="A folder for bench-NAME.json (and plots).")]
Format = Annotated[str, typer.Option("--format", help="text, or json: one envelope on stdout.")]


def bench_app(run: Run) -> typer.Typer:
    """The sub-app; `run` does a command's work and turns whatever happens into an exit code."""
    app = typer.Typer(
        help="Measure the fleet against the alternatives and against the machine, as ratios taken in one run."
        "\n\nExample: `commonground bench local --quick`",
        no_args_is_help=True,
    )

    def measure(name: str, format: str, check: bool, out: Path | None, **how: Any) -> None:
        missed: list[str] = []

        def work(output: Output) -> dict[str, Any]:
            from commonground.simulations.bench.timing import one_thread
            from commonground.simulations.bench.view import tables

            module = importlib.import_module(f"commonground.simulations.bench.{name}")
            with one_thread():
                found = module.measure(say=output.say, **how)
            missed.extend(found.missed)
            output.show(*getattr(module, "tables", tables)(found))
            data: dict[str, Any] = found.to_dict()
            if out is not None:
                for file in _write(out, name, found, data):
                    output.show(f"written: {file}")
            return data

        run(format, work)
        if check and missed:
            raise typer.Exit(1)

    @app.command()
    def local(quick: Quick = False, check: Check = False, out: Out = None, format: Format = "text") -> None:
        """Client-steps a second: per-pair autograd loop, torch.func vmap, and the fleet's kernel.

        Example: `commonground bench local --quick`
        """
        measure("local", format, check, out, quick=quick)

    @app.command("round")
    def round_(quick: Quick = False, check: Check = False, out: Out = None, format: Format = "text") -> None:
        """A whole round of one job: in this process one by one, on Flower's Ray engine, and as a fleet.

        Example: `commonground bench round --out bench`
        """
        measure("rounds", format, check, out, quick=quick)

    @app.command()
    def scale(
        quick: Quick = False,
        headline: Annotated[
            bool, typer.Option("--headline", help="Also the job of 100,000 people, which takes minutes.")
        ] = False,
        check: Check = False,
        out: Out = None,
        format: Format = "text",
    ) -> None:
        """Time and peak memory of a round as people or the cohort grow.

        Example: `commonground bench scale --headline --out bench`
        """
        measure("scale", format, check, out, quick=quick, headline=headline)

    @app.command()
    def roof(quick: Quick = False, check: Check = False, out: Out = None, format: Format = "text") -> None:
        """What this machine can do, and the fraction of it that the fleet's kernel reaches.

        Example: `commonground bench roof --quick`
        """
        measure("roof", format, check, out, quick=quick)

    @app.command()
    def policy(quick: Quick = False, check: Check = False, out: Out = None, format: Format = "text") -> None:
        """A DPO step of a language model: the full model, and the top layers over a cached trunk.

        Example: `commonground bench policy --quick`
        """
        measure("policy", format, check, out, quick=quick)

    @app.command()
    def devices(quick: Quick = False, check: Check = False, out: Out = None, format: Format = "text") -> None:
        """A real server under 200 light devices for 10 rounds: time, memory, and whether anything failed.

        Example: `commonground bench devices --quick`
        """
        measure("devices", format, check, out, quick=quick)

    @app.command()
    def deployed(
        quick: Quick = False, check: Check = False, out: Out = None, format: Format = "text"
    ) -> None:
        """What a round with real parts costs over the same round in this process.

        Example: `commonground bench deployed --quick`
        """
        measure("deployed", format, check, out, quick=quick)

    @app.command()
    def bounds(quick: Quick = False, check: Check = False, out: Out = None, format: Format = "text") -> None:
        """What each way of bounding personalisation leaves of five tastes, and what it guarantees.

        With --out, answers are kept in the folder as they are written, and the same command goes on.

        Example: `commonground bench bounds --out bench`
        """
        measure("bounds", format, check, out, quick=quick, keep=out)

    @app.command()
    def attacks(
        quick: Quick = False,
        projection: Annotated[
            bool, typer.Option("--projection", help="Also adapters after a projection of their weights.")
        ] = False,
        only: Annotated[
            list[str] | None, typer.Option("--only", help="An attack by name; may be given again.")
        ] = None,
        check: Check = False,
        out: Out = None,
        format: Format = "text",
    ) -> None:
        """Every attack on the device under every defence, and what each defence costs beside it.

        With --out, answers are kept in the folder as they are written, and the same command goes on.

        Example: `commonground bench attacks --out bench`
        """
        more = {"projection": projection, "only": tuple(only or ())}
        measure("attacks", format, check, out, quick=quick, keep=out, **more)

    @app.command("reward-bound")
    def reward_bound(
        quick: Quick = False,
        pairs: Annotated[
            Path | None,
            typer.Option("--pairs", help="A .jsonl(.gz) of safety comparisons; default: hh_harmless."),
        ] = None,
        language_model: Annotated[
            bool, typer.Option("--language-model", help="SmolLM2 reads the replies too (ten minutes once).")
        ] = False,
        check: Check = False,
        out: Out = None,
        format: Format = "text",
    ) -> None:
        """Real safety pairs under a malicious private reward: what each defence leaves, of safety and taste.

        Example: `commonground bench reward-bound --quick`
        """
        measure("reward_bound", format, check, out, quick=quick, pairs=pairs, language_model=language_model)

    return app


def _write(out: Path, name: str, found: Any, data: dict[str, Any]) -> list[Path]:
    from commonground.files import write_atomically
    from commonground.mishaps import storage_errors

    files = [out / f"bench-{found.bench}.json"]
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(files[0], (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode())
        if name in PAGES:
            page = importlib.import_module(f"commonground.simulations.bench.{PAGES[name]}").page
            files.append(out / f"bench-{found.bench}.html")
            write_atomically(files[1], page(found).encode())
    return files
