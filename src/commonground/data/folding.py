"""Shapes whose rows are no pairs yet: ranked and scored answers, trees, annotators' records, conversations.

Every fold turns placed rows into rows with `prompt`, `chosen`, `rejected`, `person` and `group`; what gives
no pair is counted. k answers that all differ in rank give k (k - 1) / 2 pairs, and each counts for the cap.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from commonground.data.columns import BAD, KNOWN, NOTHING, TIE, A, B, find, opened, outcome
from commonground.data.containers import Placed
from commonground.data.dialogue import Turn, render
from commonground.data.feedback import BadRows
from commonground.data.values import RowError, absent, number, plain_name, truth

EQUAL = "answers ranked or scored as high as each other"
ALONE = "answers with no other answer to the same prompt"
TIES = "ties"
BOTH_BAD = "pairs of which both answers are bad"
UNDECIDED = "rows without a verdict"
UNDECIDED_WORDS = {TIE: TIES, BAD: BOTH_BAD, NOTHING: UNDECIDED}
KNOWN_UNDECIDED = {
    word: UNDECIDED_WORDS[said] for word, said in KNOWN.items() if said in (TIE, BAD)
}  # plain words of a verdict that prefers nothing


@dataclass(frozen=True)
class Folding:
    """What a fold has at hand.

    Attributes:
        names: our names -> paths in the row, of the shape and of the user.
        verdicts: words of a verdict -> outcome.
        bad: counts rows that cannot be read.
        left_out: counts what could be read and gives no pair.
        tag: safety | taste.
    """

    names: Mapping[str, str]
    verdicts: Mapping[str, str]
    bad: BadRows
    left_out: Counter[str]
    tag: str

    def get(self, row: Mapping[str, Any], name: str) -> Any:
        """The value of one of our names, None where the shape has no such column."""
        path = self.names.get(name, "")
        return find(row, path) if path else None

    def context(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Person, group and system of a row."""
        return {name: self.get(row, name) for name in ("person", "group", "system", "tag", "time")}

    def pairs(
        self,
        at: str,
        prompt: Any,
        answers: Sequence[tuple[Any, float | None]],
        context: Mapping[str, Any],
    ) -> Iterator[Placed]:
        """All pairs of answers of which one is better; the higher number is better, None says nothing."""
        known = [(answer, good) for answer, good in answers if good is not None]
        if len(known) < 2:
            self.left_out[ALONE if len(answers) < 2 else UNDECIDED] += 1
            return
        for first in range(len(known)):
            for second in range(first + 1, len(known)):
                (one, good), (other, better) = known[first], known[second]
                if good == better:
                    self.left_out[EQUAL] += 1
                    continue
                chosen, rejected = (one, other) if good > better else (other, one)
                yield at, {"prompt": prompt, "chosen": chosen, "rejected": rejected, **context}


_TEXT = ("answer", "response", "completion", "text", "output", "content", "model_response", "generation")
_RANK = ("rank", "ranking")
_SCORE = ("fine-grained_score", "overall_score", "pm_score", "score", "rating", "votes")


def answer_list(row: Mapping[str, Any], path: str) -> list[tuple[Any, float | None]] | None:
    """Answers with how good each is, of a list of objects; None = the column is no such list."""
    value = find(row, path)
    if not isinstance(value, list) or not value or not all(isinstance(one, Mapping) for one in value):
        return None
    text = next((name for name in _TEXT if all(name in one for one in value)), None)
    if text is None:
        return None
    for name in _SCORE:
        scores = [number(one.get(name)) for one in value]
        if all(score is not None for score in scores):
            return [(one[text], score) for one, score in zip(value, scores, strict=True)]
    for name in _RANK:
        if all(name in one for one in value):
            ranks = [number(one[name]) for one in value]
            return [
                (one[text], None if rank is None else -rank) for one, rank in zip(value, ranks, strict=True)
            ]
    return None


def ranked(rows: Iterable[Placed], with_: Folding) -> Iterator[Placed]:
    """A row holds a list of answers, each with a rank (1 is best) or a score."""
    for at, row in rows:
        answers = answer_list(row, with_.names["answers"])
        if answers is None:
            with_.bad.add(at, "the answers are no list of objects with a text and a rank or score")
            continue
        yield from with_.pairs(at, with_.get(row, "prompt"), answers, with_.context(row))


def listed(rows: Iterable[Placed], with_: Folding) -> Iterator[Placed]:
    """A row holds a list of texts and a list of their ranks or scores, or texts in order, the best first."""
    for at, row in rows:
        texts, order = with_.get(row, "answers"), with_.get(row, "ranks")
        if order is not None:
            how = [number(one) for one in order] if isinstance(order, list) else []
            if "rank" in with_.names["ranks"].lower():
                how = [None if one is None else -one for one in how]
        else:
            how = [float(-place) for place in range(len(texts))] if isinstance(texts, list) else []
        if not isinstance(texts, list) or len(how) != len(texts):
            with_.bad.add(at, "answers and their ranks are no two lists of one length")
            continue
        yield from with_.pairs(
            at, with_.get(row, "prompt"), list(zip(texts, how, strict=True)), with_.context(row)
        )


def scored(rows: Iterable[Placed], with_: Folding) -> Iterator[Placed]:
    """A row is one answer with a score or a thumb; answers of one person to one prompt are compared."""
    together: dict[tuple[str, str], list[tuple[str, Mapping[str, Any]]]] = {}
    for at, row in rows:
        asked = with_.get(row, "prompt")
        person = with_.get(row, "person")
        together.setdefault((repr(asked), repr(person)), []).append((at, row))
    for answers in together.values():
        at, first = answers[0]
        how: list[tuple[Any, float | None]] = []
        for _, row in answers:
            value = with_.get(row, "score")
            thumb = truth(value) if not isinstance(value, int | float) or isinstance(value, bool) else None
            how.append((with_.get(row, "answer"), float(thumb) if thumb is not None else number(value)))
        yield from with_.pairs(at, with_.get(first, "prompt"), how, with_.context(first))


def arena_kaggle(rows: Iterable[Placed], with_: Folding) -> Iterator[Placed]:
    """`prompt`, `response_a`, `response_b` as JSON lists of turns; the winner in three columns of 0 and 1."""
    for at, row in rows:
        won = {side: truth(row.get(f"winner_{side}")) for side in ("model_a", "model_b", "tie")}
        if sum(bool(one) for one in won.values()) != 1:
            with_.bad.add(at, "not exactly one of winner_model_a, winner_model_b, winner_tie is 1")
            continue
        if won["tie"]:
            with_.left_out[TIES] += 1
            continue
        asked, a, b = (_as_list(opened(row.get(n))) for n in ("prompt", "response_a", "response_b"))
        if not asked or not len(asked) == len(a) == len(b):
            with_.bad.add(at, "prompt and responses are no lists of one length")
            continue
        talks = [_talk(asked, answers) for answers in (a, b)]
        chosen, rejected = talks if won["model_a"] else reversed(talks)
        yield at, {"chosen": chosen, "rejected": rejected, **with_.context(row)}


def _entries(value: object) -> list[Mapping[str, Any]]:
    """The objects of a list; nothing where it is none."""
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [] if absent(value) else [value]


def _talk(asked: Sequence[Any], said: Sequence[Any]) -> list[dict[str, Any]]:
    """Turns of a conversation as messages."""
    messages: list[dict[str, Any]] = []
    for question, answer in zip(asked, said, strict=True):
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": "" if answer is None else answer})
    return messages


# Two sides, and what a third would be called: of three answers we do not read two.
_SIDES = (
    ("1", "2", "3"),
    ("0", "1", "2"),
    ("a", "b", "c"),
    ("left", "right", ""),
    ("first", "second", "third"),
    ("one", "two", "three"),
)
_STEMS = (
    *("", "answer", "response", "completion", "output", "text", "option", "candidate", "summary"),
    *("reply", "generation", "assistant", "conversation", "humanref", "joke", "image"),
)


def two_answers(names: Iterable[str]) -> tuple[str, str] | None:
    """Two columns that are the answers of one row, by their names: `response_a` and `response_b`.

    Names are compared without case and signs. None where no two, or several twos, would do.
    """
    plain: dict[str, str] = {}
    for name in names:
        plain.setdefault(plain_name(name), name)
    found: list[tuple[str, str]] = []
    for one, other, third in _SIDES:
        for stem in _STEMS:
            if not stem and one in ("0", "1"):
                continue
            for before in (True, False):
                left, right, more = (stem + side if before else side + stem for side in (one, other, third))
                if left in plain and right in plain and (not third or more not in plain):
                    pair = plain[left], plain[right]
                    if pair not in found and not any(set(pair) & set(known) for known in found):
                        found.append(pair)
    return found[0] if len(found) == 1 else None


def label_studio(rows: Iterable[Placed], with_: Folding) -> Iterator[Placed]:
    """Tasks of a full export: `data` holds the texts, `annotations` what each annotator selected."""
    for at, row in rows:
        data = row.get("data")
        annotations = row.get("annotations") or row.get("completions")
        if not isinstance(data, Mapping) or not isinstance(annotations, list):
            with_.bad.add(at, "a task without data or annotations")
            continue
        sides = two_answers(data)
        if sides is None:
            with_.bad.add(at, "the task's data has no two answers we know by name", ", ".join(map(str, data)))
            continue
        prompt = next(
            (data[name] for name in ("prompt", "question", "instruction", "text") if name in data), None
        )
        for annotation in annotations:
            if not isinstance(annotation, Mapping) or annotation.get("was_cancelled"):
                with_.left_out[UNDECIDED] += 1
                continue
            who = annotation.get("completed_by")
            person = who.get("id", who.get("email")) if isinstance(who, Mapping) else who
            context = {"person": person, "group": with_.get(row, "group")}
            yield from _judged(at, _selected(annotation.get("result")), prompt, data, sides, context, with_)


def _selected(results: object) -> object:
    for result in results if isinstance(results, list) else []:
        value = result.get("value") if isinstance(result, Mapping) else None
        if isinstance(value, Mapping):
            for name in ("selected", "choices", "rating"):
                if name in value:
                    chosen = value[name]
                    return chosen[0] if isinstance(chosen, list) and chosen else chosen
    return None


def _judged(
    at: str,
    verdict: object,
    prompt: object,
    data: Mapping[str, Any],
    sides: tuple[str, str],
    context: Mapping[str, Any],
    with_: Folding,
) -> Iterator[Placed]:
    """One verdict about two answers."""
    try:
        said = outcome(verdict, with_.verdicts, data, {A: sides[0], B: sides[1]})
    except RowError as error:
        with_.bad.add(at, error.reason, error.value)
        return
    if said in UNDECIDED_WORDS:
        with_.left_out[UNDECIDED_WORDS[said]] += 1
        return
    chosen, rejected = sides if said == A else (sides[1], sides[0])
    yield at, {"prompt": prompt, "chosen": data[chosen], "rejected": data[rejected], **context}


def argilla(rows: Iterable[Placed], with_: Folding) -> Iterator[Placed]:
    """Records with `fields` and `responses`: a label, or a ranking, of each user; drafts do not count."""
    for at, row in rows:
        fields, responses = row.get("fields"), row.get("responses")
        if not isinstance(fields, Mapping):
            with_.bad.add(at, "a record without fields")
            continue
        given = list(_argilla_answers(responses))
        if not given:
            with_.left_out[UNDECIDED] += 1
            continue
        sides = two_answers(fields)
        prompt = next(
            (fields[n] for n in ("prompt", "instruction", "question", "input") if n in fields), None
        )
        for person, value in given:
            context = {"person": person, "group": with_.get(row, "group")}
            if isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
                order = [(fields.get(one.get("value")), _minus(one.get("rank"))) for one in value]
                yield from with_.pairs(at, prompt, order, context)
            elif sides is None:
                with_.bad.add(at, "the record's fields are no two answers we know by name", ", ".join(fields))
            else:
                yield from _judged(at, value, prompt, fields, sides, context, with_)


def _minus(value: object) -> float | None:
    rank = number(value)
    return None if rank is None else -rank


def _argilla_answers(responses: object) -> Iterator[tuple[Any, Any]]:
    """(user, value) of Argilla 2 (question -> list) and of Argilla 1 (list of responses with values)."""
    if isinstance(responses, Mapping):
        for answers in responses.values():
            for one in answers if isinstance(answers, list) else []:
                if isinstance(one, Mapping) and one.get("status", "submitted") == "submitted":
                    yield one.get("user_id"), one.get("value")
            return  # the first question is the one about the answers
    for one in responses if isinstance(responses, list) else []:
        values = one.get("values") if isinstance(one, Mapping) else None
        if isinstance(values, Mapping) and one.get("status", "submitted") == "submitted":
            first = next(iter(values.values()), None)
            yield one.get("user_id"), first.get("value") if isinstance(first, Mapping) else first


def oasst_rows(rows: Iterable[Placed], with_: Folding) -> Iterator[Placed]:
    """Messages, one a row, with `parent_id` and, for replies of the assistant, `rank` (0 is best)."""
    messages: dict[str, Mapping[str, Any]] = {}
    replies: defaultdict[str, list[tuple[str, Mapping[str, Any]]]] = defaultdict(list)
    for at, row in rows:
        if not isinstance(row.get("message_id"), str) or not isinstance(row.get("text"), str):
            with_.bad.add(at, "a message without message_id or text")
            continue
        messages[row["message_id"]] = row
        if row.get("role") == "assistant" and isinstance(row.get("parent_id"), str):
            replies[row["parent_id"]].append((at, row))
    for parent, answers in replies.items():
        talk: list[Turn] = []
        above: str | None = parent
        seen: set[str] = set()
        while above in messages and above not in seen:
            seen.add(above)
            message = messages[above]
            talk.append(("assistant" if message.get("role") == "assistant" else "user", message["text"]))
            above = message.get("parent_id")
        if not talk:
            with_.left_out["replies to a message that is not in the file"] += len(answers)
            continue
        at, first = answers[0]
        order = [(row["text"], _minus(row.get("rank"))) for _, row in answers]
        yield from with_.pairs(at, render(talk[::-1]), order, {"group": with_.get(first, "group")})


def oasst_trees(rows: Iterable[Placed], with_: Folding) -> Iterator[Placed]:
    """Trees: `prompt` is a message with `replies`, and so on."""
    for at, row in rows:
        waiting: list[tuple[Any, list[Turn]]] = [(row.get("prompt"), [])]
        while waiting:
            message, before = waiting.pop()
            if not isinstance(message, Mapping) or not isinstance(message.get("text"), str):
                with_.bad.add(at, "a message without a text")
                continue
            role = "assistant" if message.get("role") == "assistant" else "user"
            talk: list[Turn] = [*before, (role, message["text"])]
            below = _entries(message.get("replies"))
            waiting += [(one, talk) for one in below]
            if role == "user" and below:
                order = [(one.get("text"), _minus(one.get("rank"))) for one in below]
                yield from with_.pairs(at, render(talk), order, {"group": with_.get(row, "group")})


def prism_conversations(rows: Iterable[Placed], with_: Folding) -> Iterator[Placed]:
    """PRISM's other table: a row is a conversation, its turns stand in `conversation_history`."""
    for at, row in rows:
        turns: defaultdict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for message in _entries(row.get("conversation_history")):
            turn = number(message.get("turn"))
            if turn is None:
                with_.bad.add(at, "a message of the conversation has no turn")
                break
            turns[int(turn)].append(message)
        before: list[Turn] = []
        for turn_number in sorted(turns):
            asked = [m["content"] for m in turns[turn_number] if m.get("role") == "user"]
            said = [m for m in turns[turn_number] if m.get("role") == "model"]
            best = [m for m in said if truth(m.get("if_chosen"))]
            if len(best) != 1 or len(asked) != 1:
                with_.left_out["turns without exactly one chosen answer, and the turns after them"] += 1
                break
            before.append(("user", str(asked[0])))
            for other in said:
                if other is best[0]:
                    continue
                high, low = number(best[0].get("score")), number(other.get("score"))
                if high is not None and low is not None and high <= low:
                    with_.left_out["answers scored as high as the chosen one"] += 1
                    continue
                yield (
                    at,
                    {
                        "prompt": render(before),
                        "chosen": best[0].get("content"),
                        "rejected": other.get("content"),
                        **with_.context(row),
                    },
                )
            before.append(("assistant", str(best[0].get("content"))))


def community_alignment(rows: Iterable[Placed], with_: Folding) -> Iterator[Placed]:
    """Four answers a turn, of which the annotator preferred one; later turns go on from it."""
    for at, row in rows:
        before: list[Turn] = []
        for turn in ("first", "second", "third", "fourth"):
            asked, preferred = row.get(f"{turn}_turn_prompt"), row.get(f"{turn}_turn_preferred_response")
            if absent(asked) or absent(preferred):
                if turn == "first":
                    with_.left_out[UNDECIDED] += 1
                break
            answers = {side: row.get(f"{turn}_turn_response_{side}") for side in "abcd"}
            side = str(preferred).strip().lower()[-1:]
            if absent(answers.get(side)):
                with_.bad.add(
                    at, f"{turn}_turn_preferred_response names no answer of the row", str(preferred)
                )
                break
            before.append(("user", str(asked)))
            for other, text in answers.items():
                if other != side and not absent(text):
                    yield (
                        at,
                        {
                            "prompt": render(before),
                            "chosen": answers[side],
                            "rejected": text,
                            **with_.context(row),
                        },
                    )
            before.append(("assistant", str(answers[side])))


_LEVELS = re.compile(r"[A-Za-z0-9]+(?:\s*=\s*[A-Za-z0-9]+)*(?:\s*>\s*[A-Za-z0-9]+(?:\s*=\s*[A-Za-z0-9]+)*)*")


def collective_alignment(rows: Iterable[Placed], with_: Folding) -> Iterator[Placed]:
    """Rankings such as ``A>B=C>D`` of several annotators; for taste `personal` where there is one."""
    for at, row in rows:
        texts = {
            str(one.get("response_index")): one.get("messages", one.get("content"))
            for one in _entries(row.get("responses"))
        }
        for judged in _entries(find(row, "metadata.assessments")):
            blocks = judged.get("ranking_blocks")
            blocks = blocks if isinstance(blocks, Mapping) else {}
            wanted = ("personal", "world") if with_.tag == "taste" else ("world", "personal")
            rankings = [one.get("ranking") for name in wanted for one in _entries(blocks.get(name))]
            ranking = next((one for one in rankings if isinstance(one, str) and one.strip()), "")
            if not _LEVELS.fullmatch(ranking.strip()):
                with_.left_out[UNDECIDED] += 1
                continue
            order = [
                (texts.get(letter.strip()), float(-level))
                for level, same in enumerate(ranking.split(">"))
                for letter in same.split("=")
            ]
            yield from with_.pairs(
                at, find(row, "prompt.messages"), order, {"person": judged.get("annotator_id")}
            )
