"""Preference data on this machine or on the Hugging Face hub: recognised by its columns, or by a preset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from commonground.comparisons import Tag
from commonground.data import prism
from commonground.data.columns import check_verdicts
from commonground.data.containers import FORMS, Placed
from commonground.data.feedback import BadRows, Note, TagFeedback
from commonground.data.huggingface import hub_rows
from commonground.data.pairs import share_out
from commonground.data.reading import nearest, nothing_usable
from commonground.data.request import Request, SourceLike
from commonground.data.rows import Read, to_pairs
from commonground.data.shapes import UNIT, preset_names
from commonground.data.tables import comparison_files, is_saved, local_rows
from commonground.errors import DataError

Fold = Callable[[Iterable[Placed], Mapping[str, str], BadRows, Counter[str], str], list[Placed]]


@dataclass(frozen=True)
class Preset:
    """A ready map of one data set.

    Attributes:
        config: the configuration on the hub; also the word that picks files of a local copy.
        folders: the folder of the repository for each tag.
        fold: turns several rows into comparisons; None = a row is a comparison, or the shape has a fold.
        unit: what one comparison is, in words; '' = as the shape says.
        shape: the shape of its rows; '' = recognised.
    """

    config: str = ""
    folders: Mapping[Tag, str] = field(default_factory=dict)
    fold: Fold | None = None
    unit: str = ""
    shape: str = ""


PRESETS: dict[str, Preset] = {
    "": Preset(),
    "hh-rlhf": Preset(folders={"safety": "harmless-base", "taste": "helpful-base"}),
    "prism": Preset(config="utterances", fold=prism.fold, unit=prism.UNIT),
    **{name: Preset(shape=name) for name in preset_names() if name != "prism"},
}


def find_preset(name: str, place: str) -> Preset:
    """A preset by name.

    Raises:
        DataError: unknown; lists the known ones.
    """
    if name not in PRESETS:
        known = [preset for preset in PRESETS if preset]
        raise DataError(f"{place}.preset is {name!r}; accepted: {', '.join(known)}{nearest(name, known)}")
    return PRESETS[name]


def read_source(spec: SourceLike, tag: Tag) -> tuple[Read, BadRows, str]:
    """The usable pairs of a source with what has to be told of them, bad rows, and what one comparison is.

    Raises:
        DataError: it cannot be fetched or read, columns are missing, or no row is usable.
    """
    place = f"data.{tag}"
    preset = find_preset(spec.preset, place)
    verdicts = check_verdicts(spec.verdicts, place)
    bad = BadRows()
    folder = preset.folders.get(tag, "")
    path = Path(spec.path)
    notes: tuple[Note, ...] = ()
    rows: Iterable[Placed]
    if path.exists():
        _check_folder(path, folder, preset, spec, place)
        files, notes = ([], ()) if is_saved(path) else comparison_files(
            path, preset.config or folder, {} if preset.fold else spec.columns, tag
        )  # fmt: skip
        rows = local_rows(path, bad, files)
    elif spec.source == "hub":
        rows = hub_rows(spec.path, place, preset.config, folder)
    else:
        raise DataError(
            f"{path} does not exist", hint=f"source=pairs needs a file or folder on this machine: {FORMS}"
        )
    columns = dict(spec.columns)
    left_out: Counter[str] = Counter()
    if preset.fold is not None:
        rows = preset.fold(rows, columns, bad, left_out, spec.path)
        if not rows:
            reasons = "; ".join(f"{reason} ({count})" for reason, count in left_out.items())
            if reasons and not bad.count:
                raise DataError(f"{spec.path} gives no comparison: {reasons}")
            raise nothing_usable(spec.path, bad)
        columns = {}
    read = to_pairs(rows, columns, bad, spec.path, verdicts=verdicts, tag=tag, preset=preset.shape)
    shape = read.reading.shape if read.reading else None
    unit = preset.unit or (shape.unit if shape else UNIT)
    return replace(read, left_out=left_out + read.left_out, notes=notes + read.notes), bad, unit


def _check_folder(path: Path, folder: str, preset: Preset, spec: SourceLike, place: str) -> None:
    """A preset with a folder for each tag needs that folder, or a path inside one."""
    if not folder or not path.is_dir():
        return
    inside = list(path.rglob(f"*{folder}*"))
    others = [name for name in preset.folders.values() if name != folder]
    there = sorted(one.name for one in path.iterdir())
    if not inside and folder not in path.resolve().parts:
        wrong = [name for name in others if name in there or name in path.resolve().parts]
        raise DataError(
            f"{place}.preset={spec.preset} reads the folder {folder!r} of {path}, which is not there; found: "
            f"{', '.join(there[:8]) or 'nothing'}",
            hint=f"fetch {folder}, or give the path of the folder you mean without a preset"
            + (f" ({', '.join(wrong)} is for the other tag)" if wrong else ""),
        )


def load_comparisons(spec: SourceLike, ask: Request) -> TagFeedback:
    """Comparisons from a source, split by prompt and given to people; see `pairs.share_out`."""
    read, bad, unit = read_source(spec, ask.tag)
    feedback = share_out(read.rows, ask, bad, read.left_out, unit)
    dropped = bad.count + sum(read.left_out.values())
    loud: tuple[Note, ...] = ()
    if read.seen and bad.count * 10 > read.seen:
        first = bad.first[0] if bad.first else ""
        loud = (Note(f"{bad.count} of {read.seen} rows cannot be read, the first: {first}", loud=True),)
    elif read.seen and dropped * 10 > read.seen:
        why = "; ".join(f"{reason}: {count}" for reason, count in read.left_out.most_common(2))
        loud = (Note(f"more than a tenth of {read.seen} rows is left out ({why})", loud=True),)
    unused = "; ".join(f"{name} ({words})" for name, words in list(read.unused.items())[:12])
    more = (Note(f"columns that are not read: {unused}", about="columns"),) if unused else ()
    return replace(feedback, notes=loud + read.notes + feedback.notes + more)
