"""What a run was begun with, beyond its configuration: a resumed or repeated run refuses anything else.

A configuration names files; what is in them may change between one call and the next. Half the rounds on one
table of comparisons and half on another are the result of neither, and an old result is not that of new data.
So `state/inputs.json` holds a digest of every source as it was read, and each is compared before anything is
computed with it. Base models and bases stand in the manifest, and so in the job's own identity.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from commonground.comparisons import TAGS, Comparison
from commonground.config import Config
from commonground.errors import RunFolderError
from commonground.files import write_atomically
from commonground.own_code import named_code
from commonground.settings import to_dict
from commonground.simulations.population import STARTER, Population, populate

FILE = "inputs.json"
WORDS = {
    "people": "the people (ids, groups, who is held out)",
    "data.taste": "data.taste: what people said",
    "data.safety": "data.safety: what people said",
    "catalogue": "data.taste: its catalogue of texts",
    "gate": "the public safety pairs",
}


def population_digests(config: Config, population: Population) -> dict[str, str]:
    """Return source -> digest of people and comparisons as they were read.

    Planted people are a function of the configuration alone and are not read; an empty digest stands for
    nobody's file.
    """
    if {config.data.taste.source, config.data.safety.source} == {STARTER}:
        return {}
    found = {"people": _digest([person.id, person.group, person.split] for person in population.people)}
    for tag in TAGS:
        rows = [row for part in (population.train, population.test) for row in _rows(part, tag)]
        unread = json.dumps([population.left_out.get(tag), population.bad_rows.get(tag)], sort_keys=True)
        found[f"data.{tag}"] = _digest([*rows, [unread]])
    return found | {"catalogue": _digest([text] for text in population.catalogue)}


def code_digests(config: Config) -> dict[str, str]:
    """Return name of the user's own code -> digest of the file it lies in."""
    found = {}
    for key, name in named_code(to_dict(config)):
        spec = importlib.util.find_spec(name.partition(":")[0])
        if spec is not None and spec.origin is not None and Path(spec.origin).is_file():
            found[f"{key}={name}"] = hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()
    return found


def pairs_digest(pairs: Iterable[Comparison]) -> str:
    """Return a digest of comparisons in their order."""
    return _digest([one.prompt, one.chosen, one.rejected] for one in pairs)


def hold(state: Path, found: Mapping[str, str], config: Config) -> None:
    """Keep what a run begins with, or compare it with what it began with.

    Args:
        state: the run's folder of states.
        found: source -> digest, as it is now.
        config: of the run, for the places of its sources.

    Raises:
        RunFolderError: a source has changed; the message names every one that has.
    """
    file = state / FILE
    kept = read(file)
    if kept is None:
        write_atomically(file, json.dumps(dict(found), indent=1).encode())
        return
    compare(state, kept, found, config)


def compare(state: Path, kept: Mapping[str, str], found: Mapping[str, str], config: Config) -> None:
    """Raise `RunFolderError` where a source of `found` is another than in `kept`; see `hold`."""
    changed = [name for name in found if kept.get(name) != found[name]]
    changed += [name for name in kept if name not in found and name in ("people", "catalogue", *_TAGGED)]
    if changed:
        raise RunFolderError(
            f"{state.parent} was begun with other data: changed since: "
            + "; ".join(dict.fromkeys(_words(name, config) for name in changed)),
            hint="put back what was there, or choose another --out",
        )


def refuse_other_data(state: Path, config: Config, seen: dict[str, dict[str, str]] | None = None) -> None:
    """Compare what a run was begun with to what its sources hold now; see `hold`.

    Nothing but the sources is read, and nothing where people are planted or no round was begun.

    Args:
        state: the run's folder of states.
        config: of the run.
        seen: what was read for other runs already, by what it is read from; it is added to.

    Raises:
        RunFolderError: a source has changed.
        DataError: a source cannot be read any more.
    """
    kept = read(state / FILE)
    if kept is None or {config.data.taste.source, config.data.safety.source} == {STARTER}:
        return
    seen = {} if seen is None else seen
    key = json.dumps([config.people, config.seed, to_dict(config)["data"]], sort_keys=True)
    if key not in seen:
        seen[key] = population_digests(config, populate(config))
    compare(state, kept, {**kept, **seen[key]}, config)


def read(file: Path) -> dict[str, str] | None:
    """What was kept; None where nothing was. Raises `RunFolderError` where the file is damaged."""
    if not file.is_file():
        return None
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"{file} is damaged: {error}", hint=f"delete {file.parent} to start over"
        ) from error
    if not isinstance(kept, dict) or not all(isinstance(value, str) for value in kept.values()):
        raise RunFolderError(f"{file} is damaged", hint=f"delete {file.parent} to start over")
    return kept


_TAGGED = tuple(f"data.{tag}" for tag in TAGS)


def _words(name: str, config: Config) -> str:
    """A source in words, with its place."""
    words = WORDS.get(name, name)
    if name in _TAGGED:
        source: Any = getattr(config.data, name.removeprefix("data."))
        words += f" ({source.path or source.source})"
    return words


def _rows(part: Iterable[Comparison], tag: str) -> Iterable[list[str]]:
    return ([c.person, c.prompt, c.chosen, c.rejected] for c in part if c.tag == tag)


def _digest(rows: Iterable[list[Any]]) -> str:
    """SHA-256 of rows of texts; no two different lists of rows have the same bytes."""
    found = hashlib.sha256()
    for row in rows:
        found.update(json.dumps(row, ensure_ascii=True).encode() + b"\n")
    return found.hexdigest()
