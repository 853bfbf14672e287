"""The commands `commonground charter ...`.

What does the work is imported when a command runs: `--help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from commonground.console import Format, Output, run_command
from commonground.errors import InputError

charter_app = typer.Typer(
    help="Check, sign and compare charters: what must never be written, and which bounds hold."
    "\n\nExample: `commonground charter check charter.yaml`",
    no_args_is_help=True,
)

Key = Annotated[
    Path, typer.Option("--key", help="The signing key (Ed25519, PEM); made where there is none, mode 0600.")
]


@charter_app.command("check")
def check(
    file: Annotated[
        Path | None, typer.Argument(help="A charter, signed or not; default: the shipped one.")
    ] = None,
    signer: Annotated[
        str | None, typer.Option("--signer", help="Whose signature it must have: a key, or its fingerprint.")
    ] = None,
    format: Format = "text",
) -> None:
    """Say everything that is wrong with a charter, with its probes and with its detectors.

    Example: `commonground charter check charter.yaml`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.bounds.charter_files import check_probes
        from commonground.bounds.enforcement import enforce
        from commonground.embeddings import Encoder
        from commonground.study.charters import read_charter, trusted_charter
        from commonground.study.signing import fingerprint

        found = read_charter(file) if signer is None else trusted_charter(file, signer)
        charter = found.charter
        counts = check_probes(charter, found.folder)
        enforce(charter, found.folder, Encoder(), charter.base)
        signed = f"signed by {fingerprint(found.signer)}" if found.signer else "not signed"
        output.show(
            f"{charter.title}, version {charter.version}: the charter is fine",
            f"digest: {charter.digest}",
            f"from: {found.source}, {signed}",
            *(
                f"probes {name} ({charter.probes[name].split}): {sum(count.values())} of "
                f"{len(count)} constraints"
                for name, count in counts.items()
            ),
        )
        return {
            "digest": charter.digest,
            "title": charter.title,
            "version": charter.version,
            "signer": found.signer or None,
            "probes": {name: dict(count) for name, count in counts.items()},
            "faults": [],
        }

    run_command(format, work)


@charter_app.command("sign")
def sign(
    file: Annotated[Path, typer.Argument(help="The charter, in YAML.")],
    key: Key,
    out: Annotated[
        Path | None, typer.Option("--out", help="The signed charter; default: FILE with .signed.json.")
    ] = None,
    format: Format = "text",
) -> None:
    """Sign a charter, once everything in it holds.

    Example: `commonground charter sign charter.yaml --key charter.key`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.bounds.charter import sign_charter
        from commonground.bounds.charter_files import check_probes
        from commonground.bounds.enforcement import enforce
        from commonground.embeddings import Encoder
        from commonground.files import write_atomically
        from commonground.study.charters import read_charter
        from commonground.study.signing import fingerprint, load_key, new_key

        found = read_charter(file)
        if found.signer:
            raise InputError(f"{file} is signed already; sign the plain charter in YAML")
        check_probes(found.charter, found.folder)
        enforce(found.charter, found.folder, Encoder(), found.charter.base)
        target = out or file.with_suffix(".signed.json")
        if target.resolve().parent != found.folder.resolve():
            raise InputError(
                f"--out {target} is in another folder than {file}; a charter's files lie beside it",
                hint="keep the signed charter in the folder of its probes and detectors",
            )
        signing = load_key(key) if key.exists() else new_key(key)
        paper = sign_charter(signing, found.charter)
        write_atomically(target, (paper.to_text() + "\n").encode())
        output.show(f"signed: {target}", f"digest: {found.charter.digest}")
        output.show(f"fingerprint of the signer: {fingerprint(paper.signer)}")
        data = {"file": str(target), "digest": found.charter.digest, "signer": paper.signer}
        return data | {"fingerprint": fingerprint(paper.signer)}

    run_command(format, work)


@charter_app.command("diff")
def diff(
    old: Annotated[Path, typer.Argument(help="A charter, signed or not.")],
    new: Annotated[Path, typer.Argument(help="The charter that shall follow it.")],
    format: Format = "text",
) -> None:
    """Say what differs between two charters, a line a value.

    Example: `commonground charter diff charter.signed.json charter.yaml`
    """

    def work(output: Output) -> dict[str, Any]:
        from commonground.bounds.charter import diff_charters
        from commonground.study.charters import read_charter

        left, right = read_charter(old).charter, read_charter(new).charter
        changes = diff_charters(left, right)
        output.show(*(changes or ["the two charters say the same"]))
        return {"old": left.digest, "new": right.digest, "changes": changes}

    run_command(format, work)
