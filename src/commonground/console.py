"""What every command line of the house shares: the envelope, exit codes, and one clear line for a mistake.

Prose and progress go to stderr, results to stdout, or one JSON envelope (docs/exit-codes.md). Exit codes:
0 done, 1 failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any

import click
import typer
from rich.console import Console
from typer.core import TyperGroup

from commonground.errors import CommonGroundError, ConfigError, InputError, InterruptedRunError
from commonground.mishaps import storage_errors, terminated_as_interrupted
from commonground.terminal import Table, escaped, escaped_json

SCHEMA_VERSION = "1"
# Nothing phones home, and nothing is installed at run time, whatever the libraries' own defaults are.
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_VERBOSITY": "error",  # its retries are no news; their end is an error of ours
}

Format = Annotated[str, typer.Option("--format", help="text, or json: one envelope on stdout.")]


def stay_quiet() -> None:
    """Set `QUIET` for this process and its children, but for what the user has set.

    And ask no proxy for what is on this machine: an operator's or a participant's parts talk over loopback.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [host for host in known.split(",") if host.strip()]
    direct = ",".join([*hosts, *(host for host in ("127.0.0.1", "localhost") if host not in hosts)])
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "*" if "*" in hosts else direct


class Output:
    """Where a command's words go.

    Args:
        as_json: print one envelope to stdout instead of tables.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.out = Console(emoji=False)
        self.err = Console(stderr=True, highlight=False, emoji=False)

    def say(self, text: str) -> None:
        """A line of prose, to stderr."""
        self.err.print(escaped(text), markup=False, soft_wrap=True)

    def show(self, *things: str | Table) -> None:
        """A result for people; left out when the envelope is asked for."""
        if not self.as_json:
            for thing in things:
                shown = escaped(thing) if isinstance(thing, str) else thing
                self.out.print(shown, markup=False, soft_wrap=isinstance(thing, str))

    def done(self, data: dict[str, Any]) -> None:
        """The envelope of a command that worked."""
        if self.as_json:
            self._envelope({"status": "ok", "data": data})

    def failed(self, error: CommonGroundError) -> None:
        """One clear line (all of them for a configuration), and what to do next."""
        with suppress(OSError):  # where nothing can be written, the exit code still says it
            self._failed(error)

    def _failed(self, error: CommonGroundError) -> None:
        if self.as_json:
            fields: dict[str, Any] = {
                "error_code": error.error_code,
                "message": error.message,
                "hint": error.hint,
            }
            if isinstance(error, ConfigError):
                fields["faults"] = list(error.faults)
            self._envelope({"status": "error"} | fields)
        if isinstance(error, InterruptedRunError):
            self.say(error.message if error.hint is None else f"{error.message}; {error.hint}")
            return
        for line in error.message.splitlines():
            self.say(f"error: {line}")
        if error.hint:
            self.say(f"hint: {error.hint}")

    def _envelope(self, fields: dict[str, Any]) -> None:
        sys.stdout.write(escaped_json({"schema_version": SCHEMA_VERSION} | fields) + "\n")
        sys.stdout.flush()


class Commands(TyperGroup):
    """The commands; a wrong option is answered like every other bad input."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        """Run; leaves by SystemExit."""
        words = list(sys.argv[1:] if args is None else args)
        extra["standalone_mode"] = False
        try:
            code = super().main(words, *rest, **extra)
            sys.exit(code or 0)
        except click.exceptions.NoArgsIsHelpError as error:  # the help is already printed
            sys.exit(error.exit_code)
        except click.ClickException as error:
            path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else self.name
            fault = InputError(error.format_message(), hint=f"{path} --help shows what is accepted")
            Output(_asks_for_json(words)).failed(fault)
            sys.exit(fault.exit_code)
        except click.Abort:
            sys.exit(InterruptedRunError.exit_code)


def _asks_for_json(words: Sequence[str]) -> bool:
    """Whether the envelope is asked for, where the command line could not be read as a whole."""
    return "--format=json" in words or any(pair == ("--format", "json") for pair in itertools.pairwise(words))


def run_command(format: str, work: Callable[[Output], dict[str, Any]]) -> None:
    """Do a command's work and turn whatever happens into an exit code.

    Args:
        format: text | json, as the user asked.
        work: gets where its words go, and returns the data of the envelope.
    """
    output = Output(format == "json")
    try:
        if format not in ("text", "json"):
            raise InputError(f"--format is {format!r}; accepted: text, json")
        with terminated_as_interrupted(), storage_errors("the output"):
            output.done(work(output))
    except CommonGroundError as error:
        output.failed(error)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        output.failed(InterruptedRunError("stopped"))
        raise typer.Exit(InterruptedRunError.exit_code) from error
    except Exception as error:  # a fault of the program: the traceback is for whoever mends it
        if output.as_json:
            output.failed(CommonGroundError(f"{type(error).__name__}: {error}"))
        raise
