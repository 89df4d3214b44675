"""Uses in the catalog: added up by any number of writers, gone with their memory, and no event."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from tests.bank.catalog.invented import WHO, draft, name
from vllm_mega.bank.catalog import uses as in_catalog
from vllm_mega.bank.catalog.catalog import Catalog, open_catalog
from vllm_mega.bank.catalog.changes import add, pin
from vllm_mega.bank.catalog.events import last_event
from vllm_mega.bank.catalog.forgetting import forget
from vllm_mega.bank.catalog.records import MemoryName
from vllm_mega.bank.catalog.tables import uses
from vllm_mega.bank.catalog.uses import AllUses, Use, add_uses, read_uses
from vllm_mega.errors import BankError


def counted(use: Use | None, at: float) -> Use:
    """Every use counts, none ages."""
    return Use(1.0, at) if use is None else Use(use.strength + 1.0, max(use.last, at))


def number(catalog: Catalog) -> int:
    with catalog.database.read() as connection:
        return last_event(connection)


def test_uses_are_added_to_what_is_there(catalog: Catalog) -> None:
    add(catalog, [draft("lamp"), draft("bell")], WHO)
    before = number(catalog)
    assert read_uses(catalog) == AllUses({}, frozenset())
    add_uses(catalog, {name("lamp"): 5.0, name("nobody"): 5.0}, counted)
    add_uses(catalog, {name("lamp"): 9.0, name("bell"): 7.0}, counted)
    assert read_uses(catalog).used == {name("lamp"): Use(2.0, 9.0), name("bell"): Use(1.0, 7.0)}
    assert number(catalog) == before, "followers would be woken up"


def test_what_does_not_count_writes_nothing(catalog: Catalog) -> None:
    add(catalog, [draft("lamp")], WHO)
    add_uses(catalog, {name("lamp"): 5.0}, counted)
    add_uses(catalog, {name("lamp"): 6.0}, lambda use, at: use or Use(1.0, at))
    assert read_uses(catalog).used == {name("lamp"): Use(1.0, 5.0)}


def test_pins_are_told_with_the_uses(catalog: Catalog) -> None:
    add(catalog, [draft("lamp"), draft("bell")], WHO)
    pin(catalog, name("bell"), WHO, pinned=True)
    assert read_uses(catalog).pinned == {name("bell")}


def test_a_forgotten_memory_takes_its_uses_along(catalog: Catalog) -> None:
    add(catalog, [draft("lamp"), draft("bell")], WHO)
    add_uses(catalog, {name("lamp"): 5.0, name("bell"): 5.0}, counted)
    forget(catalog, [name("lamp")], WHO)
    with catalog.database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(uses)).scalar() == 1
    add(catalog, [draft("lamp")], WHO)
    assert read_uses(catalog).used == {name("bell"): Use(1.0, 5.0)}, "it is another memory of that name"


def test_writers_at_once_lose_nothing(catalog: Catalog, url: str | None) -> None:
    ids = [f"m{n}" for n in range(12)]
    add(catalog, [draft(one) for one in ids], WHO)

    def write(seed: int) -> None:
        with open_catalog(catalog.root, url) as mine:
            for turn in range(5):
                some = ids[seed:] + ids[:seed]  # each in another order
                add_uses(mine, {name(one): float(10 * seed + turn) for one in some}, counted)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert read_uses(catalog).used == {name(one): Use(20.0, 34.0) for one in ids}


def test_writers_and_who_forgets_do_not_disturb_each_other(catalog: Catalog, url: str | None) -> None:
    ids = [f"m{n}" for n in range(20)]
    add(catalog, [draft(one) for one in ids], WHO)

    def write() -> None:
        with open_catalog(catalog.root, url) as mine:
            for turn in range(20):
                add_uses(mine, {name(one): float(turn) for one in reversed(ids)}, counted)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        for one in ids[:15]:
            forget(catalog, [name(one)], WHO)
        writing.result()
    assert set(read_uses(catalog).used) == {name(one) for one in ids[15:]}


def test_many_memories_are_written_in_parts(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_catalog, "_TOGETHER", 7)
    ids = [f"m{n}" for n in range(15)]
    add(catalog, [draft(one) for one in ids], WHO)
    add_uses(catalog, {name(one): 1.0 for one in ids}, counted)
    assert read_uses(catalog).used == {name(one): Use(1.0, 1.0) for one in ids}


def test_names_are_told_apart_by_namespace(catalog: Catalog) -> None:
    add(catalog, [draft("lamp"), draft("lamp", namespace="ann")], WHO)
    add_uses(catalog, {MemoryName("ann", "lamp"): 5.0}, counted)
    assert read_uses(catalog).used == {MemoryName("ann", "lamp"): Use(1.0, 5.0)}


def test_a_catalog_that_cannot_be_asked_says_so(catalog: Catalog) -> None:
    catalog.database.write(uses.drop)
    with pytest.raises(BankError, match="refused"):
        read_uses(catalog)
