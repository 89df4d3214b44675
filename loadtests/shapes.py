"""Quality against the size of a memory: python -m loadtests.shapes --output out/shapes.json

The same memories are trained in adapters of several shapes, a namespace for each in one bank, and one engine
is asked about all of them: what is recalled, what is answered. The gate is left out, for it sees no adapter.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from loadtests.machine import Machine, default_dtype, this_machine
from loadtests.program import Add, Program, at_least
from vllm_mega.bank.catalog.records import Version
from vllm_mega.bank.library import Library
from vllm_mega.commands._eval_engine import Engine
from vllm_mega.commands.eval import EXAMPLES
from vllm_mega.config import GateSettings
from vllm_mega.errors import ConfigError
from vllm_mega.evaluation import data, plots, tasks
from vllm_mega.evaluation.model import OFF, How, Model, Reply, only
from vllm_mega.gate.embedder import Embedder, load_embedder
from vllm_mega.models import resolve_model, weight_bytes
from vllm_mega.output import write_whole
from vllm_mega.prompts import irag_messages, question_prompt, user
from vllm_mega.training.recipe.settings import AdapterDtype, TrainSettings
from vllm_mega.training.run.outcome import Trained
from vllm_mega.training.run.session import train

MLP = ("gate_proj", "up_proj", "down_proj")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
GROUPS = {"mlp": MLP, "attention": ATTENTION, "all": (*ATTENTION, *MLP)}


class Shape(msgspec.Struct, frozen=True):
    """Where an adapter acts, and of which rank."""

    rank: int
    layers: int
    modules: str
    """One of `GROUPS`, or names of linear layers with + between."""
    dtype: AdapterDtype = "bfloat16"

    @property
    def name(self) -> str:
        """For people, and as a namespace."""
        return f"r{self.rank}-l{self.layers}-{self.modules.replace('+', '-')}-{self.dtype}"

    @property
    def settings(self) -> TrainSettings:
        """The default training, in this shape."""
        modules = GROUPS.get(self.modules) or tuple(self.modules.split("+"))
        return TrainSettings(rank=self.rank, layers=self.layers, modules=modules, dtype=self.dtype)


SHAPES = (
    *(Shape(rank, 10, "mlp") for rank in (1, 2, 4, 8, 16)),
    *(Shape(rank, layers, "mlp") for rank, layers in ((4, 5), (8, 5), (2, 20), (4, 20))),
    Shape(4, 10, "attention"),
    Shape(4, 10, "all"),
    Shape(6, 10, "up_proj+down_proj"),
    Shape(12, 10, "down_proj"),
    Shape(4, 10, "mlp", "float32"),
)
"""Around the default one, with other ranks, depths, layers and types; several are of its size."""

RANKS = (10, "mlp", "bfloat16")
"""What the shapes in the plot's line have in common: they differ in rank alone."""


class Point(msgspec.Struct, frozen=True):
    """What adapters of one shape are worth."""

    shape: Shape
    bytes_per_memory: float
    share_of_base: float
    seconds_per_memory: float
    """Until the last memory of a round was done, by the memories of the round; the slowest round."""
    steps: float
    exact: float
    """Part of the memories that are recalled word for word."""
    recall_cosine: float
    direct: float
    """Part of the questions answered in one sentence."""
    irag: float


class Result(msgspec.Struct):
    """What the output file says."""

    machine: Machine
    memories: int
    questions: int
    rag: float
    """The base model with the right text in its context."""
    points: list[Point]


def shape(spec: str) -> Shape:
    """From the command line: RANK,LAYERS,MODULES[,DTYPE].

    Raises:
        ArgumentTypeError: it is not that.
    """
    parts = spec.split(",")
    if not 3 <= len(parts) <= 4:
        raise argparse.ArgumentTypeError(f"{spec}: it must be RANK,LAYERS,MODULES[,DTYPE]")
    fields = dict(zip(Shape.__struct_fields__, parts, strict=False))
    try:
        parsed = msgspec.convert(fields, Shape, strict=False)  # numbers come as text
        _ = parsed.settings  # refuses bad values
    except (msgspec.ValidationError, ConfigError) as error:
        raise argparse.ArgumentTypeError(f"{spec}: {error}") from error
    return parsed


def train_all(bank: Path, items: Sequence[data.Item], shapes: Sequence[Shape]) -> None:
    """What the bank does not have yet."""
    for n, shape in enumerate(shapes):
        memories = [msgspec.structs.replace(item.memory, namespace=shape.name) for item in items]
        with tqdm(desc=f"{n + 1}/{len(shapes)} {shape.name}", unit=" memories", leave=False) as bar:

            def progress(_done: int, total: int, last: Trained | None, bar: Any = bar) -> None:
                bar.total = total
                bar.update(last is not None)

            train(bank, memories, settings=shape.settings, progress=progress).require_all()


def ask(
    items: Sequence[data.Item], shape: Shape, model: Model
) -> tuple[list[Reply], list[Reply], list[Reply]]:
    """Each memory recalled, each question answered directly, and with irag."""

    def memory(item: data.Item, mode: str) -> How:
        return {**only(item.id, mode), "namespace": shape.name}

    asked = [(item, qa.question) for item in items for qa in item.qa]
    recall = [memory(item, "recall") for item in items]
    direct = [memory(item, "adapter") for item, _ in asked]
    irag = [memory(item, "irag") for item, _ in asked]
    return (
        model.ask([user(item.text) for item in items], recall, tasks.RECALL_TOKENS),
        model.ask([user(question_prompt(text)) for _, text in asked], direct, tasks.ANSWER_TOKENS),
        model.ask([user(text) for _, text in asked], irag, tasks.ANSWER_TOKENS),
    )


def point(
    shape: Shape,
    items: Sequence[data.Item],
    versions: Sequence[Version],
    replies: tuple[Sequence[Reply], Sequence[Reply], Sequence[Reply]],
    embedder: Embedder,
    base: int,
) -> Point:
    """From `replies`, those of `ask`, to figures; `versions`: the bank's; `base`: bytes of the base model."""
    recall, direct, irag = replies
    remembered = tasks.recalled(recall, [item.text for item in items], embedder)
    size = statistics.mean(version.adapter_bytes for version in versions)
    return Point(
        shape,
        size,
        size / base,
        max(version.training["seconds"] for version in versions),
        statistics.mean(version.training["steps"] for version in versions),
        remembered.exact,
        remembered.cosine,
        tasks.counted(direct, golds(items)).strict,
        tasks.counted(irag, golds(items)).strict,
    )


def golds(items: Sequence[data.Item]) -> list[tuple[str, ...]]:
    """What right answers contain, question after question."""
    return [(qa.answer, *qa.aliases) for item in items for qa in item.qa]


def measure(args: argparse.Namespace, console: Console) -> Result:
    """Train what is missing, ask, and draw."""
    plots.require_matplotlib()
    items = data.read_items(args.data, args.limit)
    if args.questions:
        items = data.add_questions(items, args.questions)
    if not golds(items):
        raise ConfigError(f"{args.data} has no questions: give them there as qa, or with --questions")
    machine = this_machine(default_dtype())
    bank = args.bank or args.output.with_suffix("")
    train_all(bank, items, args.shapes)
    base = weight_bytes(resolve_model())
    embedder = load_embedder()
    context = [irag_messages(qa.question, item.text) for item in items for qa in item.qa]
    points = []
    with closing(Engine(bank, None, None, GateSettings(), 0)) as model, Library(bank) as library:
        for n, shape in enumerate(args.shapes):
            console.print(f"asking {n + 1}/{len(args.shapes)}: {shape.name}")
            versions = [library.version(library.get(shape.name, item.id)) for item in items]
            points.append(point(shape, items, versions, ask(items, shape, model), embedder, base))
        rag = model.ask(context, [OFF] * len(context), tasks.ANSWER_TOKENS)
    result = Result(machine, len(items), len(context), tasks.counted(rag, golds(items)).strict, points)
    for kind, picture in plots.pictures(drawing(result)).items():
        write_whole(args.output.with_suffix(f".{kind}"), picture)
    return result


def table(result: Result) -> Table:
    """A row for each shape, the smallest first."""
    title = (
        f"{result.memories} memories, {result.questions} questions; RAG with the right text {result.rag:.1%}"
    )
    shown = Table(title=title, title_justify="left")
    for name in ("adapter", "% of base", "s a memory", "steps", "exact", "direct", "irag"):
        shown.add_column(name, justify="left" if name == "adapter" else "right")
    for dot in sorted(result.points, key=lambda dot: dot.bytes_per_memory):
        rates = (f"{100 * rate:.0f} %" for rate in (dot.exact, dot.direct, dot.irag))
        costs = f"{100 * dot.share_of_base:.2f}", f"{dot.seconds_per_memory:.1f}", f"{dot.steps:.0f}"
        shown.add_row(dot.shape.name, *costs, *rates)
    return shown


def drawing(result: Result) -> Callable[[Any], None]:
    """Quality against bytes, a point for each shape and rate; a line along `RANKS`."""

    def into(axes: Any) -> None:
        rates: tuple[tuple[str, str, Callable[[Point], float]], ...] = (
            ("recalled word for word", plots.JOINT, lambda dot: dot.exact),
            ("direct", plots.OURS, lambda dot: dot.direct),
            ("irag", plots.RAG, lambda dot: dot.irag),
        )
        ranks = [dot for dot in result.points if msgspec.structs.astuple(dot.shape)[1:] == RANKS]
        ranks.sort(key=_share)
        for label, color, rate in rates:
            for some, style in ((result.points, "o"), (ranks, "-")):
                xs, ys = ([100 * value(dot) for dot in some] for value in (_share, rate))
                axes.plot(xs, ys, style, color=color, label=label if style == "o" else None, alpha=0.8)
        axes.axhline(100 * result.rag, color=plots.GREY, linestyle="--", label="RAG, right text")
        axes.set_xscale("log")
        ticks = [100 * _share(dot) for dot in ranks or result.points]
        axes.set_xticks(ticks, [f"{tick:.2f}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("bytes a memory, % of the base model")
        axes.set_ylabel("%")
        axes.set_ylim(-3, 106)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)

    return into


def _share(dot: Point) -> float:
    return dot.share_of_base


def options(add: Add) -> None:
    """What there is beside --output."""
    count = at_least(1)
    add("--bank", type=Path, help="folder of the bank, kept (default: OUTPUT without its ending)")
    add("--data", type=Path, default=EXAMPLES / "memories.jsonl", help="memories, as for `vllm-mega eval`")
    add("--questions", type=Path, help="more questions, as for `vllm-mega eval`")
    add("--limit", type=count, help="only the first LIMIT memories")
    known = f"MODULES: {', '.join(GROUPS)}, or names with + between (default: {len(SHAPES)} shapes)"
    form = "RANK,LAYERS,MODULES[,DTYPE]"
    add("--shapes", nargs="+", type=shape, default=SHAPES, metavar=form, help=known)


PROGRAM = Program(
    "shapes", measure, table,
    "Train memories in adapters of several shapes, ask about them, draw the curve.",
    "About 3 minutes for 24 memories in one shape of 10 layers on 2 cores. A run that was stopped finds in "
    "--bank what it has trained.",
    options, output="shapes.json; .svg, .png beside",
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(PROGRAM.main())
