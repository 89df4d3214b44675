"""What the demo shows a person."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from vllm_mega.demo.checks import Asked, Recalled, Reply, Unrelated


def questions(asked: Sequence[Asked]) -> Table:
    """Question, every way's answer, memories and weights."""
    table = _table("Questions about the memories: base model, with memory, with irag (recall, then answer)")
    for heading in ("question", "asked", "answer", "memories used"):
        table.add_column(heading, overflow="fold")
    for one in asked:
        question = f"{escape(one.question)}\n[dim]expected: {escape(one.answer)}[/dim]"
        for way, reply in (("base", one.base), ("direct", one.direct), ("irag", one.irag)):
            table.add_row(question, way, _marked(reply.text, one.fine(reply)), memories(reply))
            question = ""
        table.add_section()
    return table


def recalls(recalled: Sequence[Recalled]) -> Table:
    """Memory, and what the weights gave back."""
    table = _table("Every memory, reconstructed from the weights alone")
    for heading in ("memory", "recalled text", "memories used"):
        table.add_column(heading, overflow="fold")
    for one in recalled:
        table.add_row(
            escape(one.title), _marked(one.reply.text, one.exact), memories(one.reply), end_section=True
        )
    return table


def unrelated(prompts: Sequence[Unrelated]) -> Table:
    """Prompt, answer of the model with memory, whether the base model gives the same tokens."""
    table = _table("Prompts that no memory is about: the base model, untouched")
    for heading in ("prompt", "answer with memory on", "memories used", "tokens equal"):
        table.add_column(heading, overflow="fold")
    for one in prompts:
        same = f"{len(one.mega.token_ids)} of {len(one.base.token_ids)}" if one.identical else "NO"
        table.add_row(
            escape(one.prompt),
            _marked(one.mega.text, one.identical),
            memories(one.mega),
            same,
            end_section=True,
        )
    return table


def memories(reply: Reply) -> str:
    """The memories behind a reply, a line each with its weight."""
    return "\n".join(f"{escape(title)} ({weight:.2f})" for title, weight in reply.memories) or "none"


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", expand=True)


def _marked(text: str, fine: bool) -> str:
    return f"[{'green' if fine else 'red'}]{'+' if fine else '-'} {escape(text)}[/]"
