"""What `vllm-mega bank` does with whole banks: create, verify, sweep, export, import."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from vllm_mega.commands._bank import opened
from vllm_mega.commands._bank_forgetting import contradictions, not_erased
from vllm_mega.commands._printing import print_json, print_table
from vllm_mega.commands._who import who

if TYPE_CHECKING:
    from vllm_mega.bank.catalog.records import BankSettings
    from vllm_mega.models import BaseWeights


def base_of(args: argparse.Namespace, settings: BankSettings) -> BaseWeights:
    """The weights of the bank's base model, wherever that is now."""
    from vllm_mega.bank.library import check_match
    from vllm_mega.models import BaseWeights, fingerprint, resolve_recorded

    path = resolve_recorded(args.model, settings.base.name)
    check_match(args.bank, settings, fingerprint(path), None)
    return BaseWeights(path)


def verify(args: argparse.Namespace) -> int:
    """Check the bank, or a receipt against it; 1 if anything is wrong."""
    from vllm_mega.bank.catalog.check import check

    with opened(args) as catalog:
        if args.forgotten is not None:
            problems = contradictions(catalog, args.forgotten)
        else:
            shapes = base_of(args, catalog.settings()).shapes
            bar = _bar("adapters", hidden=not (args.progress or sys.stderr.isatty()))
            problems = check(catalog, shapes, max_rank=args.max_rank, progress=bar)
    if args.json:
        print_json(problems)
    elif problems:
        rows = [(problem.kind, problem.where or "-", problem.problem) for problem in problems]
        print_table(("KIND", "WHERE", "PROBLEM"), rows)
    if not args.json:
        print(f"problems: {len(problems)}")
    return 1 if problems else 0


def _bar(unit: str, *, hidden: bool) -> Any:
    from functools import partial

    from tqdm import tqdm

    return partial(tqdm, unit=f" {unit}", file=sys.stderr, disable=hidden)


def sweep(args: argparse.Namespace) -> int:
    """Remove what nothing names; 1 if the catalog could not be written anew."""
    from vllm_mega.bank.catalog.store import sweep as act

    with opened(args) as catalog:
        print(f"removed: {act(catalog)}")
        if not args.rewrite:
            return 0
        erased = catalog.database.erase(rewrite=True)
        print("the catalog is written anew" if erased else not_erased(catalog))
    return 0 if erased else 1


def expire(args: argparse.Namespace) -> int:
    """Forget for good what has expired."""
    from vllm_mega.memories import expire as act

    with opened(args) as catalog:
        gone = act(catalog)
    for name in gone:
        print(f"expired {name.namespace}/{name.id}")
    print(f"expired: {len(gone)}")
    return 0


def export(args: argparse.Namespace) -> int:
    """Write memories into a folder."""
    from vllm_mega.bank.catalog.records import Filter
    from vllm_mega.memories import export_bank

    bar = _bar("memories", hidden=not sys.stderr.isatty())
    with opened(args) as catalog:
        count = export_bank(catalog, args.folder, Filter(namespace=args.namespace), progress=bar)
    print(f"exported {count} memories to {args.folder}")
    return 0


def import_(args: argparse.Namespace) -> int:
    """Bring exported memories into a bank."""
    from vllm_mega.memories import import_bank
    from vllm_mega.memories.importing import read_export_settings

    base = base_of(args, read_export_settings(args.folder))
    bar = _bar("memories", hidden=not sys.stderr.isatty())
    count = import_bank(
        args.folder,
        args.bank,
        base.shapes,
        who(),
        catalog=args.catalog,
        max_rank=args.max_rank,
        progress=bar,
    )
    print(f"imported {count} memories into {args.bank}")
    return 0


def create(args: argparse.Namespace) -> int:
    """Make an empty bank."""
    from vllm_mega.bank.catalog.catalog import create_catalog
    from vllm_mega.bank.catalog.records import BankSettings
    from vllm_mega.bank.layout import BaseModelInfo
    from vllm_mega.gate.embedder import load_embedder
    from vllm_mega.models import DEFAULT_MODEL, fingerprint, resolve_model, stable_name

    name = args.model or DEFAULT_MODEL
    base = BaseModelInfo(stable_name(name), fingerprint(resolve_model(name)))
    embedder = load_embedder(args.embedder, trust_remote_code=args.trust_remote_code).info
    create_catalog(args.bank, BankSettings(base, embedder), args.catalog).close()
    print(f"created {args.bank}: base model {base.name}, embedder {embedder.name} (D={embedder.dim})")
    return 0
