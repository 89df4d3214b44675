"""What `vllm-mega bank` does with memories: calls `vllm_mega.memories`, prints."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, get_args

from vllm_mega.commands._printing import moment, print_json, print_table
from vllm_mega.commands._who import who

if TYPE_CHECKING:
    from vllm_mega.bank.catalog.catalog import Catalog
    from vllm_mega.bank.catalog.records import Filter, Memory, MemoryName
    from vllm_mega.bank.layout import NewMemory
    from vllm_mega.gate.embedder import Embedder


def opened(args: argparse.Namespace) -> Catalog:
    """The bank that the arguments name."""
    from vllm_mega.bank.catalog.catalog import open_catalog

    return open_catalog(args.bank, args.catalog)


def info(args: argparse.Namespace) -> int:
    """Print what holds for the whole bank."""
    from vllm_mega.bank.catalog.reading import count_memories
    from vllm_mega.bank.catalog.records import Filter, State

    with opened(args) as catalog:
        settings = catalog.settings()
        counts = {state: count_memories(catalog, Filter(state=state)) for state in get_args(State)}
    told = {
        "bank": str(catalog.root),
        "catalog": catalog.database.where,
        "base_model": settings.base.name,
        "embedder": settings.embedder.name,
        "dim": settings.embedder.dim,
        "memories": sum(counts.values()),
        **counts,
    }
    if args.json:
        print_json([told])
    else:
        print_table(("WHAT", "VALUE"), [(name, str(value)) for name, value in told.items()])
    return 0


def list_(args: argparse.Namespace) -> int:
    """Print the memories that pass the filter, page after page."""
    from vllm_mega.bank.catalog.reading import count_memories
    from vllm_mega.bank.catalog.records import Filter

    names = ("namespace", "tag", "state", "source", "pinned", "since", "until", "retired", "expired")
    chosen = Filter(**{name: getattr(args, name) for name in names})
    with opened(args) as catalog:
        entries = list(_listed(catalog, chosen, args.limit))
        settings, count = catalog.settings(), count_memories(catalog, chosen)
    if args.json:
        print_json({**_fields(memory), "links": links} for memory, links in entries)
        return 0
    header = ("NAMESPACE", "ID", "VERSION", "STATE", "RANK", "SIZE", "RECIPE", "CHANGED", "TITLE", "TAGS",
              "LINKS")  # fmt: skip
    print_table(header, (_row(*entry) for entry in entries))
    shown = f"{len(entries)} of {count}" if len(entries) < count else str(count)
    print(f"memories: {shown}, base model {settings.base.name}, embedder {settings.embedder.name}")
    return 0


def _listed(catalog: Catalog, chosen: Filter, limit: int | None) -> Iterator[tuple[Memory, tuple[str, ...]]]:
    from vllm_mega.bank.catalog.known import links_of
    from vllm_mega.bank.catalog.reading import MOST, list_memories

    cursor, left = None, limit
    while left is None or left > 0:
        page = list_memories(catalog, chosen, limit=min(left or MOST, MOST), cursor=cursor)
        links = links_of(catalog, [memory.name for memory in page.memories])
        yield from ((memory, links.get(memory.name, ())) for memory in page.memories)
        cursor, left = page.cursor, None if left is None else left - len(page.memories)
        if cursor is None:
            return


def _row(memory: Memory, links: Sequence[str]) -> tuple[str, ...]:
    has = memory.adapter is not None
    size = f"{memory.adapter_bytes / 1024:.0f} KiB" if has else "-"
    return (memory.namespace, memory.id, str(memory.newest), memory.state, str(memory.rank) if has else "-",
            size, memory.recipe[:8] or "-", moment(memory.changed), memory.title, ",".join(memory.tags),
            ",".join(links))  # fmt: skip


def _fields(struct: Any) -> dict[str, Any]:
    import msgspec

    fields: dict[str, Any] = msgspec.to_builtins(struct)
    fields.pop("key", None)
    return fields


def _name(args: argparse.Namespace) -> MemoryName:
    from vllm_mega.bank.catalog.records import MemoryName

    return MemoryName(args.namespace, args.id)


def named(args: argparse.Namespace) -> list[MemoryName]:
    """The memories that the arguments name."""
    from vllm_mega.bank.catalog.records import MemoryName

    return [MemoryName(args.namespace, memory_id) for memory_id in args.id]


def show(args: argparse.Namespace) -> int:
    """Print a memory, and what a version of it says."""
    import msgspec

    from vllm_mega.bank.catalog.drafts import draft_of
    from vllm_mega.bank.catalog.store import adapter_folder
    from vllm_mega.memories import get_entry

    with opened(args) as catalog:
        entry = get_entry(catalog, _name(args), args.version)
        version = entry.version
        folder = str(adapter_folder(catalog, version.adapter)) if version.adapter else None
    written = {name: getattr(version, name) for name in ("number", "who", "at", "recipe", "training")}
    said = msgspec.structs.replace(draft_of(version, train=False).memory, links=entry.links)
    shown = {**_fields(entry.memory), "folder": folder, "version": written, "memory": said}
    print(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())
    return 0


def history(args: argparse.Namespace) -> int:
    """Print the versions of a memory, the newest first, then what happened to it."""
    from vllm_mega.memories import history as read

    with opened(args) as catalog:
        past = read(catalog, _name(args))
    if past.versions:
        rows = [(str(v.number), moment(v.at), v.who, (v.adapter or "-")[:12], ",".join(v.tags), v.text)
                for v in past.versions]  # fmt: skip
        print_table(("VERSION", "AT", "WHO", "ADAPTER", "TAGS", "TEXT"), rows)
    events = [(str(e.number), moment(e.at), e.who, e.kind, str(e.version)) for e in past.events]
    print_table(("EVENT", "AT", "WHO", "WHAT", "VERSION"), events)
    return 0


def restore(args: argparse.Namespace) -> int:
    """Make an earlier version the newest again."""
    from vllm_mega.memories import restore as act

    with opened(args) as catalog:
        memory = act(catalog, _name(args), args.version, who())
    print(
        f"{args.namespace}/{args.id} is as in version {args.version}: version {memory.newest}, {memory.state}"
    )
    return 0


def add(args: argparse.Namespace) -> int:
    """Add memories, with an adapter or for a trainer."""
    from vllm_mega.gate.embedder import bank_embedder
    from vllm_mega.memories import remember

    memories = _new_memories(args)
    with opened(args) as catalog:
        embedder = bank_embedder(
            catalog.settings(), args.embedder, args.model, trust_remote_code=args.trust_remote_code
        )
        if args.adapter is None:
            stored = remember(catalog, memories, embedder, who(), train=not args.no_train)
        else:
            stored = [_add_adapter(args, catalog, memories[0], embedder)]
    for memory in stored:
        rank = f", rank {memory.rank}" if memory.adapter else ""
        print(f"added {memory.namespace}/{memory.id}, version {memory.newest}, {memory.state}{rank}")
    return 0


def _add_adapter(args: argparse.Namespace, catalog: Catalog, memory: NewMemory, embedder: Embedder) -> Memory:
    from vllm_mega.commands._bank_files import base_of
    from vllm_mega.memories import remember_adapter

    base = base_of(args, catalog.settings())
    return remember_adapter(catalog, memory, args.adapter, embedder, base, who(), max_rank=args.max_rank)


def _new_memories(args: argparse.Namespace) -> list[NewMemory]:
    """What the arguments say, over what the file says."""
    from vllm_mega.bank.layout import NewMemory
    from vllm_mega.config import settings_from
    from vllm_mega.errors import ConfigError
    from vllm_mega.jsonl import read_lines

    objects: list[dict[str, Any]] = [{}]
    if args.memory:
        objects = [value for _, value in read_lines(args.memory, dict[str, Any])]
    given = {name: getattr(args, name) for name in ("text", "id", "title", "namespace", "tags", "expires_at")}
    given = {name: value for name, value in given.items() if value is not None}
    if len(objects) != 1 and (args.adapter is not None or not objects or set(given) - {"namespace", "tags"}):
        raise ConfigError(f"{args.memory}: expected one JSON object, found {len(objects)}")
    return [settings_from({**fields, **given}, NewMemory) for fields in objects]


def link(args: argparse.Namespace) -> int:
    """Add links to a memory, or take some away."""
    from vllm_mega.bank.catalog.reading import get_links
    from vllm_mega.errors import BankError
    from vllm_mega.memories import link as add_links
    from vllm_mega.memories import unlink

    with opened(args) as catalog:
        before = get_links(catalog, args.namespace, args.id)
        if strange := [target for target in args.other if args.remove and target not in before]:
            raise BankError(f"{args.namespace}/{args.id} has no link to {', '.join(strange)}: see bank show")
        links = (unlink if args.remove else add_links)(catalog, _name(args), args.other, who())
    print(f"{args.namespace}/{args.id} links to {', '.join(links) or 'nothing'}")
    return 0


def tag(args: argparse.Namespace) -> int:
    """Give a memory tags, or take some away."""
    from vllm_mega.bank.catalog.reading import get_memory
    from vllm_mega.errors import BankError
    from vllm_mega.memories import tag as act

    with opened(args) as catalog:
        before = get_memory(catalog, args.namespace, args.id).tags
        if strange := [name for name in args.tag if args.remove and name not in before]:
            raise BankError(f"{args.namespace}/{args.id} has no tag {', '.join(strange)}: see bank list")
        memory = act(catalog, _name(args), who(), **{"remove" if args.remove else "add": args.tag})
    print(f"{args.namespace}/{args.id} has the tags {', '.join(memory.tags) or 'none'}")
    return 0


def pin(args: argparse.Namespace) -> int:
    """Pin the memories that the arguments name."""
    return _pin(args, pinned=True)


def unpin(args: argparse.Namespace) -> int:
    """Let pinned memories go again."""
    return _pin(args, pinned=False)


def _pin(args: argparse.Namespace, *, pinned: bool) -> int:
    from vllm_mega.memories import pin as act

    with opened(args) as catalog:
        for name in named(args):
            act(catalog, name, who(), pinned=pinned)
            print(f"{'pinned' if pinned else 'unpinned'} {name.namespace}/{name.id}")
    return 0


def retire(args: argparse.Namespace) -> int:
    """Keep the memories that the arguments name without having them answer."""
    return _retire(args, retired=True)


def unretire(args: argparse.Namespace) -> int:
    """Let retired memories answer again."""
    return _retire(args, retired=False)


def _retire(args: argparse.Namespace, *, retired: bool) -> int:
    from vllm_mega.memories import retire as act

    with opened(args) as catalog:
        for name in named(args):
            act(catalog, name, who(), retired=retired)
            print(f"{'retired' if retired else 'unretired'} {name.namespace}/{name.id}")
    return 0


def jobs(args: argparse.Namespace) -> int:
    """Print which memories wait for an adapter, or have a trainer at work."""
    from vllm_mega.memories import list_jobs

    with opened(args) as catalog:
        listed = list_jobs(catalog, args.namespace)
    if args.json:
        print_json(listed)
        return 0
    rows = [(j.namespace, j.id, str(j.version), j.state, str(j.attempts), str(j.steps), j.owner or "-",
             j.reason or "-") for j in listed]  # fmt: skip
    print_table(("NAMESPACE", "ID", "VERSION", "STATE", "ATTEMPTS", "STEPS", "OWNER", "REASON"), rows)
    print(f"jobs: {len(listed)}")
    return 0
