"""Questions about a memory, made of its own words. Pure.

A model that has seen a text answers questions about it by reciting the sentence that the question is about,
if it has learnt which words lead to which sentence. So questions are made that look like people's: an
interrogative that goes with what the sentence holds (a date, a place, a name, a number), words that only this
sentence has, from the text or from a paraphrase, and the subject. Hardly any of them is good English; that
matters less than their variety.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from vllm_mega.text import sentences
from vllm_mega.training.recipe.english import English
from vllm_mega.training.recipe.recipe import Recipe


def distinctive_words(parts: Sequence[str], about: str, english: English) -> list[list[str]]:
    """For each of `parts`, the content words that neither another part nor `about` has.

    A part without such words has all its content words, or else all its words.
    """
    words = [english.content_words(part) for part in parts]
    known = _lower(english.content_words(about))
    distinctive = []
    for i, some in enumerate(words):
        taken = known.union(*(_lower(theirs) for j, theirs in enumerate(words) if j != i))
        distinctive.append([word for word in some if word.lower() not in taken] or some or parts[i].split())
    return distinctive


def _lower(words: Sequence[str]) -> set[str]:
    return {word.lower() for word in words}


class Questions:
    """An endless source of questions, each about one sentence of a text."""

    def __init__(
        self,
        parts: Sequence[str],
        subject: str,
        paraphrases: Sequence[str],
        chance: random.Random,
        recipe: Recipe,
    ) -> None:
        """`parts` are the sentences; `paraphrases` say the whole text in other words."""
        self._parts = parts
        self._subject = subject
        self._chance = chance
        self._rules = recipe.questions
        self._english = recipe.english
        self._kinds = [self._english.kinds(part) for part in parts]
        self._words = [[words] for words in distinctive_words(parts, subject, self._english)]
        for paraphrase in paraphrases:
            for sentence in sentences(paraphrase):
                self._learn(self._english.content_words(sentence))

    def _learn(self, words: Sequence[str]) -> None:
        """Other words for the sentence that has most of them; words of other sentences are left out."""
        own = [_lower(self._english.content_words(part)) for part in self._parts]
        told = _lower(words)
        best = max(range(len(own)), key=lambda n: len(own[n] & told))
        taken = _lower(self._english.content_words(self._subject)).union(*(own[:best] + own[best + 1 :]))
        new = [word for word in words if word.lower() not in taken]
        if new and own[best] & told:
            self._words[best].append(new)

    def about(self, n: int) -> str:
        """A question that sentence `n` answers."""
        chance, rules = self._chance, self._rules
        words = chance.choice(self._words[n])
        if chance.random() < rules.common:
            words = self._english.content_words(self._parts[n]) or words
        count = min(len(words), chance.choice(rules.counts))
        first = chance.randrange(len(words) - count + 1)
        places: Sequence[int] = range(first, first + count)
        if chance.random() < rules.scattered:
            places = sorted(chance.sample(range(len(words)), count))
        picked = [
            words[place].lower() if chance.random() < rules.lowered else words[place] for place in places
        ]
        frames: tuple[str, ...] = getattr(self._english.frames, chance.choice(self._kinds[n]))
        frame = chance.choice(frames)
        half = (count + 1) // 2 if "{v}" in frame else count
        asked = frame.format(s=self._subject, w=" ".join(picked[:half]), v=" ".join(picked[half:]))
        return " ".join(asked.split()).replace(" ?", "?")
