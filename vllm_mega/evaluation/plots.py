"""The report's plots, drawn with matplotlib: bytes of SVG and PNG, no files, no screen."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from vllm_mega.errors import ConfigError
from vllm_mega.evaluation import paper
from vllm_mega.evaluation.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS, OTHER, RAG, JOINT, GREY, INK = "#1f6fb2", "#d1495b", "#b7791f", "#3d8b6d", "#8a94a3", "#3b4554"
POINTS = (
    ("direct", "o", OURS, "memories, direct"),
    ("irag", "D", OURS, "memories, irag"),
    ("joint_lora", "s", JOINT, "one LoRA, all at once"),
    ("sequential_lora", "s", OTHER, "one LoRA, in turn"),
)
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#b8c0cc",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "grid.color": "#e8ecf1",
    "legend.frameon": False,
    "svg.hashsalt": "vllm_mega",  # the same figures give the same bytes
    "xtick.color": "#5c6675",
    "ytick.color": "#5c6675",
}


class Plot(NamedTuple):
    """A picture and what it shows."""

    name: str
    """Of its files, without ending."""
    caption: str
    svg: bytes
    png: bytes


def require_matplotlib() -> None:
    """Say now, not after an hour of training, that matplotlib is missing.

    Raises:
        ConfigError: it is.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"the report has plots, and matplotlib cannot be imported ({error}): "
            "pip install 'vllm-mega[eval]'"
        ) from error


def draw(report: Report) -> dict[str, Plot]:
    """All plots of a report, by name."""
    drawings: list[tuple[str, str, Callable[[Axes, Report], None]]] = [
        (
            "forgetting",
            "Recall of what was learnt first, after other memories have been learnt.",
            _forgetting,
        ),
        (
            "scores",
            "What the gate sees: scores of the right memory, the best wrong one, and unrelated prompts.",
            _scores,
        ),
        (
            "bytes",
            "Quality against the bytes of a memory: answers of one sentence; lines reach up to longer ones. "
            "Hollow: the paper's figures, another model.",
            _bytes,
        ),
    ]
    return {name: _drawn(name, caption, report, into) for name, caption, into in drawings}


def _drawn(name: str, caption: str, report: Report, into: Callable[[Axes, Report], None]) -> Plot:
    return Plot(name, caption, **pictures(lambda axes: into(axes, report)))


def pictures(into: Callable[[Axes], None]) -> dict[str, bytes]:
    """What `into` draws, as "svg" and as "png"."""
    with _axes() as (axes, save):
        into(axes)
        return {kind: save(kind) for kind in ("svg", "png")}


@contextmanager
def _axes() -> Iterator[tuple[Axes, Callable[[str], bytes]]]:
    """Axes to draw into, and what saves them; leaves matplotlib's own settings alone."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")  # without pyplot: no screen is looked for

        def save(kind: str) -> bytes:
            out = io.BytesIO()
            figure.savefig(out, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)
            return out.getvalue()

        yield figure.add_subplot(), save


def _forgetting(axes: Axes, report: Report) -> None:
    curve = report.forgetting
    x = range(len(curve))  # counts grow too fast for a linear axis, and begin with 0
    axes.plot(x, [point.recall_cosine for point in curve], "o-", color=OURS, label="memories (this run)")
    known = [
        (i, point.sequential_lora_cosine)
        for i, point in enumerate(curve)
        if point.sequential_lora_cosine is not None
    ]
    if known:
        axes.plot(*zip(*known, strict=True), "s-", color=OTHER, label="one LoRA, memory after memory")
    if "base" in report.recall:
        base = report.recall["base"].cosine
        axes.axhline(base, color=GREY, linestyle="--", label="base model, never told")
    axes.set_xticks(list(x), [str(point.after) for point in curve])
    axes.set_xlabel("other memories learnt")
    axes.set_ylabel("recall, cosine")
    axes.set_ylim(0, 1.04)
    axes.legend(loc="lower left")


def _scores(axes: Axes, report: Report) -> None:
    gate, null = report.gate, report.null_route
    shown = [
        ("right memory", gate.right_scores, OURS),
        ("best wrong memory", gate.wrong_scores, RAG),
        ("unrelated prompt, best memory", null.scores if null else [], OTHER),
    ]
    shown = [histogram for histogram in shown if histogram[1]]
    low = min([0.0, *(score for _, scores, _ in shown for score in scores)])
    for label, scores, color in shown:
        shares = [1 / len(scores)] * len(scores)
        axes.hist(scores, bins=30, range=(low, 1), weights=shares, color=color, alpha=0.65, label=label)
    threshold = report.settings.get("gate", {}).get("threshold")
    if threshold is not None:
        axes.axvline(threshold, color=INK, linestyle=":", label=f"threshold {threshold:g}")
    axes.set_xlabel("score (cosine)")
    axes.set_ylabel("share")
    axes.legend(loc="upper right")


def _bytes(axes: Axes, report: Report) -> None:
    ways, cost = report.ways, report.cost
    shares = {"direct": cost.share_of_base, "irag": cost.share_of_base}
    for name, baseline in cost.baselines.items():
        shares[name] = cost.share_of_base * baseline.bytes / report.n_memories / cost.bytes_per_memory
    for name, marker, color, label in POINTS:
        if name in ways and name in shares:
            x, low, high = 100 * shares[name], 100 * ways[name].strict, 100 * ways[name].lenient
            axes.plot([x, x], [low, high], "-", color=color, linewidth=1)
            axes.plot(x, low, marker, color=color, label=label, linestyle="none", markersize=8)
    axes.axhline(100 * ways["rag_top1"].strict, color=RAG, linestyle="--", label="RAG, best text")
    axes.axhline(100 * ways["base"].strict, color=GREY, linestyle=":", label="base model")
    for name, marker in (("direct", "o"), ("irag", "D")):
        row = paper.WIKI[name]
        hollow: dict[str, Any] = {"color": INK, "fillstyle": "none", "linestyle": "none"}
        axes.plot(100 * paper.SHARE_OF_BASE, row.qa, marker, label=f"paper, {row.name} (8B)", **hollow)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("bytes a memory, % of the base model")
    axes.set_ylabel("right answers, %")
    axes.set_ylim(-3, 106)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
