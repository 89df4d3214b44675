"""Lists: pages, filters, counts."""

from __future__ import annotations

import time

import pytest

from tests.bank.catalog.invented import WHO, draft, name
from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.changes import add, pin, put, tag
from vllm_mega.bank.catalog.forgetting import forget
from vllm_mega.bank.catalog.jobs import lease
from vllm_mega.bank.catalog.known import ids_beginning
from vllm_mega.bank.catalog.reading import count_memories, get_links, get_version, history, list_memories
from vllm_mega.bank.catalog.records import EVERYTHING, Filter, Source
from vllm_mega.config import DEFAULT_NAMESPACE
from vllm_mega.errors import BankError, MemoryNotFoundError


def ids(catalog: Catalog, **chosen: object) -> list[str]:
    found = list_memories(catalog, Filter(**chosen))  # type: ignore[arg-type]
    assert count_memories(catalog, Filter(**chosen)) == len(found.memories)  # type: ignore[arg-type]
    return sorted(memory.id for memory in found.memories)


def pages(catalog: Catalog, limit: int) -> list[list[str]]:
    found, cursor = [], None
    while True:
        page = list_memories(catalog, EVERYTHING, limit=limit, cursor=cursor)
        found.append([memory.id for memory in page.memories])
        cursor = page.cursor
        if cursor is None:
            return found


def test_pages_show_everything_once(catalog: Catalog) -> None:
    add(catalog, [draft(f"m{n}") for n in range(5)], WHO)
    assert pages(catalog, 2) == [["m4", "m3"], ["m2", "m1"], ["m0"]]
    assert pages(catalog, 5) == [["m4", "m3", "m2", "m1", "m0"]]
    first = list_memories(catalog, limit=2)
    forget(catalog, [name("m2"), name("m3")], WHO)
    add(catalog, [draft("m5"), draft("m3")], WHO)
    rest = list_memories(catalog, limit=9, cursor=first.cursor)
    assert [memory.id for memory in rest.memories] == ["m1", "m0"]


def test_filters(catalog: Catalog) -> None:
    add(
        catalog,
        [draft("a", tags=("night", "sea"), source=Source("one.md")), draft("b", tags=("night",))],
        WHO,
    )
    [job] = lease(catalog, "trainer", 60)
    middle = time.time()
    add(catalog, [draft("c", source=Source("one.md")), draft("d", namespace="other", tags=("night",))], WHO)
    pin(catalog, name("c"), WHO)
    assert ids(catalog) == ["a", "b", "c", "d"]
    assert ids(catalog, namespace="other") == ["d"]
    assert ids(catalog, tag="night") == ["a", "b", "d"]
    assert ids(catalog, tag="night", namespace="default") == ["a", "b"]
    assert ids(catalog, state="training") == [job.id] == ["a"]
    assert ids(catalog, source="one.md") == ["a", "c"]
    assert ids(catalog, source="one.md", tag="sea") == ["a"]
    assert ids(catalog, pinned=True) == ["c"]
    assert ids(catalog, pinned=False) == ["a", "b", "d"]
    assert ids(catalog, until=middle) == ["a", "b"]
    assert ids(catalog, since=middle) == ["c", "d"]


def test_filters_look_at_the_newest_version(catalog: Catalog) -> None:
    add(catalog, [draft("a", tags=("night",), source=Source("one.md"))], WHO)
    put(catalog, [draft("a", 2, tags=("day",), source=Source("two.md"))], WHO)
    tag(catalog, name("a"), WHO, add=["sea"])
    assert (ids(catalog, tag="night"), ids(catalog, source="one.md")) == ([], [])
    assert ids(catalog, tag="day", source="two.md") == ids(catalog, tag="sea") == ["a"]


@pytest.mark.parametrize("cursor", ["", "-1", "x", "\u0661", "9" * 30])
def test_cursors_that_no_page_gave_are_refused(catalog: Catalog, cursor: str) -> None:
    with pytest.raises(BankError, match="no cursor that a page gave"):
        list_memories(catalog, cursor=cursor)


def test_what_is_not_there_is_told(catalog: Catalog) -> None:
    add(catalog, [draft("a")], WHO)
    for limit in (0, 1001):
        with pytest.raises(BankError, match=r"1\.\.1000 memories"):
            list_memories(catalog, limit=limit)
    for read in (get_version, get_links, history):
        with pytest.raises(MemoryNotFoundError, match="namespace 'default' has no memory 'b'"):
            read(catalog, "default", "b")
    with pytest.raises(MemoryNotFoundError, match="of version 2"):
        get_version(catalog, "default", "a", 2)
    assert list_memories(catalog, Filter(tag="none")).memories == ()


def test_ids_that_begin_alike_are_those_of_their_namespace(catalog: Catalog) -> None:
    add(catalog, [draft("ox_1"), draft("ox_2"), draft("oxen"), draft("box_1")], WHO)
    add(catalog, [draft("ox_3", namespace="sea")], WHO)
    forget(catalog, [name("ox_2")], WHO)
    assert ids_beginning(catalog, DEFAULT_NAMESPACE, "ox_") == {"ox_1"}, "no pattern: _ is itself"
    assert ids_beginning(catalog, "land", "") == frozenset()
