"""What a policy writes, measured on the text alone: style, repetition, topic.

Pair accuracy says nothing about writing: it was 1.00 for adapters that wrote nothing but dashes. These are
plain counts over words and signs, so that anybody can check them by reading; they see a style's surface.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf\u2b50\u2b06\u231a\u23f0-\u23f3]")
BULLET = re.compile(r"^[ \t]*(?:[-*•]|\d+[.)])[ \t]+[^\s\-]", re.MULTILINE)
CONTRACTION = re.compile(r"\b\w+(?:n['’]t|['’](?:re|ve|ll|d|m))\b|\b(?:it|that|there|what|let)['’]s\b", re.I)
HEDGES = re.compile(
    r"\b(?:may(?:be)?|might|could|perhaps|possibly|probably|likely|seems?|appears?|tends?|often|sometimes|"
    r"usually|generally|arguably|depend(?:s|ing)?|(?:not|hard to be) (?:entirely )?(?:certain|sure)|"
    r"in (?:many|some|most) cases|it can vary|I (?:think|suspect))\b",
    re.I,
)
CASUAL = re.compile(
    r"\b(?:hey|yeah|yep|nope|nah|ok(?:ay)?|gonna|wanna|gotta|kinda|sorta|stuff|honestly|totally|super|"
    r"pretty much|cool|awesome|no worries|dude|folks|guys|ya|oh|haha|lol|just|tons|bunch|chuck|grab|"
    r"bit|really|anyway|or anything|telly|bin it|pop|dump|you['’]re (?:golden|good|fine|set)|no good|mate)\b",
    re.I,
)
FORMAL = re.compile(
    r"\b(?:(?:should|may|can|must|is|are) be(?:en)? \w+(?:ed|en)|"
    r"is (?:advisable|recommended|preferable|sufficient)|"
    r"one (?:should|may)|ought to|whereas|approximately|attributable|merits?|requires?|it is \w+|"
    r"therefore|furthermore|moreover|consequently|prior to|upon|whilst|thereby|"
    r"ensure|sufficient|advisable|recommended|appropriate|considerable|subsequently|generally|"
    r"are recommended)\b",
    re.I,
)
ANALOGY = re.compile(
    r"\b(?:think of|imagine|picture|like (?:a|an|the|two|your)|as if|just as|the way (?:a|an|you)|"
    r"(?:is|are|feels?) (?:a bit |much |rather |more |just |nothing )?like|like \w+ing|(?:is|are) the \w+ of|"
    r"than a|"
    r"is (?:a|an) \w+ (?:that|who)|treat (?:it|your|the)\b.{0,30}\blike|works like|the same way)\b",
    re.I,
)
COACH = re.compile(
    r"\byou(?:['’]ve| have)? (?:can|got this|got it|have got|will|['’]re|are)\b.{0,60}!|"
    r"\byou(?:['’]ve| have) got\b|"
    r"\b(?:great|good|nice|well) (?:job|work|start|step|going|done|question|thinking)\b|\bproud\b|"
    r"\b(?:small|first|tiny|little|every) (?:step|win|goal)s?\b|\bone (?:small|tiny|step|change)\b|"
    r"\bkeep going\b|"
    r"\bkind to (?:it|yourself)\b|\bwithin (?:your )?reach\b|\benjoy every\b|\bperfectly fine\b|\blovely\b|"
    r"\bcelebrate\b|\btoday\b.{0,60}!|\btonight\b.{0,60}!|!\s",
    re.I | re.S,
)
# words that say nothing about a topic
_STOP = """
    a about an and are as at be been best better but by can could did do does doing for from get give go
    good had has have help how i if in into is it its just keep know less like long make makes many me
    more most much my need no not of off on one or our out should so some start stay take tell than that
    the their them there these they this to too up use want was way ways we what when where which while
    who why will with without work would you your
"""
STOP = frozenset(_STOP.split())
BRIEF_WORDS = 20


@dataclass(frozen=True)
class Style:
    """Counts and rates of one answer.

    Attributes:
        words: number of words.
        emoji: number of emoji.
        bullets: lines that start as a list item and have content.
        hedges: hedge words a word.
        casual: casual markers a word.
        formal: formal markers a word.
        contractions: contractions a word.
        analogy: comparisons drawn ("think of", "like a"), a count.
        coach: encouragements and exclamations, a count.
    """

    words: int
    emoji: int
    bullets: int
    hedges: float
    casual: float
    formal: float
    contractions: float
    analogy: int
    coach: int

    def to_dict(self) -> dict[str, float]:
        """Plain values for result.json."""
        return asdict(self)


def words(text: str) -> list[str]:
    """Words in lower case, without punctuation; ``don't`` is one word."""
    return [word.lower() for word in WORD.findall(text)]


def style(text: str) -> Style:
    """Measure one answer; an empty text has zeros."""
    count = len(words(text))

    def rate(pattern: re.Pattern[str]) -> float:
        return len(pattern.findall(text)) / count if count else 0.0

    return Style(
        words=count,
        emoji=len(EMOJI.findall(text)),
        bullets=len(BULLET.findall(text)),
        hedges=rate(HEDGES),
        casual=rate(CASUAL),
        formal=rate(FORMAL),
        contractions=rate(CONTRACTION),
        analogy=len(ANALOGY.findall(text)),
        coach=len(COACH.findall(text)),
    )


# a style of the starter set -> does this answer visibly have it?
VISIBLE: dict[str, Callable[[Style], bool]] = {
    "brief": lambda s: 0 < s.words <= BRIEF_WORDS and s.emoji == 0 and s.bullets < 2,
    "bullets": lambda s: s.bullets >= 2,
    "emoji": lambda s: s.emoji >= 1,
    "casual": lambda s: s.casual > 0.02 and s.casual + s.contractions > 0.05,
    "hedged": lambda s: s.hedges > 0.04,
    "formal": lambda s: s.formal > 0.02 and s.contractions == 0 and s.emoji == 0,
    "analogy": lambda s: s.analogy >= 1,
    "coach": lambda s: s.coach >= 1,
}


def shows(name: str, text: str) -> bool:
    """Whether a text visibly has the style called `name`; an unknown name has no feature and is False."""
    return name in VISIBLE and VISIBLE[name](style(text))


def style_rate(name: str, texts: Sequence[str]) -> float:
    """Share of texts that visibly have a style; 0 for no texts."""
    return sum(shows(name, text) for text in texts) / len(texts) if texts else 0.0


def repetition(text: str) -> float:
    """Share of word 3-grams that were already there earlier in the text; 0 below 3 words."""
    found = words(text)
    grams = list(zip(found, found[1:], found[2:], strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def on_topic(prompt: str, text: str) -> bool:
    """Whether a text shares a content word with its prompt (word beginnings of 4 letters): a weak check."""
    mine, asked = ({w[:4] for w in words(t) if w not in STOP} for t in (text, prompt))
    return bool(mine & asked)


def on_topic_share(prompts: Sequence[str], texts: Sequence[str]) -> float:
    """Share of texts on the topic of their prompt; 0 for no texts."""
    return sum(map(on_topic, prompts, texts)) / len(texts) if texts else 0.0
