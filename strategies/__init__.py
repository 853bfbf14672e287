"""The room `strategies` of the house; see docs/adr/0001-packaging.md."""

if __name__ != "commonground.strategies":
    raise ImportError(
        f"this folder is the package commonground.strategies and was imported as {__name__!r}: "
        "import it by its full name, so that no class exists twice"
    )
