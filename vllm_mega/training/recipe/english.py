"""What of English the questions about a memory are made with; a part of the recipe. Pure."""

from __future__ import annotations

import re

import msgspec

_NAME = r"[A-Z][\w'-]*"
_MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"


class Frames(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Questions by what the sentence holds; {s} is the subject, {w} and {v} words of the sentence."""

    date: tuple[str, ...] = (
        "When was {s}?", "When was {s} {w}?", "When did {s} {w}?", "When {w} {s}?",
        "When did {s} take place?", "On which date was {s} {w}?", "On what date did {s} {w}?",
        "In which year was {s} {w}?", "What is the date of {s} {w}?", "What were the dates of {s}?",
    )  # fmt: skip
    place: tuple[str, ...] = (
        "Where was {s} held?", "Where did {s} take place?", "Where is {s} {w}?", "Where {w} {s}?",
        "Where did {s} {w}?", "In which city {w} {s}?", "In which country was {s} {w}?",
        "In what town did {s} {w}?", "Which place {w} {s}?",
    )  # fmt: skip
    agent: tuple[str, ...] = (
        "Who {w} {s}?", "Who was {w} of {s}?", "By whom was {s} {w}?", "Which {w} did {s} {v}?",
        "What is the name of {w} {s}?", "Which organization {w} {s}?", "Which team {w} {s}?",
        "For which {w} {s}?", "What {w} does {s} {v}?",
    )  # fmt: skip
    number: tuple[str, ...] = (
        "How many {w} {s}?", "How many {w} did {s} {v}?", "What number of {w} {s}?", "Which edition {w} {s}?",
        "How {w} {s}?", "What place {w} {s}?",
    )  # fmt: skip
    thing: tuple[str, ...] = (
        "What {w} {s}?", "What is {w} of {s}?", "What {w} did {s} {v}?", "Which {w} {s}?", "Why {w} {s}?",
        "What type of {w} {s}?", "What kind of {w} was {s} {v}?", "How did {s} {w}?", "What was {s} {w}?",
        "What did {s} {w}?", "As what {w} {s}?",
    )  # fmt: skip
    """Of every sentence."""


class English(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Words, names, and what a sentence may hold, as regular expressions."""

    word: str = r"\w[\w'.,-]*\w|\w"
    stopwords: str = (
        "a an and are as at be been but by for from had has have he her him his if in into is it its "
        "nor not of on or our she so that the their them then they this to was we were which who will with "
        "you your"
    )
    """Words that say nothing, in small letters."""
    name: str = r"(?:[A-Z0-9][\w'.-]*)(?:\s+(?:of|the|de|von|van|and)?\s*[A-Z0-9][\w'-]*)*"
    date: str = rf"\d\s+{_MONTH}\b|\b{_MONTH}\s+\d|\b[12]\d{{3}}\b"
    place: str = rf"\b(?:in|at|from|near|to|across)\s+(?:the\s+)?{_NAME}"
    agent: str = rf"\b(?:by|with|under|against|of)\s+(?:the\s+)?{_NAME}|[a-z,;] {_NAME}"
    number: str = (
        r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|\w+teen|\w+ty|first|second|third|\w+th)\b"
    )
    frames: Frames = Frames()

    def content_words(self, sentence: str) -> list[str]:
        """The words of `sentence` that say something, in order."""
        ignored = frozenset(self.stopwords.split())
        return [word for word in re.findall(self.word, sentence) if word.lower() not in ignored]

    def names(self, text: str) -> list[str]:
        """Names in `text`, in order: words with capitals, or numbers, and what may stand between them."""
        return [match[0] for match in re.finditer(self.name, text)]

    def kinds(self, sentence: str) -> list[str]:
        """What `sentence` holds: the names of the frames that go with it."""
        patterns = (
            ("date", self.date),
            ("place", self.place),
            ("agent", self.agent),
            ("number", self.number),
        )
        return [*(kind for kind, pattern in patterns if re.search(pattern, sentence)), "thing"]
