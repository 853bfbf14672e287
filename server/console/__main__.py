"""The console of one study: `python -m commonground.server.console DIR [PORT]`."""

from __future__ import annotations

import sys
from pathlib import Path

from commonground.console import stay_quiet
from commonground.errors import CommonGroundError, InputError
from commonground.server.console.books import Books

LINK = "console.url"


def serve_console(folder: Path, port: int = 0) -> None:
    """Serve the console on https://127.0.0.1 until it is stopped; its link is the first line on stdout.

    The certificate is the study's own: a browser knows it once the study's ca.crt is imported.

    Args:
        folder: the study's.
        port: 0 takes a free one.

    Raises:
        RunFolderError: it is no study.
        InputError: the port is in use.
    """
    from commonground.web.serving import Place, serve

    books = Books(folder)
    study = books.study
    where = f"A new link is in {study.run / LINK}."
    certificate, key = study.folder / "server.crt", study.folder / "server.key"
    place = Place(study.run, port, certificate=certificate, key=key, where=where, link=LINK)

    def build() -> None:
        from commonground.server.console.pages import build

        build(books)

    try:
        books.overview()  # the first takes seconds, since the accountants are loaded; no browser waits for it
        serve(place, "commonground", build)
    finally:
        books.close()


def main() -> None:
    """See the module."""
    stay_quiet()
    try:
        if (
            len(sys.argv) not in (2, 3)
            or not sys.argv[-1:]
            or (len(sys.argv) == 3 and not sys.argv[2].isdigit())
        ):
            raise InputError("a study's folder and perhaps a port are needed", hint="DIR [PORT]")
        serve_console(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 0)
    except CommonGroundError as error:
        sys.stderr.write(f"error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
