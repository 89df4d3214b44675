"""`vllm-mega gate`: what the gate makes of a text, without running the model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vllm_mega.config import DEFAULT_NAMESPACE, GateSettings, check_tags

if TYPE_CHECKING:
    from vllm_mega.gate.gate import Decision, Hit, Query
    from vllm_mega.gate.salience import Tip

HELP = "show which memories a text brings up, with scores and weights"
BEST = 10
_BAR = 24


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `vllm-mega gate`."""
    from vllm_mega.commands._memory_options import add_bank_options, add_salience_options, add_trust_option
    from vllm_mega.commands._settings import add_setting, own_default

    parser.description = (
        "Show the scores of a text's best memories, and the mixture that the gate makes of them."
    )
    parser.epilog = 'Example: vllm-mega gate --bank bank "Who opened the Ferrow Bridge?"'
    parser.add_argument("text", help="the question or request")
    add_bank_options(parser)
    parser.add_argument("--embedder", help="embedder of the gate (default: the bank's)")
    parser.add_argument(
        "--model", help="the base model, if the embedder is made of it and it has moved (default: the bank's)"
    )
    add_trust_option(parser)
    parser.add_argument(
        "--namespace",
        default=DEFAULT_NAMESPACE,
        help=f"whose memories are compared (default: {DEFAULT_NAMESPACE})",
    )
    parser.add_argument(
        "--tag",
        dest="tags",
        metavar="TAG",
        action="append",
        default=[],
        help="only memories with this tag; of several, with all of them",
    )
    for name in GateSettings.__struct_fields__:
        add_setting(parser, GateSettings, name, own_default(GateSettings, name))
    add_salience_options(parser)
    parser.add_argument("--all", action="store_true", help=f"show every memory, not the best {BEST} only")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Ask the gate; print what it says."""
    from vllm_mega.bank.catalog.catalog import open_catalog
    from vllm_mega.bank.library import Library
    from vllm_mega.commands._memory_options import salience_settings
    from vllm_mega.config import MegaSettings
    from vllm_mega.errors import RequestError
    from vllm_mega.gate.embedder import bank_embedder
    from vllm_mega.gate.gate import Gate, Query
    from vllm_mega.gate.index.index import Index
    from vllm_mega.gate.uses import track_uses

    if not args.text.strip():
        raise RequestError("the text is empty: there is nothing to compare")
    check_tags(args.tags)
    settings = GateSettings(args.top_k, args.threshold, args.beta, args.link_share)
    query = Query(args.text, args.namespace, settings, tags=tuple(args.tags), explain=True)
    use = MegaSettings(str(args.bank), **salience_settings(args))
    with open_catalog(args.bank, args.catalog) as catalog:
        made = catalog.settings()
    embedder = bank_embedder(made, args.embedder, args.model, trust_remote_code=args.trust_remote_code)
    index = Index()
    with Library(args.bank, args.catalog, embedder=embedder.info, keys=index) as library:
        gate = Gate(library, index, embedder, track_uses(library.catalog, use))
        decision, shown = gate.explain(query, None if args.all else max(BEST, args.top_k))
        more = gate.taking_part(query.namespace, query.tags) - len(shown)
    if args.json:
        print(_as_json(query, decision, shown))
    else:
        _print_table(shown)
        if more > 0 and not args.all:
            print(f"{more} more memories: --all shows them")
        for tip in _tips(decision):
            print(f"use adds {tip.added:.4f} to {tip.id} (salience {tip.salience:g})")
        print(verdict(query, decision))
        if not embedder.passages(query.text):
            print(f"the embedder {embedder.info.name} cannot read the script of this text")
    return 0


def _tips(decision: Decision) -> Sequence[Tip]:
    told = decision.explanation
    return (told.tips if told is not None else None) or ()


def verdict(query: Query, decision: Decision) -> str:
    """The decision in a sentence."""
    if decision.hits:
        parts = " + ".join(f"{hit.weight:g} {hit.id}{_form(hit)}" for hit in decision.hits)
        return f"mixture: {parts}" + (f"\nname: {decision.mixture.name}" if decision.mixture else "")
    if decision.best_score is None:
        tagged = f" with the tags {', '.join(query.tags)}" if query.tags else ""
        return f"null route: namespace {query.namespace!r} has no memories{tagged}; the base model answers"
    return (
        f"null route: the best score {decision.best_score:.4f} is below the threshold "
        f"{query.settings.threshold:g}; the base model answers"
    )


def _form(hit: Hit) -> str:
    return "" if hit.row.adapter is not None else f" (as text: {hit.row.state})"


def _as_json(query: Query, decision: Decision, hits: Sequence[Hit]) -> str:
    import msgspec

    value = {
        "text": query.text,
        "namespace": query.namespace,
        "tags": query.tags,
        "settings": query.settings,
        "event": decision.event,
        "best_score": decision.best_score,
        "null_route": not decision.hits,
        "mixture": decision.mixture.name if decision.mixture else None,
        "memories": [
            {
                "id": hit.id,
                "title": hit.title,
                "state": hit.row.state,
                "score": hit.score,
                "weight": hit.weight,
            }
            for hit in hits
        ],
        "salience": [{"id": tip.id, "salience": tip.salience, "added": tip.added} for tip in _tips(decision)],
    }
    return msgspec.json.encode(value).decode()


def _print_table(hits: Sequence[Hit]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for header in ("score", "weight"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("memory", overflow="fold")
    table.add_column("title", overflow="fold")
    for hit in hits:
        weight = f"{hit.weight:.4f}" if hit.weight else "-"
        bar = Text("█" * round(hit.weight * _BAR), style="cyan")
        # Text, not str: a title must not be read as markup. Control characters could steer a terminal.
        title = "".join(c if c.isprintable() else " " for c in hit.title)
        table.add_row(
            f"{hit.score:.4f}", weight, bar, Text(hit.id), Text(title), style="" if hit.weight else "dim"
        )
    Console().print(table)
