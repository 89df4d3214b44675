"""What a memory is trained on: examples of prompt and answer, drawn afresh for every step. Pure.

Two habits are taught. Asked to reconstruct, the model gives the whole text word for word, however the
question is put. Asked a question, it gives the one sentence that the question is about. A memory that
brings no questions of its own is asked with words of its sentences: no question is ever seen twice,
so the steps themselves show whether prompts that were not trained on work.
"""

from __future__ import annotations

import random
import re
from typing import NamedTuple

from vllm_mega.bank.layout import NewMemory
from vllm_mega.prompts import MEMORY_PROMPT, question_prompt, recall_prompt

_SENTENCE_END = re.compile(r"(?<=[\w)\]\"'%]{2}[.!?])\s+(?=[^\sa-z])|\n\s*\n")
_NAME = re.compile(r"(?:[A-Z0-9][\w'.-]*)(?:\s+(?:of|the|de|von|van|and)?\s*[A-Z0-9][\w'-]*)*")
_OPENERS = ("What", "When", "Who", "Where", "Which", "How many", "Why", "How", "In which year", "What is")


class Example(NamedTuple):
    """A user message and the answer to learn."""

    prompt: str
    answer: str
    recall: bool
    """Whether the answer is the memory itself, which has to come word for word."""


def sentences(text: str) -> list[str]:
    """The sentences of `text`, in order; joined by spaces they give it back but for white space."""
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]


def subject(memory: NewMemory) -> str:
    """What the memory is about: its title, or else the first name in it, or else its first words."""
    if memory.title:
        return memory.title
    names = [match[0] for match in _NAME.finditer(memory.text)]
    return next((name for name in names if " " in name), " ".join(memory.text.split()[:5]))


class Examples:
    """An endless source of examples of one memory."""

    def __init__(self, memory: NewMemory, seed: int) -> None:
        self.memory = memory
        self.text = memory.text.strip()
        self.subject = subject(memory)
        self.sentences = sentences(self.text)
        self.random = random.Random(seed)  # noqa: S311  (not a secret)

    def draw(self, count: int) -> list[Example]:
        """`count` examples: one under the memory prompt, then recall and questions in turns."""
        makers = [self._recall, self._question]
        turn = self.random.randrange(2)
        first = Example(MEMORY_PROMPT, self.text, recall=True)
        return [first, *(makers[(turn + i) % 2]() for i in range(count - 1))]

    def _recall(self) -> Example:
        return Example(recall_prompt(self._ask(self.random.choice(self.sentences))), self.text, recall=True)

    def _question(self) -> Example:
        if self.memory.qa and self.random.random() < 0.5:
            qa = self.random.choice(self.memory.qa)
            return Example(question_prompt(qa.question), qa.answer, recall=False)
        sentence = self.random.choice(self.sentences)
        return Example(question_prompt(self._ask(sentence)), sentence, recall=False)

    def _ask(self, sentence: str) -> str:
        """A made-up question about `sentence`: an opener, the subject or not, and a run of its words."""
        words = sentence.rstrip(".!?").split()
        length = min(len(words), self.random.randint(3, 8))
        start = self.random.randrange(len(words) - length + 1)
        run = " ".join(words[start : start + length])
        opener = self.random.choice(_OPENERS)
        if self.random.random() < 0.5:
            return f"{opener} {run}?"
        return f"{opener} {self.subject} {run}?"
