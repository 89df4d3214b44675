"""`vllm-mega bank`: look at a bank, check it, and change what is in it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_mega.commands._memory_options import add_trust_option
from vllm_mega.config import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from vllm_mega.bank.layout import Manifest, MemoryEntry, NewMemory
    from vllm_mega.bank.reader import BankSnapshot
    from vllm_mega.models import BaseWeights

Shapes = dict[str, tuple[int, int]]
HELP = "list, show, verify, link, forget or add memories, or create a bank"


def configure(parser: argparse.ArgumentParser) -> None:
    """The actions of `vllm-mega bank` and their arguments."""
    parser.description = "Look at a bank, check it, and change what is in it."
    parser.epilog = (
        "Examples:\n"
        "  vllm-mega bank list --bank bank\n"
        "  vllm-mega bank verify --bank bank\n"
        "  vllm-mega bank link --bank bank lantern-ferry hanne-brisk\n"
        "  vllm-mega bank forget --bank bank m-0123456789ab\n"
        '  vllm-mega bank add --bank bank --adapter my-lora --text "The lamp burned for nine nights."'
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    def action(name: str, act: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.add_argument("--bank", required=True, type=Path, help="the bank's folder")
        sub.set_defaults(act=act)
        return sub

    listing = action("list", _list, "list the memories")
    listing.add_argument("--namespace", help="only those of this namespace (default: all)")
    _add_json(listing)
    _add_memory(action("show", _show, "show one memory: its text, tags and adapter"), several=False)
    verify = action("verify", _verify, "check every digest, text, adapter and key; exit 1 if one is wrong")
    verify.add_argument("--model", help="the base model, if it has moved (default: the bank's)")
    verify.add_argument("--max-rank", type=int, help="refuse adapters of a higher rank (default: any)")
    verify.add_argument("--progress", action="store_true", help="show progress although this is no terminal")
    _add_json(verify)
    _add_memory(
        action("forget", _forget, "forget memories: adapter, text and key leave the disk"), several=True
    )
    link = action("link", _link, "let a memory bring others to mind, for questions that need both")
    _add_memory(link, several=False)
    link.add_argument("other", nargs="+", help="id of a memory that it links to; it need not be there yet")
    link.add_argument("--remove", action="store_true", help="take these links away")
    _configure_add(action("add", _add, "add an adapter that PEFT has written, with its text"))
    create = action("create", _create, "create an empty bank")
    create.add_argument("--model", help="the base model: name, path or Hugging Face id")
    create.add_argument("--embedder", help="the embedder that makes the keys: name, path or id")
    add_trust_option(create)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def _add_memory(parser: argparse.ArgumentParser, *, several: bool) -> None:
    parser.add_argument("id", nargs="+" if several else None, help="id of the memory")
    parser.add_argument(
        "--namespace",
        default=DEFAULT_NAMESPACE,
        help=f"namespace of the memory (default: {DEFAULT_NAMESPACE})",
    )


def _configure_add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--adapter", required=True, type=Path, help="folder with the PEFT adapter, or with one that has it"
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", help="the text that the adapter has learnt")
    source.add_argument(
        "--memory", type=Path, help="a JSON file with the fields of a line of `train`'s input"
    )
    parser.add_argument("--id", help="id of the memory (default: derived from the text)")
    parser.add_argument("--title", help="title of the memory")
    parser.add_argument("--namespace", help=f"whose memory it is (default: {DEFAULT_NAMESPACE})")
    parser.add_argument(
        "--tag", dest="tags", metavar="TAG", action="append", help="a tag; may be given more than once"
    )
    parser.add_argument("--model", help="the base model, if it has moved (default: the bank's)")
    parser.add_argument("--embedder", help="the embedder, if it has moved (default: the bank's)")
    add_trust_option(parser)
    parser.add_argument("--max-rank", type=int, help="refuse a higher rank (default: any)")


def run(args: argparse.Namespace) -> int:
    """Do the chosen action."""
    act: Callable[[argparse.Namespace], int] = args.act
    return act(args)


def _list(args: argparse.Namespace) -> int:
    snapshot = _snapshot(args)
    entries = [e for e in snapshot.manifest.memories if args.namespace in (None, e.namespace)]
    if args.json:
        _print_json(entries)
        return 0
    header = ("NAMESPACE", "ID", "VERSION", "RANK", "SIZE", "RECIPE", "CREATED", "TITLE", "TAGS", "LINKS")
    _print_table(header, map(_row, entries))
    manifest = snapshot.manifest
    print(
        f"memories: {len(entries)}, generation {manifest.generation}, base model {manifest.base.name}, "
        f"embedder {manifest.embedder.name}"
    )
    return 0


def _row(entry: MemoryEntry) -> tuple[str, ...]:
    size = f"{entry.adapter_bytes / 1024:.0f} KiB"
    return (entry.namespace, entry.id, str(entry.version), str(entry.rank), size, entry.recipe[:8] or "-",
            entry.created_at, entry.title, ",".join(entry.tags), ",".join(entry.links))  # fmt: skip


def _show(args: argparse.Namespace) -> int:
    import msgspec

    snapshot = _snapshot(args)
    entry = snapshot.get(args.namespace, args.id)
    shown = {**msgspec.to_builtins(entry), "folder": str(snapshot.folder(entry))}
    memory = msgspec.to_builtins(snapshot.text(entry))
    print(msgspec.json.format(msgspec.json.encode({**shown, "memory": memory}), indent=2).decode())
    return 0


def _verify(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from vllm_mega.bank.verify import verify

    shapes = _verified_shapes(args)

    def watched(entries: Sequence[MemoryEntry]) -> Iterable[MemoryEntry]:
        hidden = not (args.progress or sys.stderr.isatty())
        bar: Iterable[MemoryEntry] = tqdm(entries, unit=" memories", file=sys.stderr, disable=hidden)
        return bar

    problems = verify(args.bank, shapes, max_rank=args.max_rank, progress=watched)
    if args.json:
        _print_json(problems)
    elif problems:
        rows = [(p.kind, f"{p.namespace}/{p.id}" if p.id else "-", p.path, p.problem) for p in problems]
        _print_table(("KIND", "MEMORY", "PATH", "PROBLEM"), rows)
    if not args.json:
        print(f"problems: {len(problems)}")
    return 1 if problems else 0


def _forget(args: argparse.Namespace) -> int:
    from vllm_mega.bank.writer import BankWriter

    with BankWriter.open(args.bank) as writer:
        writer.forget([(args.namespace, memory_id) for memory_id in args.id])
        generation = writer.snapshot.generation
    for memory_id in args.id:
        print(f"forgot {args.namespace}/{memory_id}")
    print(f"generation {generation}")
    return 0


def _link(args: argparse.Namespace) -> int:
    from vllm_mega.bank.writer import BankWriter
    from vllm_mega.errors import BankError

    key = (args.namespace, args.id)
    with BankWriter.open(args.bank) as writer:
        before = writer.snapshot.get(*key).links
        if strange := [other for other in args.other if args.remove and other not in before]:
            raise BankError(f"{args.namespace}/{args.id} has no link to {', '.join(strange)}: see bank list")
        rest = tuple(link for link in before if link not in args.other)
        # What is linked already keeps its place.
        added = () if args.remove else tuple(dict.fromkeys(o for o in args.other if o not in before))
        writer.link({key: rest if args.remove else before + added})
        entry, generation = writer.snapshot.get(*key), writer.snapshot.generation
    print(f"{args.namespace}/{args.id} links to {', '.join(entry.links) or 'nothing'}")
    print(f"generation {generation}")
    return 0


def _verified_shapes(args: argparse.Namespace) -> Shapes:
    """The base model's modules; none if the manifest cannot be read, which `verify` then reports."""
    from vllm_mega.bank.reader import read_manifest
    from vllm_mega.errors import BankFormatError

    try:
        manifest, _ = read_manifest(args.bank.absolute())
    except BankFormatError:
        return {}
    return dict(_base(args, manifest).shapes)


def _add(args: argparse.Namespace) -> int:
    import numpy as np

    from vllm_mega.bank.peft_import import find_adapter, import_adapter
    from vllm_mega.bank.reader import check_match
    from vllm_mega.bank.writer import BankWriter, StagedMemory
    from vllm_mega.gate.embedder import bank_embedder

    memory = _new_memory(args)
    with BankWriter.open(args.bank) as writer:
        manifest = writer.snapshot.manifest
        base, adapter = _base(args, manifest), writer.stage()
        import_adapter(find_adapter(args.adapter), adapter, base, max_rank=args.max_rank)
        embedder = bank_embedder(
            manifest, args.embedder, args.model, trust_remote_code=args.trust_remote_code
        )
        check_match(args.bank, manifest, None, embedder.info)
        key = np.asarray(embedder.embed([memory.text])[0])
        (entry,) = writer.add([StagedMemory(memory, adapter, key)], base.shapes, args.max_rank)
    print(f"added {entry.namespace}/{entry.id}, rank {entry.rank}, generation {entry.version}")
    return 0


def _new_memory(args: argparse.Namespace) -> NewMemory:
    """What the arguments say, over what the file says."""
    from vllm_mega.bank.layout import NewMemory
    from vllm_mega.config import settings_from
    from vllm_mega.errors import ConfigError
    from vllm_mega.jsonl import read_lines

    fields: dict[str, Any] = {}
    if args.memory:
        found = [value for _, value in read_lines(args.memory, dict[str, Any])]
        if len(found) != 1:
            raise ConfigError(f"{args.memory}: expected one JSON object, found {len(found)}")
        fields = found[0]
    given = {name: getattr(args, name) for name in ("text", "id", "title", "namespace", "tags")}
    return settings_from(
        {**fields, **{name: value for name, value in given.items() if value is not None}}, NewMemory
    )


def _create(args: argparse.Namespace) -> int:
    from vllm_mega.bank.layout import BaseModelInfo
    from vllm_mega.bank.writer import BankWriter
    from vllm_mega.gate.embedder import load_embedder
    from vllm_mega.models import DEFAULT_MODEL, fingerprint, resolve_model, stable_name

    name = args.model or DEFAULT_MODEL
    base = BaseModelInfo(stable_name(name), fingerprint(resolve_model(name)))
    embedder = load_embedder(args.embedder, trust_remote_code=args.trust_remote_code).info
    BankWriter.create(args.bank, base, embedder).close()
    print(f"created {args.bank}: base model {base.name}, embedder {embedder.name} (D={embedder.dim})")
    return 0


def _snapshot(args: argparse.Namespace) -> BankSnapshot:
    from vllm_mega.bank.reader import BankReader

    return BankReader(args.bank).snapshot()


def _base(args: argparse.Namespace, manifest: Manifest) -> BaseWeights:
    """The weights of the bank's base model, wherever that is now."""
    from vllm_mega.bank.reader import check_match
    from vllm_mega.models import BaseWeights, fingerprint, resolve_recorded

    path = resolve_recorded(args.model, manifest.base.name)
    check_match(args.bank, manifest, fingerprint(path), None)
    return BaseWeights(path)


def _print_json(items: Iterable[Any]) -> None:
    import msgspec

    for item in items:
        print(msgspec.json.encode(item).decode())


def _print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as they must be; the last one runs free."""
    lines = [header, *([_printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _printable(text: str) -> str:
    """`text` on one line, without what could steer a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)
