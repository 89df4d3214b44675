"""What an evaluation found: report.json, and the same for people as report.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from vllm_mega.output import write_json, write_whole

PAPER = {"base": 8.17, "rag_top1": 88.83, "direct": 78.03, "irag": 84.70}
"""Strict QA in per cent on Wiki 2024, Llama-3.1-8B-Instruct (arXiv 2504.21239, table 1)."""
NAMES = {
    "base": "base model",
    "rag_top1": "RAG, best text in the context",
    "rag_top3": "RAG, best three",
    "direct": "memories, direct",
    "irag": "memories, irag (recall, then answer)",
    "top1_adapter": "best memory alone, no mixing",
}


class Way(msgspec.Struct, frozen=True):
    """One way of answering."""

    strict: float
    lenient: float
    tokens: float
    """Of an answer, on average."""
    answers: list[str]


class Gate(msgspec.Struct, frozen=True):
    """The right memory among all."""

    questions: int
    top1: float
    mrr: float
    closed: float
    """Questions whose best score is below the threshold: the base model answers them."""


class Recall(msgspec.Struct, frozen=True):
    """Memories, reconstructed."""

    cosine: float
    exact: float


class NullRoute(msgspec.Struct, frozen=True):
    """Prompts that no memory is about."""

    prompts: int
    opened: float
    """Share for which a memory was used nevertheless."""
    identical: bool
    """Whether all others got the very tokens of the base model."""
    opened_prompts: list[str]


class Cost(msgspec.Struct, frozen=True):
    """What a memory costs."""

    seconds_per_memory: float
    bytes_per_memory: float
    share_of_base: float


class Report(msgspec.Struct, frozen=True):
    """All of it."""

    model: str
    embedder: str
    n_memories: int
    ways: dict[str, Way]
    gate: Gate
    recall: Recall
    null_route: NullRoute | None
    """None: no unrelated prompts were given."""
    cost: Cost

    def figures(self) -> dict[str, Any]:
        """What report.json says: the strict rates as `qa`, the lenient ones as `qa_lenient`."""
        rest = msgspec.to_builtins(self)
        ways = rest.pop("ways")
        return {
            **rest,
            "qa": {name: way["strict"] for name, way in ways.items()},
            "qa_lenient": {name: way["lenient"] for name, way in ways.items()},
            "tokens_per_answer": {name: way["tokens"] for name, way in ways.items()},
        }

    def markdown(self) -> str:
        """For people."""
        rows = []
        for name, way in self.ways.items():
            paper = f"{PAPER[name]:.1f}" if name in PAPER else ""
            strict, lenient = f"{100 * way.strict:.1f}", f"{100 * way.lenient:.1f}"
            rows.append(f"| {NAMES[name]} | {strict} | {lenient} | {way.tokens:.0f} | {paper} |")
        null = self.null_route
        lines = [
            f"# {self.n_memories} memories, {self.model}",
            "",
            f"Embedder of the gate: {self.embedder}. All figures are of this run.",
            "",
            "| QA, % | one sentence | contained | tokens an answer | paper (Llama-3.1-8B, another model) |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
            f"- Recall: cosine {self.recall.cosine:.3f}, word for word {100 * self.recall.exact:.1f} %.",
            f"- Gate: the right memory first for {100 * self.gate.top1:.1f} % of {self.gate.questions} "
            f"questions (MRR {self.gate.mrr:.3f}); {100 * self.gate.closed:.1f} % stay below the threshold.",
            f"- A memory: {self.cost.seconds_per_memory:.1f} s to train, "
            f"{self.cost.bytes_per_memory:,.0f} bytes "
            f"({100 * self.cost.share_of_base:.2f} % of the base model).",
        ]
        if null is not None:
            same = "identical to the base model's" if null.identical else "NOT identical to the base model's"
            lines.append(
                f"- Null route: opened for {100 * null.opened:.1f} % of {null.prompts} unrelated prompts; "
                f"answers to the others are {same}."
            )
            lines += [f"  - opened: {prompt}" for prompt in null.opened_prompts]
        return "\n".join([*lines, ""])


def write(report: Report, questions: list[dict[str, Any]], folder: Path) -> None:
    """Write report.json, report.md and answers.jsonl (every answer to every question) into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    answers = [
        {**question, "answers": {name: way.answers[n] for name, way in report.ways.items()}}
        for n, question in enumerate(questions)
    ]
    write_whole(folder / "answers.jsonl", b"".join(msgspec.json.encode(line) + b"\n" for line in answers))
    write_whole(folder / "report.md", report.markdown().encode())
    write_json(folder / "report.json", report.figures())
