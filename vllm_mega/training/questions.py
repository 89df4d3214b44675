"""Questions about a memory, made of its own words. Pure.

A model that has seen a text answers questions about it by reciting the sentence that the question is about,
if it has learnt which words lead to which sentence. So questions are made that look like people's: an
interrogative that goes with what the sentence holds (a date, a place, a name, a number), words that only this
sentence has, from the text or from a paraphrase, and the subject. Hardly any of them is good English; that
matters less than their variety.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from vllm_mega.text import sentences

_WORD = re.compile(r"\w[\w'.,-]*\w|\w")
_STOPWORDS = """a an and are as at be been but by for from had has have he her him his if in into is it its
nor not of on or our she so that the their them then they this to was we were which who will with you your"""
_IGNORED = frozenset(_STOPWORDS.split())

_NAME = r"[A-Z][\w'-]*"
_MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_DATE = re.compile(rf"\d\s+{_MONTH}\b|\b{_MONTH}\s+\d|\b[12]\d{{3}}\b")
_PLACE = re.compile(rf"\b(?:in|at|from|near|to|across)\s+(?:the\s+)?{_NAME}")
_AGENT = re.compile(rf"\b(?:by|with|under|against|of)\s+(?:the\s+)?{_NAME}|[a-z,;] {_NAME}")
_NUMBER = re.compile(
    r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|\w+teen|\w+ty|first|second|third|\w+th)\b"
)

_FRAMES: dict[str, tuple[str, ...]] = {
    "date": (
        "When was {s}?", "When was {s} {w}?", "When did {s} {w}?", "When {w} {s}?",
        "When did {s} take place?", "On which date was {s} {w}?", "On what date did {s} {w}?",
        "In which year was {s} {w}?", "What is the date of {s} {w}?", "What were the dates of {s}?",
    ),
    "place": (
        "Where was {s} held?", "Where did {s} take place?", "Where is {s} {w}?", "Where {w} {s}?",
        "Where did {s} {w}?", "In which city {w} {s}?", "In which country was {s} {w}?",
        "In what town did {s} {w}?", "Which place {w} {s}?",
    ),
    "agent": (
        "Who {w} {s}?", "Who was {w} of {s}?", "By whom was {s} {w}?", "Which {w} did {s} {v}?",
        "What is the name of {w} {s}?", "Which organization {w} {s}?", "Which team {w} {s}?",
        "For which {w} {s}?", "What {w} does {s} {v}?",
    ),
    "number": (
        "How many {w} {s}?", "How many {w} did {s} {v}?", "What number of {w} {s}?", "Which edition {w} {s}?",
        "How {w} {s}?", "What place {w} {s}?",
    ),
    "thing": (
        "What {w} {s}?", "What is {w} of {s}?", "What {w} did {s} {v}?", "Which {w} {s}?", "Why {w} {s}?",
        "What type of {w} {s}?", "What kind of {w} was {s} {v}?", "How did {s} {w}?", "What was {s} {w}?",
        "What did {s} {w}?", "As what {w} {s}?",
    ),
}  # fmt: skip
"""By what the sentence holds; {s} is the subject, {w} and {v} words of the sentence."""
_HOLDS = {"date": _DATE, "place": _PLACE, "agent": _AGENT, "number": _NUMBER}


def content_words(sentence: str) -> list[str]:
    """The words of `sentence` that say something, in order."""
    return [word for word in _WORD.findall(sentence) if word.lower() not in _IGNORED]


def distinctive_words(parts: Sequence[str], about: str) -> list[list[str]]:
    """For each of `parts`, the content words that neither another part nor `about` has.

    A part without such words has all its content words, or else all its words.
    """
    words = [content_words(part) for part in parts]
    known = _lower(content_words(about))
    found = []
    for i, some in enumerate(words):
        others = known.union(*(_lower(other) for j, other in enumerate(words) if j != i))
        found.append([word for word in some if word.lower() not in others] or some or parts[i].split())
    return found


def _lower(words: Sequence[str]) -> set[str]:
    return {word.lower() for word in words}


class Questions:
    """An endless source of questions, each about one sentence of a text."""

    def __init__(
        self, parts: Sequence[str], subject: str, paraphrases: Sequence[str], chance: random.Random
    ) -> None:
        """`parts` are the sentences; `paraphrases` say the whole text in other words."""
        self._parts = parts
        self._subject = subject
        self._chance = chance
        self._kinds = [
            [kind for kind, pattern in _HOLDS.items() if pattern.search(part)] + ["thing"] for part in parts
        ]
        self._words = [[words] for words in distinctive_words(parts, subject)]
        for paraphrase in paraphrases:
            for other in sentences(paraphrase):
                self._learn(content_words(other))

    def _learn(self, words: Sequence[str]) -> None:
        """Other words for the sentence that has most of them; words of other sentences are left out."""
        own = [_lower(content_words(part)) for part in self._parts]
        told = _lower(words)
        best = max(range(len(own)), key=lambda n: len(own[n] & told))
        others = _lower(content_words(self._subject)).union(*(own[:best] + own[best + 1 :]))
        new = [word for word in words if word.lower() not in others]
        if new and own[best] & told:
            self._words[best].append(new)

    def about(self, n: int) -> str:
        """A question that sentence `n` answers."""
        chance = self._chance
        words = chance.choice(self._words[n])
        if chance.random() < 0.3:
            words = content_words(self._parts[n]) or words
        count = min(len(words), chance.choice((1, 2, 2, 3, 3, 4, 5)))
        first = chance.randrange(len(words) - count + 1)
        places: Sequence[int] = range(first, first + count)
        if chance.random() < 0.5:
            places = sorted(chance.sample(range(len(words)), count))
        picked = [words[place].lower() if chance.random() < 0.5 else words[place] for place in places]
        frame = chance.choice(_FRAMES[chance.choice(self._kinds[n])])
        half = (count + 1) // 2 if "{v}" in frame else count
        asked = frame.format(s=self._subject, w=" ".join(picked[:half]), v=" ".join(picked[half:]))
        return " ".join(asked.split()).replace(" ?", "?")
