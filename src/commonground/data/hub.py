"""Any Hugging Face preference data set, with one column map or a ready one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from commonground.comparisons import Tag
from commonground.data import prism
from commonground.data.feedback import BadRows, TagFeedback
from commonground.data.huggingface import Placed, hub_rows
from commonground.data.pairs import UNIT, share_out
from commonground.data.reading import nearest, nothing_usable
from commonground.data.request import Request, SourceLike
from commonground.data.rows import PairRow, to_pairs
from commonground.data.tables import local_rows
from commonground.errors import DataError

Fold = Callable[[Iterable[Placed], Mapping[str, str], BadRows, Counter[str], str], list[Placed]]


@dataclass(frozen=True)
class Preset:
    """A ready map of one data set.

    Attributes:
        config: the configuration on the hub; also the word that picks files of a local copy.
        folders: the folder of the repository for each tag.
        fold: turns several rows into comparisons; None = a row is a comparison.
        unit: what one comparison is, in words.
    """

    config: str = ""
    folders: Mapping[Tag, str] = field(default_factory=dict)
    fold: Fold | None = None
    unit: str = UNIT


PRESETS: dict[str, Preset] = {
    "": Preset(),
    "hh-rlhf": Preset(folders={"safety": "harmless-base", "taste": "helpful-base"}),
    "prism": Preset(config="utterances", fold=prism.fold, unit=prism.UNIT),
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


def read_hub(spec: SourceLike, tag: Tag) -> tuple[list[PairRow], BadRows, Counter[str]]:
    """The usable pairs of a data set, its bad rows, and why readable rows were left out.

    Raises:
        DataError: it cannot be fetched or read, columns are missing, or no row is usable.
    """
    preset = find_preset(spec.preset, f"data.{tag}")
    bad = BadRows()
    left_out: Counter[str] = Counter()
    folder = preset.folders.get(tag, "")
    path = Path(spec.path)
    rows: Iterable[Placed]
    if path.exists():
        rows = local_rows(path, bad, preset.config or folder)
    else:
        rows = hub_rows(spec.path, f"data.{tag}", preset.config, folder)
    columns = dict(spec.columns)
    if preset.fold is not None:
        rows = preset.fold(rows, columns, bad, left_out, spec.path)
        if not rows:
            reasons = "; ".join(f"{reason} ({count})" for reason, count in left_out.items())
            if reasons and not bad.count:
                raise DataError(f"{spec.path} gives no comparison: {reasons}")
            raise nothing_usable(spec.path, bad)
        columns = {}
    pairs, more = to_pairs(rows, columns, bad, spec.path)
    return pairs, bad, left_out + more


def load_hub(spec: SourceLike, ask: Request) -> TagFeedback:
    """Comparisons from a data set; split and given to people as a pair file is."""
    rows, bad, left_out = read_hub(spec, ask.tag)
    return share_out(rows, ask, bad, left_out, find_preset(spec.preset, ask.place).unit)
