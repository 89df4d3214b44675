"""What a memory is trained on: examples of prompt and answer, drawn afresh for every step. Pure.

Asked to reconstruct, the model gives the whole text word for word, however the question is put. Asked a
question, it gives the short answer where the memory brings questions of its own, and else the whole text
too, which holds the answer. (Trained to answer with the one right sentence, SmolLM2-135M picked it for 11
of the demo's 18 questions, and needed twice the steps; the recited text holds the answer to all 18.)
Made-up questions consist of words that only one sentence has; hardly one comes twice, so each step also
shows whether prompts that were not trained on are answered.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from vllm_mega.bank.layout import NewMemory
from vllm_mega.prompts import MEMORY_PROMPT, Message, irag_messages, question_prompt, recall_prompt, user

# Not after an initial or a short title ("J.", "Dr."), nor before a small letter.
_SENTENCE_END = re.compile(
    r"(?:(?<=[.!?])|(?<=[.!?][\"')\]]))(?<!\b[A-Z]\.)(?<!\b[A-Z][a-z]\.)\s+(?=[^\sa-z])|\n\s*\n"
)
_NAME = re.compile(r"(?:[A-Z0-9][\w'.-]*)(?:\s+(?:of|the|de|von|van|and)?\s*[A-Z0-9][\w'-]*)*")
_WORD = re.compile(r"\w[\w'.,-]*\w|\w")
_STOPWORDS = """a an and are as at be been but by for from had has have he her him his if in into is it its
nor not of on or our she so that the their them then they this to was we were which who will with you your"""
_IGNORED = frozenset(_STOPWORDS.split())
_OPENERS = ("What", "Who", "Where", "Which", "Why", "How", "What is", "Tell me:")
_NUMBER_OPENERS = ("When", "How many", "In which year", "On which date")


RETELL_PROMPT = "Tell me in other words what you memorized about {subject}."
REORDER_PROMPT = "Tell me in another order what you memorized about {subject}."

RETELL_RATE = 0.1
"""Of the examples that are no recall."""

Kind = Literal["recall", "question", "retelling"]


class Example(NamedTuple):
    """A conversation and the answer to learn."""

    messages: list[Message]
    answer: str
    kind: Kind
    """What is learnt: the memory word for word, an answer, or one of many ways to tell it again."""


def sentences(text: str) -> list[str]:
    """The sentences of `text`, in order; joined by spaces they give it back but for white space."""
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]


def subject(memory: NewMemory) -> str:
    """What the memory is about: its title, or else the first name in it, or else its first words."""
    if memory.title:
        return memory.title
    names = [match[0] for match in _NAME.finditer(memory.text)]
    return next((name for name in names if " " in name), " ".join(memory.text.split()[:5]))


def content_words(sentence: str) -> list[str]:
    """The words of `sentence` that say something, in order."""
    return [word for word in _WORD.findall(sentence) if word.lower() not in _IGNORED]


def distinctive_words(parts: Sequence[str], about: str) -> list[list[str]]:
    """For each of `parts`, the content words that neither another part nor `about` has.

    A part without such words has all its content words, or else all its words.
    """
    words = [content_words(part) for part in parts]
    lower = [{word.lower() for word in some} for some in words]
    known = {word.lower() for word in content_words(about)}
    found = []
    for i, some in enumerate(words):
        others = known.union(*(other for j, other in enumerate(lower) if j != i))
        found.append([word for word in some if word.lower() not in others] or some or parts[i].split())
    return found


class Examples:
    """An endless source of examples of one memory."""

    def __init__(self, memory: NewMemory, seed: int) -> None:
        self.memory = memory
        self.text = memory.text.strip()
        self.subject = subject(memory)
        self.sentences = sentences(self.text)
        self.words = distinctive_words(self.sentences, self.subject)
        self.random = random.Random(seed)  # noqa: S311  (not a secret)

    def draw(self, count: int) -> list[Example]:
        """`count` examples: a third ask for the whole text, the others are questions or retellings."""
        recalls = max(1, count // 3)
        return [self._recall() for _ in range(recalls)] + [self._other() for _ in range(count - recalls)]

    def _recall(self) -> Example:
        way = self.random.random()
        if way < 0.25:
            prompt = MEMORY_PROMPT
        elif way < 0.4:
            prompt = recall_prompt(f"What do you know about {self.subject}?")
        elif self.memory.qa and way < 0.7:
            prompt = recall_prompt(self.random.choice(self.memory.qa).question)
        else:
            prompt = recall_prompt(self._made_up(self.random.choice(self.words)))
        return Example(user(prompt), self.text, "recall")

    def _other(self) -> Example:
        retold = bool(self.memory.paraphrases) or len(self.sentences) > 1
        return self._retelling() if retold and self.random.random() < RETELL_RATE else self._question()

    def _retelling(self) -> Example:
        if self.memory.paraphrases:
            prompt, answer = RETELL_PROMPT, self.random.choice(self.memory.paraphrases).strip()
        else:
            order = self.random.sample(self.sentences, len(self.sentences))
            prompt, answer = REORDER_PROMPT, " ".join(order)
        return Example(user(prompt.format(subject=self.subject)), answer, "retelling")

    def _question(self) -> Example:
        if self.memory.qa and self.random.random() < 0.5:
            qa = self.random.choice(self.memory.qa)
            question, answer = qa.question, qa.answer
        else:
            question, answer = self._made_up(self.random.choice(self.words)), self.text
        way = self.random.randrange(5)
        if way == 0:
            return Example(irag_messages(question, self.text), answer, "question")
        return Example(user(question if way <= 2 else question_prompt(question)), answer, "question")

    def _made_up(self, words: Sequence[str]) -> str:
        """A question about a sentence with these `words`: an opener, some of them, mostly the subject."""
        openers = _OPENERS + (_NUMBER_OPENERS if any(c.isdigit() for word in words for c in word) else ())
        picked = sorted(self.random.sample(range(len(words)), min(len(words), self.random.randint(1, 4))))
        asked = " ".join(words[n] for n in picked)
        if self.random.random() < 0.5:
            asked = asked.lower()
        parts = self.random.choice(
            ([asked], [self.subject, asked], [asked, self.subject], [self.subject, asked])
        )
        return " ".join([self.random.choice(openers), *parts]) + "?"
