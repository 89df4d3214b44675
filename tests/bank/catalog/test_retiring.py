"""Retired memories are kept, and neither answer nor are trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bank.catalog.following import Index
from tests.bank.catalog.invented import WHO, draft, name
from tests.bank.samples import SHAPES
from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.changes import add, put, retire
from vllm_mega.bank.catalog.check import check
from vllm_mega.bank.catalog.events import events_after
from vllm_mega.bank.catalog.follower import Follower
from vllm_mega.bank.catalog.jobs import lease
from vllm_mega.bank.catalog.known import known
from vllm_mega.bank.catalog.reading import get_version, list_memories
from vllm_mega.bank.catalog.records import Filter
from vllm_mega.bank.library import Library
from vllm_mega.errors import MemoryNotFoundError


def ids(catalog: Catalog, retired: bool | None = None) -> list[str]:
    return [memory.id for memory in list_memories(catalog, Filter(retired=retired)).memories]


def test_readers_let_it_go_and_take_it_back(catalog: Catalog, url: str | None) -> None:
    add(catalog, [draft("bell"), draft("lamp")], WHO)
    index = Index()
    follower = Follower(catalog, index)
    retire(catalog, name("bell"), WHO)
    follower.refresh()
    assert set(follower.rows) == set(index.keys) == {name("lamp")}
    with Library(catalog.root, url) as library:
        assert set(library.rows) == {name("lamp")}
        with pytest.raises(MemoryNotFoundError, match="no memory 'bell' that answers"):
            library.get(*name("bell"))
    put(catalog, [draft("bell", 2)], WHO)
    follower.refresh()
    assert set(follower.rows) == {name("lamp")}, "another text does not bring it back"
    retire(catalog, name("bell"), WHO, retired=False)
    follower.refresh()
    assert set(follower.rows) == set(index.keys) == {name("bell"), name("lamp")}
    assert follower.rows[name("bell")].version == 2
    follower.close()


def test_it_is_kept_and_listed_and_told_once(catalog: Catalog) -> None:
    add(catalog, [draft("bell"), draft("lamp")], WHO)
    for retired in (True, True, False, False, True):
        assert retire(catalog, name("bell"), WHO, retired=retired).retired == retired
    assert [event.kind for event in events_after(catalog, 2)] == ["retired", "unretired", "retired"]
    assert (ids(catalog), ids(catalog, True), ids(catalog, False)) == (["lamp", "bell"], ["bell"], ["lamp"])
    assert get_version(catalog, "default", "bell").text == draft("bell").memory.text
    assert check(catalog, SHAPES) == []


def test_no_trainer_takes_it_until_it_comes_back(catalog: Catalog, tmp_path: Path) -> None:
    add(catalog, [draft("bell"), draft("lamp")], WHO)
    retire(catalog, name("bell"), WHO)
    assert known(catalog, [name("bell")])[name("bell")].retired
    assert [job.id for job in lease(catalog, "trainer", 60, limit=5)] == ["lamp"]
    retire(catalog, name("bell"), WHO, retired=False)
    assert [job.id for job in lease(catalog, "trainer", 60, limit=5)] == ["bell"]
