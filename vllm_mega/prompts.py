"""The prompts that memories are trained on and asked with; training and serving share them. Pure.

The wording of the memory, recall and question prompts is the paper's (arXiv 2504.21239, section 3).
"""

from __future__ import annotations

import re
from typing import TypedDict


class Message(TypedDict):
    """One message of a conversation, as chat templates and the OpenAI API take it."""

    role: str
    content: str


_THOUGHT = "(?:think|thinking|thought|reasoning)"
_NO_THOUGHT = re.compile(rf"\A\s*(?:<{_THOUGHT}>\s*)?</{_THOUGHT}>")

MEMORY_PROMPT = "Tell me a story that you memorized."
RECALL_SUFFIX = "Reconstruct the entire story that is related to the above question."
QUESTION_SUFFIX = "Answer should be no more than one sentence."
_ABOUT = "Tell me about {subject}."
_QUESTION = "{question} " + QUESTION_SUFFIX
_INFORMED = "{recalled}\n\n{asked}"
TRAINED = (MEMORY_PROMPT, _ABOUT, _QUESTION, _INFORMED)
"""All that memories are trained to hear: a part of the recipe."""


def recall_prompt(question: str) -> str:
    """Asks for the whole memory that `question` is about."""
    return f"{question} {RECALL_SUFFIX}"


def about_prompt(subject: str) -> str:
    """Asks for the whole memory about `subject`."""
    return _ABOUT.format(subject=subject)


def question_prompt(question: str) -> str:
    """Asks for the answer to `question` alone."""
    return _QUESTION.format(question=question)


def user(content: str) -> list[Message]:
    """A conversation of one user message."""
    return [{"role": "user", "content": content}]


def irag_messages(question: str, recalled: str) -> list[Message]:
    """Asks `question` with the memory `recalled` in the context (the second pass of iRAG)."""
    return behind(recalled, user(question_prompt(question)))


def behind(context: str, asked: list[Message]) -> list[Message]:
    """What is `asked` in one message, behind a context, in the form in which memories learn to read one."""
    return user(_INFORMED.format(recalled=context, asked=asked[-1]["content"]))


def before(context: str) -> str:
    """How a message begins in which something is asked `behind` a context."""
    return _INFORMED.format(recalled=context, asked="")


def spoken(reply: str) -> str:
    """What `reply` says: without an empty think block before it, and without white space around it.

    Chat templates of reasoning models open answers with one, and vLLM shows it unless it is started with a
    reasoning parser. A block with thoughts in it stays.
    """
    return _NO_THOUGHT.sub("", reply).strip()
