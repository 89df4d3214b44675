"""What the demo shows a person."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from vllm_mega.demo.checks import Asked, Recalled, Reply, Unrelated


def questions(asked: Sequence[Asked]) -> Table:
    """Question, every way's answer, memories and weights."""
    table = _table("Questions about the memories", "asked", "answer", "memories (weight)")
    for question in asked:
        table.add_row("", f"[bold]{escape(question.question)}[/] [dim]({escape(question.answer)})[/]")
        table.add_row(
            "base", _marked(_short(question.base.text), question.fine(question.base)), memories(question.base)
        )
        table.add_row(
            "direct", _marked(question.direct.text, question.fine(question.direct)), memories(question.direct)
        )
        table.add_row(
            "irag",
            _marked(question.irag.text, question.fine(question.irag)),
            memories(question.irag),
            end_section=True,
        )
    return table


def recalls(recalled: Sequence[Recalled]) -> Table:
    """Memory, and what the weights gave back."""
    table = _table("Every memory, reconstructed from the weights alone", "recalled text", "memories (weight)")
    for recall in recalled:
        table.add_row(f"[bold]{escape(recall.title)}[/]")
        table.add_row(_marked(recall.reply.text, recall.exact), memories(recall.reply), end_section=True)
    return table


def unrelated(prompts: Sequence[Unrelated]) -> Table:
    """Prompt, answer of the model with memory, whether the base model gives the same tokens."""
    table = _table(
        "Prompts that no memory is about: the base model, untouched",
        "answer with memory on",
        "memories (weight)",
        "equal tokens",
    )
    for prompt in prompts:
        same = f"{len(prompt.mega.token_ids)} of {len(prompt.base.token_ids)}" if prompt.identical else "NO"
        table.add_row(f"[bold]{escape(prompt.prompt)}[/]")
        table.add_row(
            _marked(_short(prompt.mega.text), prompt.identical), memories(prompt.mega), same, end_section=True
        )
    return table


def memories(reply: Reply) -> str:
    """The memories behind a reply, a line each with its weight."""
    return "\n".join(f"{escape(title)} ({weight:.2f})" for title, weight in reply.memories) or "none"


def _table(title: str, *headings: str) -> Table:
    return Table(*headings, title=title, title_justify="left", expand=True)


def _short(text: str) -> str:
    return textwrap.shorten(text, 100, placeholder=" ...")


def _marked(text: str, fine: bool) -> str:
    return f"[{'green' if fine else 'red'}]{'+' if fine else '-'}[/] {escape(text)}"
