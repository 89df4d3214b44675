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
    for one in asked:
        table.add_row("", f"[bold]{escape(one.question)}[/] [dim]({escape(one.answer)})[/]")
        table.add_row("base", _marked(_short(one.base.text), one.fine(one.base)), memories(one.base))
        table.add_row("direct", _marked(one.direct.text, one.fine(one.direct)), memories(one.direct))
        table.add_row(
            "irag", _marked(one.irag.text, one.fine(one.irag)), memories(one.irag), end_section=True
        )
    return table


def recalls(recalled: Sequence[Recalled]) -> Table:
    """Memory, and what the weights gave back."""
    table = _table("Every memory, reconstructed from the weights alone", "recalled text", "memories (weight)")
    for one in recalled:
        table.add_row(f"[bold]{escape(one.title)}[/]")
        table.add_row(_marked(one.reply.text, one.exact), memories(one.reply), end_section=True)
    return table


def unrelated(prompts: Sequence[Unrelated]) -> Table:
    """Prompt, answer of the model with memory, whether the base model gives the same tokens."""
    table = _table(
        "Prompts that no memory is about: the base model, untouched",
        "answer with memory on",
        "memories (weight)",
        "equal tokens",
    )
    for one in prompts:
        same = f"{len(one.mega.token_ids)} of {len(one.base.token_ids)}" if one.identical else "NO"
        table.add_row(f"[bold]{escape(one.prompt)}[/]")
        table.add_row(
            _marked(_short(one.mega.text), one.identical), memories(one.mega), same, end_section=True
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
