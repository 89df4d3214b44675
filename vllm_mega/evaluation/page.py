"""The report for people: which figures stand where. Pure; `render` makes Markdown and HTML of it."""

from __future__ import annotations

from collections.abc import Mapping

from vllm_mega.evaluation import paper
from vllm_mega.evaluation.plots import Plot
from vllm_mega.evaluation.render import Block, Heading, Points, Table, Tile, Tiles, Words
from vllm_mega.evaluation.report import NAMES, OURS, Report

MINE = {"direct", "irag", "text", "both", "top1_adapter", "gated", "forced"}
"""Ways that use memories."""
TABLE_1 = ("base", "rag_top1", "joint_lora", "sequential_lora", "direct", "irag")
GENERAL = {"direct": "gated", "irag": "gated", "rag_top1": "base"}
"""Whose general ability stands in a row of table 1: RAG leaves the model as it is."""


def title(report: Report) -> str:
    """The title of the page: how many memories, and of which model."""
    return f"{report.n_memories} memories, {report.model}"


def head(report: Report) -> list[Block]:
    """What matters most: also what a terminal shows."""
    return [
        Heading(title(report), 1),
        Words(
            f"Embedder of gate and RAG: {report.embedder}. All figures are of this run, through the engine, "
            "greedily, but for those marked as the paper's."
        ),
        Tiles(_tiles(report)),
        Heading("Beside the paper's table 1"),
        _table_1(report),
        Words(
            f"Paper: arXiv 2504.21239, {paper.MODEL} on Wiki 2024, 50 memories: ANOTHER MODEL, other texts, "
            "another judge and another embedder; its rows tell the order of methods, not what to reach here. "
            "General ability is MMLU there, the shipped questions here. Its all-at-once row is a full "
            "fine-tune; ours is one LoRA."
        ),
    ]


def page(report: Report, plots: Mapping[str, Plot]) -> list[Block]:
    """All of it; sections that were not measured are left out."""
    return [
        *head(report),
        *_questions(report),
        *_forgetting(report, plots),
        *_gate(report, plots),
        *_compositional(report),
        *_general(report),
        *_costs(report, plots),
        *_method(report),
    ]


def _tiles(report: Report) -> list[Tile]:
    ours, ways, null = report.recall[OURS], report.ways, report.null_route
    curve = report.forgetting
    tiles = [
        Tile(f"{ours.cosine:.3f}", "recall, cosine", f"{_percent(ours.exact)} % word for word"),
        Tile(
            f"{_percent(report.gate.top1)} %",
            "right memory first",
            f"of {report.n_memories}; MRR {report.gate.mrr:.3f}",
        ),
        Tile(
            f"{_percent(ways['irag'].strict)} %",
            "QA with irag, one sentence",
            f"direct {_percent(ways['direct'].strict)} %, RAG {_percent(ways['rag_top1'].strict)} %",
        ),
        Tile(
            f"{curve[-1].recall_cosine - curve[0].recall_cosine:+.3f}",
            "recall of the first",
            f"after {curve[-1].after} others",
        ),
    ]
    if null is not None:
        same = "identical to base" if null.identical else "NOT identical to base"
        tiles.append(Tile(f"{_percent(null.opened)} %", "opened for unrelated prompts", f"others {same}"))
    tiles.append(
        Tile(
            f"{100 * report.cost.share_of_base:.2g} %",
            "of the base model, a memory",
            f"{report.cost.seconds_per_memory:.1f} s to train",
        )
    )
    return tiles


def _table_1(report: Report) -> Table:
    columns = ["method", "QA %", "contained %", "recall cos", "general %"]
    columns += [f"paper (8B): {name}" for name in ("QA %", "recall cos", "MMLU %")]
    names = [name for name in TABLE_1 if name in report.ways]
    rows = []
    for name in names:
        way, row = report.ways[name], paper.WIKI[name]
        recall = report.recall.get(OURS if name == "irag" else name)
        general = report.general.get(GENERAL.get(name, name))
        rows.append(
            [
                NAMES[name],
                _percent(way.strict),
                _percent(way.lenient),
                f"{recall.cosine:.3f}" if recall else "",
                _percent(general.accuracy) if general else "",
                f"{row.qa:.1f}",
                f"{row.recall:.3f}",
                f"{row.general:.1f}",
            ]
        )
    return Table(columns, rows, _strong(names), range(5, 8))


def _questions(report: Report) -> list[Block]:
    judged = any(way.judge is not None for way in report.ways.values())
    columns = ["way", "one sentence %", "contained %", *(["judge %"] if judged else [])]
    columns += ["tokens an answer", "ms an answer"]
    rows = []
    for name, way in report.ways.items():
        judge = [_percent(way.judge or 0.0)] if judged else []
        ms = report.cost.latency_ms.get(name)
        rows.append(
            [
                NAMES[name],
                _percent(way.strict),
                _percent(way.lenient),
                *judge,
                f"{way.tokens:.0f}",
                "" if ms is None else f"{ms:.0f}",
            ]
        )
    return [
        Heading("Questions"),
        Words(
            f"{report.gate.questions} questions that no training saw, the same for all ways. Right is an "
            "answer that contains the gold answer (whole words, or an alias) and is at most one sentence; "
            "the rate without that limit stands beside it. Milliseconds: one request at a time, median."
        ),
        Table(columns, rows, _strong(list(report.ways))),
    ]


def _forgetting(report: Report, plots: Mapping[str, Plot]) -> list[Block]:
    rows = [
        [
            str(point.after),
            f"{point.recall_cosine:.3f}",
            _percent(point.exact),
            _percent(point.right),
            _maybe(point.sequential_lora_cosine),
            "" if point.sequential_lora_exact is None else _percent(point.sequential_lora_exact),
        ]
        for point in report.forgetting
    ]
    columns = ["others learnt", "recall cos", "exact %", "gate right %"]
    return [
        Heading("Forgetting"),
        Words(
            "The first memories (up to three, each as if it were the first), recalled when the gate knows k "
            "others too. Adapters are never changed, so only the gate can go wrong. Beside it one LoRA of a "
            "memory's shape, trained on one memory after the other and asked for the very first."
        ),
        *_plot(plots, "forgetting"),
        Table([*columns, "one LoRA: recall cos", "one LoRA: exact %"], rows),
    ]


def _gate(report: Report, plots: Mapping[str, Plot]) -> list[Block]:
    gate, null = report.gate, report.null_route
    points = [
        f"The right memory comes first for {_percent(gate.top1)} % of {gate.questions} questions (MRR "
        f"{gate.mrr:.3f}); {_percent(gate.closed)} % stay below the threshold. Paper: {paper.GATE} %."
    ]
    if null is not None:
        same = "identical to the base model's" if null.identical else "NOT identical to the base model's"
        points.append(
            f"Null route: opened for {_percent(null.opened)} % of {null.prompts} unrelated prompts; answers "
            f"to the others are {same}, token by token."
        )
        points += [f"opened: {prompt}" for prompt in null.opened_prompts]
    return [Heading("Gate and null route"), *_plot(plots, "scores"), Points(points)]


def _compositional(report: Report) -> list[Block]:
    both = report.compositional
    if both is None:
        return []
    rows = [
        [
            NAMES[name],
            _percent(way.strict),
            _percent(way.lenient),
            f"{way.tokens:.0f}",
            f"{paper.COMPOSITIONAL[name]:.1f}" if name in paper.COMPOSITIONAL else "",
        ]
        for name, way in both.ways.items()
    ]
    columns = ["way", "one sentence %", "contained %", "tokens an answer", "paper (8B): QA %"]
    return [
        Heading("Questions that need two memories"),
        Words(
            f"{both.questions} questions; both memories are in the mixture for "
            f"{_percent(both.both_found)} % of them."
        ),
        Table(columns, rows, _strong(list(both.ways)), (4,)),
    ]


def _general(report: Report) -> list[Block]:
    rows = [
        [
            NAMES[name],
            _percent(general.accuracy),
            f"{general.log_likelihood:.3f}",
            "" if general.opened is None else _percent(general.opened),
        ]
        for name, general in report.general.items()
    ]
    return [
        Heading("General ability"),
        Words(
            "Questions of general knowledge, answered by the option with the largest log-likelihood, and the "
            "log-likelihood of plain text. Through the gate, as requests come in; and with one memory after "
            "the other forced on, which no gate would do."
        ),
        Table(
            ["way", "right %", "plain text, nats a token", "gate opened %"],
            rows,
            _strong(list(report.general)),
        ),
    ]


def _costs(report: Report, plots: Mapping[str, Plot]) -> list[Block]:
    cost = report.cost
    n = report.n_memories
    rows = [
        [
            "memories, each its own adapter",
            f"{cost.seconds_per_memory:.1f}",
            f"{cost.bytes_per_memory:,.0f}",
            f"{100 * cost.share_of_base:.3g}",
        ]
    ]
    for name, baseline in cost.baselines.items():
        share = cost.share_of_base * baseline.bytes / n / cost.bytes_per_memory
        label = f"{NAMES[name]} (rank {baseline.rank}, {baseline.steps} steps, loss {baseline.loss:.2f})"
        rows.append(
            [label, f"{baseline.seconds / n:.1f}", f"{baseline.bytes / n:,.0f}", f"{100 * share:.3g}"]
        )
    paper_share = f"{100 * paper.SHARE_OF_BASE:.1f}"
    rows.append([f"paper, {paper.MODEL}: another model", "", f"{paper.BYTES:,}", paper_share])
    columns = ["a memory costs", "seconds", "bytes", "% of the base model"]
    return [
        Heading("Costs, and quality against bytes"),
        *_plot(plots, "bytes"),
        Table(columns, rows, (0,)),
    ]


def _method(report: Report) -> list[Block]:
    points = [
        "Every way gets the paper's prompt, greedily; RAG uses the gate's embedder and puts texts into the "
        "context of the base model.",
        "One LoRA, memory after memory: a memory's shape and recipe, as in the paper. One LoRA on all at "
        "once: the ranks and the steps of all memories together (rank 64 at most).",
        "Recall is the cosine of the same embedder between the recalled text and the memory, one recall a "
        "question.",
    ]
    points += [f"{name}: {_flat(value)}" for name, value in {**report.settings, **report.environment}.items()]
    return [Heading("How this was measured"), Points(points)]


def _plot(plots: Mapping[str, Plot], name: str) -> list[Block]:
    return [plots[name]] if name in plots else []


def _strong(names: list[str]) -> list[int]:
    return [n for n, name in enumerate(names) if name in MINE]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _maybe(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _flat(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_flat(inner)}" for name, inner in value.items())
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
