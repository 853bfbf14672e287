"""The shapes that preference files have: recognised by their columns, or named with `data.<tag>.preset`.

A shape says where our values stand (`columns`, in the column language), what the words of its verdict mean,
and, where a row is no pair yet, the fold that makes pairs. What the user maps herself always wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from commonground.comparisons import Tag
from commonground.data import folding, prism
from commonground.data.columns import ANSWERS, OURS, VERDICT, heads, person_columns
from commonground.data.containers import Placed
from commonground.data.reading import nearest
from commonground.data.values import absent, number, plain_name
from commonground.errors import DataError

Fold = Callable[[Iterable[Placed], folding.Folding], Iterator[Placed]]
Row = Mapping[str, Any]

UNIT = "one comparison of the file: an answer preferred to another answer"
ONE_PERSON = "one answer preferred to another answer, of a list that one person ranked or scored: {}"
LIST_UNIT = ONE_PERSON.format(
    "k answers give up to k (k - 1) / 2 pairs, so pair-level privacy is not row-level"
)


@dataclass(frozen=True)
class Shape:
    """One shape of preference files.

    Attributes:
        name: for `data.<tag>.preset`.
        says: what it is, in words.
        needs: paths that a row must have for the shape to be recognised.
        columns: our names -> paths.
        verdicts: words or numbers of the verdict -> outcome.
        by_tag: columns that depend on the tag, over `columns`.
        fold: makes pairs of rows that are none yet.
        extra: further columns that the fold reads.
        unit: what one comparison is, for the privacy statement.
        beware: what a reader of the result has to know.
    """

    name: str
    says: str
    needs: tuple[str, ...]
    columns: Mapping[str, str] = field(default_factory=dict)
    verdicts: Mapping[str, str] = field(default_factory=dict)
    by_tag: Mapping[Tag, Mapping[str, str]] = field(default_factory=dict)
    fold: Fold | None = None
    extra: tuple[str, ...] = ()
    unit: str = UNIT
    beware: str = ""

    def names(self, tag: Tag) -> dict[str, str]:
        """Our names -> paths, for one tag."""
        return {**self.columns, **self.by_tag.get(tag, {})}


def _prism(rows: Iterable[Placed], with_: folding.Folding) -> Iterator[Placed]:
    """PRISM's own fold, under its own names."""
    yield from prism.fold(rows, {}, with_.bad, with_.left_out, "the table")


LONE = "only answers of one person to one prompt can be compared: there is no loss for a lone thumb"
STRENGTH = {"<0": "a", ">0": "b", "0": "tie"}

SHAPES: tuple[Shape, ...] = (
    Shape(
        "openai-dpo",
        "OpenAI's preference files",
        ("input.messages", "preferred_output", "non_preferred_output"),
        {"prompt": "input.messages", "chosen": "preferred_output", "rejected": "non_preferred_output"},
        extra=("input",),
    ),
    Shape(
        "sharegpt",
        "ShareGPT conversations with a chosen and a rejected turn",
        ("conversations", "chosen", "rejected"),
        {"prompt": "conversations", "chosen": "chosen", "rejected": "rejected", "system": "system"},
    ),
    Shape(
        "arena",
        "arena battles: two conversations and a winner",
        ("conversation_a", "conversation_b", "winner"),
        {
            "a": "conversation_a",
            "b": "conversation_b",
            "verdict": "winner",
            "person": "judge|judge_hash|user_id|evaluation_session_id",
        },
        beware="a judge may be a language model, and an arena's judge may have voted once only",
    ),
    Shape(
        "arena-kaggle",
        "arena battles with lists of turns and the winner in three columns",
        ("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie"),
        fold=folding.arena_kaggle,
        extra=("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie"),
    ),
    Shape(
        "helpsteer3",
        "HelpSteer3 preferences (-3 to 3, below 0 the first is better)",
        ("context", "response1", "response2", "overall_preference"),
        {"prompt": "context", "a": "response1", "b": "response2", "verdict": "overall_preference"},
        STRENGTH,
        beware="overall_preference is what three annotators agreed on: it names nobody",
    ),
    Shape(
        "helpsteer2-preference",
        "HelpSteer2 preferences (-3 to 3, below 0 the first is better)",
        ("prompt", "response_1", "response_2", "preference_strength"),
        {"prompt": "prompt", "a": "response_1", "b": "response_2", "verdict": "preference_strength"},
        STRENGTH,
    ),
    Shape(
        "helpsteer2",
        "HelpSteer2: one answer a row, scored",
        ("prompt", "response", "helpfulness"),
        {"prompt": "prompt", "answer": "response", "score": "helpfulness"},
        fold=folding.scored,
        unit=LIST_UNIT,
    ),
    Shape(
        "shp",
        "Stanford Human Preferences: two comments, labels 1 = A",
        ("history", "human_ref_A", "human_ref_B", "labels"),
        {"prompt": "history", "a": "human_ref_A", "b": "human_ref_B", "verdict": "labels"},
        {"1": "a", "0": "b"},
        beware="votes of many readers, of nobody in particular",
    ),
    Shape(
        "pku-saferlhf",
        "PKU-SafeRLHF: the safer and the better of two answers",
        ("prompt", "response_0", "response_1", "better_response_id", "safer_response_id"),
        {"prompt": "prompt", "a": "response_0", "b": "response_1"},
        {"0": "a", "1": "b"},
        by_tag={"safety": {"verdict": "safer_response_id"}, "taste": {"verdict": "better_response_id"}},
        extra=("better_response_id", "safer_response_id"),
    ),
    Shape(
        "alpacafarm",
        "AlpacaFarm: two outputs, preference 1 or 2",
        ("instruction", "output_1", "output_2", "preference"),
        {"prompt": "instruction+input", "a": "output_1", "b": "output_2", "verdict": "preference"},
        {"1": "a", "2": "b", "0": "tie", "1.5": "tie"},
        beware="an annotator may be a language model",
    ),
    Shape(
        "summarize",
        "summarize-from-feedback comparisons: two summaries and a choice",
        ("info", "summaries", "choice"),
        {
            "prompt": "info.post|info.article",
            "a": "summaries.0.text",
            "b": "summaries.1.text",
            "verdict": "choice",
            "person": "worker",
        },
        {"0": "a", "1": "b"},
    ),
    Shape(
        "community-alignment",
        "Community Alignment: four answers a turn and the preferred one",
        ("first_turn_prompt", "first_turn_response_a", "first_turn_preferred_response"),
        {"person": "annotator_id", "group": "annotator_country"},
        fold=folding.community_alignment,
        extra=tuple(
            f"{turn}_turn_{what}"
            for turn in ("first", "second", "third", "fourth")
            for what in ("prompt", "preferred_response", *(f"response_{side}" for side in "abcd"))
        ),
        unit="the preferred answer of a turn against one of the others: a turn gives three pairs",
    ),
    Shape(
        "collective-alignment",
        "rankings of four answers by several annotators (A>B=C>D)",
        ("prompt.messages", "responses", "metadata.assessments"),
        fold=folding.collective_alignment,
        extra=("prompt", "responses", "metadata"),
        unit=LIST_UNIT,
    ),
    Shape(
        "prism",
        "PRISM's utterances, one answer a row",
        prism.NEEDED,
        {"person": "user_id", "group": "group"},
        fold=_prism,
        extra=(*prism.NEEDED, "score"),
        unit=prism.UNIT,
    ),
    Shape(
        "prism-conversations",
        "PRISM's conversations, each with its history",
        ("conversation_history", "user_id"),
        {"person": "user_id"},
        fold=folding.prism_conversations,
        extra=("conversation_history",),
        unit="one chosen answer against one other answer of the same turn",
    ),
    Shape(
        "label-studio",
        "tasks of Label Studio with annotations",
        ("data", "annotations"),
        fold=folding.label_studio,
        extra=("data", "annotations", "completions"),
    ),
    Shape(
        "argilla",
        "records of Argilla with responses",
        ("fields", "responses"),
        fold=folding.argilla,
        extra=("fields", "responses"),
        unit=LIST_UNIT,
    ),
    Shape(
        "oasst-trees",
        "trees of OpenAssistant: replies ranked under each message",
        ("prompt.text", "prompt.replies"),
        fold=folding.oasst_trees,
        extra=("prompt",),
        unit=LIST_UNIT,
        beware="ranks are agreed on by several people: they name nobody",
    ),
    Shape(
        "oasst",
        "messages of OpenAssistant, one a row, with ranks",
        ("message_id", "parent_id", "text", "role"),
        {"group": "lang"},
        fold=folding.oasst_rows,
        extra=("message_id", "parent_id", "text", "role", "rank", "user_id"),
        unit=LIST_UNIT,
        beware="user_id wrote the message; the ranks name nobody",
    ),
    Shape(
        "orca",
        "Orca pairs with a system prompt",
        ("system", "question", "chosen", "rejected"),
        {"prompt": "question", "system": "system", "chosen": "chosen", "rejected": "rejected"},
    ),
)
_BY_NAME = {shape.name: shape for shape in SHAPES}

# What a verdict's column may be called, compared without case and signs; the first that is there.
VERDICTS = (
    *("verdict", "winner", "preference", "preferred", "choice", "comparison", "label", "labels", "better"),
    *(
        "preferredresponse",
        "preferredanswer",
        "selected",
        "vote",
        "judgment",
        "judgement",
        "chosen",
        "result",
    ),
    *("whichisbetter", "betteranswer", "betterresponse"),
)
_LISTS = ("answers", "completions", "responses", "generations", "outputs", "output", "candidates")
_ORDERS = ("ranks", "rank", "ranking", "scores", "score", "ratings", "rating", "order")
_ASKED = ("prompt", "question", "instruction", "query", "input", "context", "history", "post")
_SCORES = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"),
           ("chosen_rating", "rejected_rating"), ("chosen_avg_rating", "rejected_avg_rating"))  # fmt: skip
PLAIN = Shape("trl", "pairs with chosen and rejected", ANSWERS, {name: name for name in ANSWERS})


@dataclass(frozen=True)
class Reading:
    """How a source is read: the shape, and our names -> paths with the user's own.

    Attributes:
        shape: what was recognised or named.
        names: our names -> paths in the row.
        verdicts: words of the verdict -> outcome.
        person_by_name: the person's column was found by its name, and nobody said so.
    """

    shape: Shape
    names: Mapping[str, str]
    verdicts: Mapping[str, str]
    person_by_name: bool = False

    def used(self, columns: Iterable[str], row: Row) -> set[str]:
        """Those of the file's columns that are read."""
        taken = {head for path in self.names.values() for head in heads(path, row)}
        return (taken | set(self.shape.extra)) & set(columns)


def preset_names() -> tuple[str, ...]:
    """What `data.<tag>.preset` accepts for a shape."""
    return tuple(_BY_NAME)


def has(row: Row, path: str) -> bool:
    """Whether a row has something at a path, be it null."""
    if path in row:
        return True
    head, _, rest = path.partition(".")
    return bool(rest) and isinstance(row.get(head), Mapping) and has(row[head], rest)


def read_as(
    sample: Sequence[Row],
    columns: Mapping[str, str],
    verdicts: Mapping[str, str],
    tag: Tag,
    place: str,
    preset: str = "",
) -> Reading:
    """How the rows of a source are to be read.

    Args:
        sample: the first rows.
        columns: the user's map: our names -> paths; an empty path says that there is none.
        verdicts: the user's words of a verdict.
        tag: safety | taste.
        place: the file, for messages.
        preset: a shape by name; '' = recognise.

    Raises:
        DataError: the columns are no shape we know, or what the user mapped is not there.
    """
    found = list(dict.fromkeys(name for row in sample for name in row))
    known = (*OURS, "answers", "ranks", "answer", "score")
    for ours in columns:
        if ours not in known:
            raise DataError(
                f"{place}: columns maps {ours!r}, which this source does not use; accepted: "
                f"{', '.join(known)}{nearest(ours, known)}"
            )
    shape = _BY_NAME[preset] if preset else _shape(sample, found, columns, place)
    names = {**shape.names(tag), **columns}
    row: dict[str, Any] = dict.fromkeys(found)
    for one in reversed(sample):
        row |= {name: value for name, value in one.items() if not absent(value)}
    _check_there(row, found, names, columns, shape, place)
    names = {ours: _there(path, row) for ours, path in names.items() if path}
    names = {ours: path for ours, path in names.items() if path or ours in columns}
    if not shape.fold or shape.fold in (folding.ranked, folding.listed, folding.scored):
        for ours in ("prompt", "person", "group", "system", "tag", "time"):
            if ours in found and ours not in names and ours not in columns:
                names[ours] = ours
    by_name = False
    if "person" not in names and columns.get("person") != "" and shape.name not in ("oasst",):
        taken = [head for path in names.values() for head in heads(path, row)]
        people = person_columns(sample, [*taken, *shape.extra])
        if len(people) == 1 or (people and plain_name(people[0]) != plain_name(people[-1])):
            names["person"], by_name = people[0], True
    return Reading(shape, names, {**shape.verdicts, **verdicts}, by_name)


def _there(path: str, row: Row) -> str:
    """The first alternative of a path whose column some row has; '' where none has it."""
    parts = path.split("|") if path not in row else [path]
    return next((part for part in parts if any(head in row for head in heads(part, row))), "")


def _check_there(
    row: Row,
    found: Sequence[str],
    names: Mapping[str, str],
    columns: Mapping[str, str],
    shape: Shape,
    place: str,
) -> None:
    """A column that is needed, or that the user mapped, must be in some row."""
    needed = [ours for ours in names if ours in (*ANSWERS, *VERDICT, "answers", "answer", "score", "ranks")]
    wanted = {ours: names.get(ours, ours) for ours in [*needed, *columns] if names.get(ours, ours)}
    missing = [
        path
        for path in dict.fromkeys(wanted.values())
        if not all(h in row for h in heads(path, row) if h) and "|" not in path
    ]
    if missing:
        wrong = ", ".join(f"{name!r}{nearest(name, found)}" for name in missing)
        raise DataError(
            f"{place} has no column {wrong}; found: {', '.join(map(repr, found)) or 'none'}; "
            "needed: chosen, rejected (or a, b, verdict); optional: prompt, person, group, system, tag, time",
            hint="map names with data.<tag>.columns, e.g. columns={chosen: preferred_answer}",
        )


def _shape(sample: Sequence[Row], found: Sequence[str], columns: Mapping[str, str], place: str) -> Shape:
    """The shape of the rows.

    Raises:
        DataError: none; says what is there and what is recognised.
    """
    mapped = [ours for ours in columns if columns[ours]]
    if any(ours in ANSWERS for ours in mapped):
        return PLAIN
    if any(ours in VERDICT for ours in mapped):
        return _mapped_verdict(found, columns, place)
    if "answer" in mapped:
        return Shape("scored", "one answer a row, scored", (), {"prompt": "prompt", "score": "score"},
                     fold=folding.scored, unit=LIST_UNIT)  # fmt: skip
    for shape in SHAPES:
        if all(any(has(row, path) for row in sample) for path in shape.needs):
            return shape
    if all(name in found for name in ANSWERS):
        return PLAIN
    for other in (_two_answers(sample, found, place), _many_answers(sample, found), _one_answer(found)):
        if other is not None:
            return other
    if any(name in found for name in ANSWERS):
        return PLAIN  # one of the two is missing: `_check_there` says which
    raise DataError(
        f"{place} has no column 'chosen', 'rejected'; found: {', '.join(map(repr, found)) or 'none'}; "
        f"recognised: chosen and rejected; two answers and a verdict (response_a, response_b, winner); "
        f"ranked answers; {', '.join(shape.name for shape in SHAPES)}",
        hint="map names with data.<tag>.columns, e.g. {chosen: better, rejected: worse} or "
        "{a: first_reply, b: second_reply, verdict: winner}",
    )


def _asked(found: Sequence[str]) -> dict[str, str]:
    plain = {plain_name(name): name for name in reversed(found)}
    return (
        {"prompt": next(plain[name] for name in _ASKED if name in plain)} if set(_ASKED) & set(plain) else {}
    )


def _mapped_verdict(found: Sequence[str], columns: Mapping[str, str], place: str) -> Shape:
    lacking = [ours for ours in VERDICT if not columns.get(ours) and ours not in found]
    if lacking:
        raise DataError(
            f"{place}: columns maps {', '.join(ours for ours in VERDICT if columns.get(ours))} but not "
            f"{', '.join(lacking)}; two answers and a verdict need all of a, b, verdict",
            hint="e.g. columns={a: reply_1, b: reply_2, verdict: winner}",
        )
    names = {ours: columns.get(ours) or ours for ours in VERDICT}
    return Shape("verdict", "two answers and a verdict", (), {**_asked(found), **names})


def _two_answers(sample: Sequence[Row], found: Sequence[str], place: str) -> Shape | None:
    """Two answers and a verdict under names of their own."""
    sides = folding.two_answers(found)
    if sides is None:
        return None
    rest = {plain_name(name): name for name in found if name not in sides}
    verdict = next((rest[name] for name in VERDICTS if name in rest), None)
    if verdict is None:
        verdict = next((name for plain, name in rest.items() if "better" in plain or "prefer" in plain), None)
    if verdict is None and (
        scores := folding.two_answers([n for n in found if n.lower().startswith("score")])
    ):
        verdict = ">".join(scores)
    if verdict is None and {"score_0", "score_1"} <= set(found):
        verdict = "score_0>score_1"
    if verdict is None:
        raise DataError(
            f"{place} has two answers, {sides[0]!r} and {sides[1]!r}, and no verdict that we know by name; "
            f"found: {', '.join(map(repr, found))}",
            hint=f"say which column it is: columns={{a: {sides[0]}, b: {sides[1]}, verdict: ...}}",
        )
    columns = {**_asked(found), "a": sides[0], "b": sides[1], "verdict": verdict}
    return Shape("verdict", "two answers and a verdict", (), columns)


def _many_answers(sample: Sequence[Row], found: Sequence[str]) -> Shape | None:
    """A list of answers in a row, with ranks or scores inside or beside it."""
    for name in _LISTS:
        if name not in found:
            continue
        values = [row.get(name) for row in sample if not absent(row.get(name))]
        if values and all(folding.answer_list({name: value}, name) is not None for value in values):
            return Shape("ranked", "answers in a list, each with a rank or a score", (),
                         {**_asked([n for n in found if n != name]), "answers": name},
                         fold=folding.ranked, unit=LIST_UNIT)  # fmt: skip
        texts = [
            value for value in values if isinstance(value, list) and all(isinstance(v, str) for v in value)
        ]
        if not values or len(texts) != len(values) or max(map(len, texts)) < 2:
            continue
        order = next((one for one in _ORDERS if one in found), None)
        if order is None and name != "output":
            continue
        columns = {**_asked([n for n in found if n != name]), "answers": name}
        if name == "output" and "input" in found and "instruction" in found:
            columns["prompt"] = "instruction+input"
        says = (
            f"answers in a list, and their order in {order!r}"
            if order
            else "answers in order, the best first"
        )
        return Shape("ranked", says, (), columns | ({"ranks": order} if order else {}),
                     fold=folding.listed, unit=LIST_UNIT)  # fmt: skip
    return None


def _one_answer(found: Sequence[str]) -> Shape | None:
    """One answer a row with a thumb or a score (KTO)."""
    answer = next((name for name in ("completion", "response", "answer", "output") if name in found), None)
    score = next(
        (name for name in ("label", "thumb", "thumbs_up", "score", "rating", "reward") if name in found), None
    )
    if answer is None or score is None or "prompt" not in found:
        return None
    return Shape("kto", "one answer a row with a thumb or a score", (),
                 {"prompt": "prompt", "answer": answer, "score": score}, fold=folding.scored, unit=LIST_UNIT,
                 beware=LONE)  # fmt: skip


def says_tie(row: Row, unused: Sequence[str]) -> str:
    """Why a row with chosen and rejected is no preference: a tie in another column; '' = it is one.

    Args:
        row: as read.
        unused: columns that nothing reads.
    """
    for name in unused:
        plain, value = plain_name(name), row.get(name)
        if plain in VERDICTS and isinstance(value, str):
            said = folding.KNOWN_UNDECIDED.get(plain_name(value))
            if said:
                return f"{said} (column {name!r})"
        elif plain == "margin" and (margin := number(value)) is not None and margin <= 0:
            return f"{folding.TIES} (column {name!r} is not above 0)"
    for high, low in _SCORES:
        if high in unused and low in unused:
            one, other = number(row.get(high)), number(row.get(low))
            if one is not None and other is not None and one <= other:
                return f"{folding.TIES} ({high} is not above {low})"
    return ""
