"""What the events say must have become of a bank, beside what is there and what its writers were told."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import NamedTuple, TextIO

from tests.bank.catalog import writer
from tests.bank.samples import SHAPES
from tests.forks import PROCESSES
from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.check import check
from vllm_mega.bank.catalog.events import events_after
from vllm_mega.bank.catalog.follower import Follower
from vllm_mega.bank.catalog.reading import history
from vllm_mega.bank.catalog.records import Event, MemoryName

SAID = {"added": "written", "updated": "written", "returned": "ended", "failed": "ended"}
UNKNOWN = {"linked", "ended"}
"""What a writer does not know the version of."""
Said = list[tuple[str, str, int]]


class Speaking(NamedTuple):
    """A process, and what it prints."""

    process: BaseProcess
    output: TextIO


def speaking(main: Callable[..., None], *arguments: str) -> Speaking:
    """A process that calls `main`."""
    heard, told = PROCESSES.Pipe(False)
    process = PROCESSES.Process(target=_printing_there, args=(told, main, arguments))
    process.start()
    told.close()
    with heard:
        return Speaking(process, os.fdopen(os.dup(heard.fileno())))


def _printing_there(told: Connection, main: Callable[..., None], arguments: Sequence[str]) -> None:
    os.dup2(told.fileno(), 1)
    told.close()
    main(*arguments)


def start(catalog: Catalog, url: str | None, seed: int, count: int) -> Speaking:
    """A process that changes the bank `count` times."""
    return speaking(writer.main, str(catalog.root), url or "", str(seed), str(count))


def said(output: str) -> Said:
    """The lines of a writer; one that was cut off is none."""
    lines = [line for line in output.splitlines(keepends=True) if line.endswith("\n")]
    return [(kind, memory, version) for kind, memory, version in map(json.loads, lines)]


def all_events(catalog: Catalog) -> list[Event]:
    return events_after(catalog, 0, limit=10**9)


def told(events: list[Event]) -> dict[str, Said]:
    """What each writer must have been told, by the events."""
    found: dict[str, Said] = defaultdict(list)
    for event in events:
        kind = SAID.get(event.kind, event.kind)
        found[event.who].append((kind, event.id, 0 if kind in UNKNOWN else event.version))
    return found


def require_whole(catalog: Catalog) -> list[Event]:
    """The bank is what its events say, with all versions of all memories; the events."""
    events = all_events(catalog)
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    first, newest, ever = replay(events)
    follower = Follower(catalog)
    rows = follower.rows
    assert set(rows) == set(newest)
    for memory, last in newest.items():
        versions = history(catalog, *memory)
        assert [version.number for version in versions] == list(range(last, first[memory] - 1, -1))
    follower.close()
    assert set(ever) >= set(newest)
    assert {problem.kind for problem in check(catalog, SHAPES)} <= {"orphan", "staging"}
    return events


def replay(events: list[Event]) -> tuple[dict[MemoryName, int], dict[MemoryName, int], dict[MemoryName, int]]:
    """The first and newest version of all memories that are there, and the last of all that ever were."""
    first: dict[MemoryName, int] = {}
    newest: dict[MemoryName, int] = {}
    ever: dict[MemoryName, int] = {}
    for event in events:
        memory = MemoryName(event.namespace, event.id)
        if event.kind == "added":
            assert memory not in newest
            assert event.version == ever.get(memory, 0) + 1
            first[memory] = newest[memory] = event.version
        elif event.kind == "updated":
            newest[memory] += 1
        assert event.version == newest[memory]
        ever[memory] = event.version
        if event.kind == "forgotten":
            del newest[memory], first[memory]
    return first, newest, ever
