"""`vllm-mega eval`: are the right memories used, are the answers right, is anything forgotten?"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_mega.config import DEFAULT_NAMESPACE, GateSettings, MegaSettings

if TYPE_CHECKING:
    from vllm_mega.evaluation.judge import Judge
    from vllm_mega.evaluation.model import Baselines
    from vllm_mega.evaluation.report import Report
    from vllm_mega.evaluation.study import Material

HELP = "measure a bank: recall, questions, gate, forgetting, general ability, beside RAG and one LoRA for all"
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

EPILOG = """\
Lines of --data: {"id", "text", "title"?, "paraphrases"?, "qa"?: [{"question", "answer", "aliases"?}]}; of
--questions: {"memory_id", "question", "answer", "aliases"?}; of --unrelated: {"prompt"}; of --compositional:
{"memory_ids", "question", "answer", "aliases"?}, where a list as answer means all of it; of --general:
{"question", "options", "answer"}. Questions are never trained on. An answer is right when it contains the
gold answer and is at most one sentence; the rate without the second condition stands beside it. Memories
and baselines that are not there yet are trained first; a run that was stopped goes on with those that are
missing. Writes report.json, report.md, report.html, plots/ and answers.jsonl.

example:
  vllm-mega eval --data memories.jsonl --unrelated unrelated.jsonl --output report"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `vllm-mega eval`."""
    parser.description = "Train what is missing, ask every question in every way, and report what is right."
    parser.epilog = EPILOG
    _add_files(parser)
    _add_bank(parser)
    _add_ways(parser)


def _add_files(parser: argparse.ArgumentParser) -> None:
    """What is asked, and where the report goes."""
    parser.add_argument("--data", required=True, type=Path, help="memories and their questions, JSONL")
    parser.add_argument("--output", required=True, type=Path, help="folder of the report")
    parser.add_argument("--questions", type=Path, help="more questions about the memories, JSONL")
    parser.add_argument("--unrelated", type=Path, help="prompts that no memory is about, JSONL")
    parser.add_argument("--compositional", type=Path, help="questions that need two memories, JSONL")
    parser.add_argument(
        "--general",
        type=Path,
        default=EXAMPLES / "general.jsonl",
        help="questions of general knowledge, JSONL (default: 40 that come with the package)",
    )
    parser.add_argument(
        "--plain-text",
        type=Path,
        default=EXAMPLES / "plain_text.txt",
        help="text whose log-likelihood is taken (default: one that comes with the package)",
    )


def _add_bank(parser: argparse.ArgumentParser) -> None:
    """Which bank, model and embedder are asked."""
    from vllm_mega.commands._memory_options import add_bank_options

    add_bank_options(parser, "bank to reuse or make (default: OUTPUT/bank)", required=False)
    parser.add_argument("--model", help="base model: name, path or Hugging Face id (default: the bank's)")
    parser.add_argument("--embedder", help="embedder of gate and RAG (default: the bank's)")
    parser.add_argument(
        "--chat-template", metavar="plain|FILE", help="see `vllm-mega train` (default: the bank's)"
    )
    parser.add_argument(
        "--system", metavar="FILE", type=Path, help="a system prompt that every conversation begins with"
    )


def _add_ways(parser: argparse.ArgumentParser) -> None:
    """How much is asked, beside what, and by which gate."""
    from vllm_mega.commands._settings import add_setting, own_default

    parser.add_argument("--limit", type=int, help="only the first LIMIT memories")
    parser.add_argument(
        "--no-lora", action="store_true", help="leave out the baselines that train one LoRA for all memories"
    )
    parser.add_argument(
        "--judge",
        metavar="MODULE:FUNCTION",
        help="a function (question, golds, reply) -> bool; its rate stands beside ours",
    )
    for name in ("top_k", "threshold", "beta"):
        add_setting(parser, GateSettings, name, own_default(GateSettings, name))


def run(args: argparse.Namespace) -> int:
    """Train, ask, count, write."""
    from rich.console import Console
    from rich.markdown import Markdown

    from vllm_mega.evaluation import output, page, render
    from vllm_mega.evaluation.judge import load_judge
    from vllm_mega.evaluation.plots import require_matplotlib
    from vllm_mega.text_file import read_text

    # All that can be wrong is found before anything is trained.
    require_matplotlib()
    settings = GateSettings(args.top_k, args.threshold, args.beta)
    judge = load_judge(args.judge) if args.judge else None
    system = read_text(args.system).strip() if args.system else ""
    material = _material(args)
    bank = args.bank or args.output / "bank"
    _train(bank, material, args)
    baselines = (
        _baselines(bank, material, args.output / "baselines", args.catalog) if not args.no_lora else None
    )
    report, questions = _measure(bank, material, baselines, settings, judge, system, args)
    output.write(report, questions, args.output)
    Console().print(Markdown(render.markdown(page.head(report))))
    print(f"written: {args.output / 'report.json'}, {args.output / 'report.html'}")
    return 0


def _material(args: argparse.Namespace) -> Material:
    from vllm_mega.errors import ConfigError
    from vllm_mega.evaluation import data
    from vllm_mega.evaluation.study import Material

    if args.limit is not None and args.limit < 1:
        raise ConfigError(f"--limit must be at least 1, got {args.limit}")
    items = data.read_items(args.data, args.limit)
    if args.questions:
        items = data.add_questions(items, args.questions)
    if not any(item.qa for item in items):
        raise ConfigError(f"{args.data} has no questions: give them there as qa, or with --questions")
    both = None
    if args.compositional:
        both = data.read_compositional(args.compositional, items, all_there=args.limit is None)
    return Material(
        items,
        data.read_choices(args.general),
        data.read_paragraphs(args.plain_text),
        data.read_prompts(args.unrelated) if args.unrelated else [],
        both or [],
    )


def _train(bank: Path, material: Material, args: argparse.Namespace) -> None:
    from vllm_mega.models.chat_template import read_template
    from vllm_mega.training.recipe.settings import TrainSettings
    from vllm_mega.training.run.session import train

    settings = TrainSettings(chat_template=read_template(args.chat_template) if args.chat_template else "")
    with _bar("training", "memories") as step:
        memories = [item.memory for item in material.items]
        report = train(
            bank,
            memories,
            args.model,
            args.embedder,
            settings,
            lambda done, total, _: step(done, total),
            catalog=args.catalog,
        )
    report.require_all()


def _baselines(bank: Path, material: Material, folder: Path, catalog: str | None) -> Baselines:
    from vllm_mega.bank.catalog.catalog import open_catalog
    from vllm_mega.evaluation.baselines import Trainable, train_baselines
    from vllm_mega.models import resolve_model
    from vllm_mega.training.recipe.recipe import Recipe
    from vllm_mega.training.run.trainer import Trainer

    with open_catalog(bank, catalog) as opened:
        base = opened.settings().base
    with _bar("training one LoRA for all, in turn and at once", "memories") as step:
        return train_baselines(
            Trainable(
                folder,
                [item.memory for item in material.items],
                base,
                Recipe(chat_template=base.chat_template),
                lambda recipe: Trainer(resolve_model(base.name), recipe),
                step,
            )
        )


def _measure(
    bank: Path,
    material: Material,
    baselines: Baselines | None,
    settings: GateSettings,
    judge: Judge | None,
    system: str,
    args: argparse.Namespace,
) -> tuple[Report, list[dict[str, Any]]]:
    from vllm_mega.bank.library import Library
    from vllm_mega.commands._eval_engine import Engine
    from vllm_mega.evaluation.model import Baselines
    from vllm_mega.evaluation.study import Subject, measure
    from vllm_mega.gate.embedder import load_embedder
    from vllm_mega.hook.opening import gate_over
    from vllm_mega.models import resolve_model, weight_bytes

    with Library(bank, args.catalog) as library:
        made = library.settings
        for item in material.items:
            library.folder(library.get(DEFAULT_NAMESPACE, item.id))  # or it is told now that there is none
    embedder = load_embedder(args.embedder or made.embedder.name)
    base_bytes = weight_bytes(resolve_model(made.base.name))
    baselines = baselines or Baselines()
    _tell("starting the engine")
    rank = baselines.largest_rank
    with closing(Engine(bank, args.model, args.embedder, settings, rank, system, args.catalog)) as engine:
        gate = gate_over(MegaSettings(str(bank), catalog=args.catalog), embedder)
        with gate.library as library:
            subject = Subject(
                library, gate, settings, embedder, engine, base_bytes, baselines, _environment(system)
            )
            return measure(material, subject, judge, _tell)


def _environment(system: str) -> dict[str, Any]:
    import platform

    import torch

    from vllm_mega import __version__

    return {
        "versions": {
            "vllm_mega": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
        "machine": {"cores": len(os.sched_getaffinity(0)), "cpu": torch.backends.cpu.get_cpu_capability()},
        **({"system prompt": f"{len(system.split())} words"} if system else {}),
    }


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


@contextmanager
def _bar(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error; told (done, total)."""
    from tqdm import tqdm

    with tqdm(unit=f" {unit}", desc=what, file=sys.stderr) as bar:

        def step(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield step
