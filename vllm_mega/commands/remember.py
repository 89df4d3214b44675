"""`vllm-mega remember`: documents become memories."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_mega.config import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from vllm_mega.bank.catalog.catalog import Catalog
    from vllm_mega.memories.documents.plan import Change, Plan
    from vllm_mega.memories.documents.sections import Count

HELP = "remember documents: Markdown, text, PDF, DOCX, HTML, or lines of memories"

EPILOG = """\
examples:
  vllm-mega remember --bank bank handbook.md notes.txt report.pdf --dry-run
  vllm-mega remember --bank bank handbook.md --tag work

A document is divided into memories of the size that trains well, and each links to its neighbours. The same
document again changes what has changed alone: other memories keep their ids, versions and adapters, and what
the document does not say any more is forgotten. `vllm-mega bank forget --source FILE` forgets all of it.
PDF, DOCX and HTML need pip install 'vllm-mega[documents]'. Lines (.jsonl) are as `train` reads them."""

_SHOWN = 80
"""Characters of a text in the table."""
_SIGNS = {"add": "+", "update": "~", "link": "&", "keep": "="}
_TOLD: dict[Change, str] = {
    "add": "new",
    "update": "changed",
    "link": "with other links",
    "keep": "as they were",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    from vllm_mega.commands._memory_options import add_bank_options
    from vllm_mega.commands._training import add_training_options

    parser.description = "Remember what documents say: divide them into memories, and train these."
    parser.epilog = EPILOG
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="a document, or memories (.jsonl)"
    )
    add_bank_options(parser, "folder of the bank; made if there is none")
    parser.add_argument(
        "--namespace", default=DEFAULT_NAMESPACE, help=f"whose memories (default: {DEFAULT_NAMESPACE})"
    )
    parser.add_argument(
        "--tag",
        action="append",
        dest="tags",
        help="a tag of all of them; may be given several times (default: those that they have)",
    )
    parser.add_argument(
        "--source", help="what the document is called in the bank (default: by its absolute path)"
    )
    parser.add_argument("--tokens", type=int, help="most tokens of a memory (default: 128)")
    parser.add_argument("--dry-run", action="store_true", help="show the memories, and write nothing")
    parser.add_argument(
        "--no-train", action="store_true", help="keep the memories as texts, for a trainer to come"
    )
    add_training_options(parser)


def run(args: argparse.Namespace) -> int:
    """Read, compare, and show or do what follows from it."""
    from vllm_mega.bank.opening import open_if_there
    from vllm_mega.config import check_name, check_tags
    from vllm_mega.memories.documents.division import Size
    from vllm_mega.memories.documents.plan import Wish
    from vllm_mega.memories.documents.reading import read_files
    from vllm_mega.memories.documents.remembering import make_plans

    check_name(args.namespace, "namespace")
    check_tags(args.tags or ())
    wish = Wish(args.namespace, None if args.tags is None else tuple(args.tags))
    size = Size() if args.tokens is None else Size.of(args.tokens)
    read = read_files(args.files, args.source)
    catalog = open_if_there(args.bank, args.catalog)
    try:
        plans = make_plans(catalog, read, wish, _count(args, catalog), size)
    finally:
        if catalog:
            catalog.close()
    if args.dry_run:
        _show(plans)
        return 0
    return _store(args, plans) if args.no_train else _train(args, plans)


def _count(args: argparse.Namespace, catalog: Catalog | None) -> Count:
    from vllm_mega.memories.documents.counting import token_count
    from vllm_mega.models import DEFAULT_MODEL, resolve_model, resolve_recorded

    if catalog is None:
        path = resolve_model(args.model or DEFAULT_MODEL)
    else:
        path = resolve_recorded(args.model, catalog.settings().base.name)
    return token_count(path, trust_remote_code=args.trust_remote_code)


def _show(plans: Sequence[Plan]) -> None:
    """A line for every memory, and what becomes of it."""
    from vllm_mega.commands._printing import print_table

    for plan in plans:
        rows = [
            (
                _SIGNS[step.change],
                step.memory.id,
                str(step.tokens),
                step.memory.title,
                _short(step.memory.text),
            )
            for step in plan.steps
        ]
        rows += [("-", gone.id, "", gone.title, _short(gone.text)) for gone in plan.gone]
        print_table(("", "ID", "TOKENS", "TITLE", "TEXT"), rows)
        print(_summary(plan))


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _summary(plan: Plan) -> str:
    counts = Counter(step.change for step in plan.steps)
    told = [f"{counts[change]} {text}" for change, text in _TOLD.items() if counts[change]]
    gone = [f"{len(plan.gone)} forgotten"] if plan.gone else []
    return f"{plan.source}: {len(plan.steps)} memories, {', '.join([*told, *gone])}"


def _store(args: argparse.Namespace, plans: Sequence[Plan]) -> int:
    from vllm_mega.bank.catalog.catalog import open_catalog
    from vllm_mega.commands._who import who
    from vllm_mega.gate.embedder import bank_embedder
    from vllm_mega.memories.documents.remembering import carry_out

    with open_catalog(args.bank, args.catalog) as catalog:
        embedder = bank_embedder(
            catalog.settings(), args.embedder, args.model, trust_remote_code=args.trust_remote_code
        )
        for plan in plans:
            carry_out(catalog, plan, embedder, who())
            print(_summary(plan))
    return 0


def _train(args: argparse.Namespace, plans: Sequence[Plan]) -> int:
    from vllm_mega.bank.catalog.records import MemoryName
    from vllm_mega.commands._training import crew_of, progress_bar, settings_of, tell
    from vllm_mega.commands._who import who
    from vllm_mega.memories.documents.remembering import finish
    from vllm_mega.training.run.session import train

    def stored(catalog: Catalog) -> None:
        for plan in plans:
            finish(catalog, plan, who())
            print(_summary(plan), flush=True)

    memories = [(step.memory, step.source) for plan in plans for step in plan.steps]
    sources = {
        MemoryName(memory.namespace, memory.id): source for memory, source in memories if source is not None
    }
    texts, settings, crew = [memory for memory, _ in memories], settings_of(args), crew_of(args)
    how: dict[str, Any] = {"catalog": args.catalog, "trust_remote_code": args.trust_remote_code}
    with progress_bar(args) as progress:
        report = train(
            args.bank, texts, args.model, args.embedder, settings, progress, crew,
            sources=sources, stored=stored, **how,
        )  # fmt: skip
    return tell(report, args.bank)
