"""All views of the operator's console."""

from __future__ import annotations

from commonground.server.console import audit, views
from commonground.server.console.books import Books
from commonground.server.console.frame import view


def build(books: Books) -> None:
    """Register every view and download."""
    view(
        books,
        "",
        "How it goes",
        "The study as a whole. Nothing here is about one person's data.",
        views.overview,
    )
    view(books, "people", "People", "Who is enrolled, and who was invited.", views.people)
    view(
        books,
        "rounds",
        "Rounds",
        "How many devices answered. Counts are of all of them together.",
        views.rounds,
    )
    view(books, "releases", "Releases", "Versions of the shared adapter, signed once each.", views.releases)
    view(books, "privacy", "Privacy", "What is promised to everybody, and what is left of it.", views.privacy)
    audit.register(books)
