"""A request with a key is done once: with its row, or not at all."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import sqlalchemy as sa

from tests.bank.catalog.invented import WHO, draft, name
from tests.clock import forward
from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.changes import Edit, add, edit, put
from vllm_mega.bank.catalog.events import events_after
from vllm_mega.bank.catalog.expiring import expire
from vllm_mega.bank.catalog.forgetting import forget
from vllm_mega.bank.catalog.once import AlreadyDone, Once, noting, require_new
from vllm_mega.bank.catalog.tables import idempotency
from vllm_mega.errors import KeyReusedError, MemoryNotFoundError

ONCE = Once("default", "key", "request")


def versions_of(stored: Any) -> list[tuple[str, int]]:
    return [(memory.id, memory.newest) for memory in stored]


def rows(catalog: Catalog) -> int:
    with catalog.database.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(idempotency)).scalar_one()


def test_it_is_done_once(catalog: Catalog) -> None:
    require_new(catalog, ONCE)
    add(noting(catalog, ONCE, versions_of), [draft("bell")], WHO)
    with pytest.raises(AlreadyDone) as again:
        require_new(catalog, ONCE)
    assert again.value.kept == [["bell", 1]]
    with pytest.raises(AlreadyDone):
        put(noting(catalog, ONCE, versions_of), [draft("bell", 2)], WHO)
    assert [event.kind for event in events_after(catalog, 0)] == ["added"]
    other = Once("default", "key", "another request")
    for act in (
        lambda: require_new(catalog, other),
        lambda: put(noting(catalog, other, versions_of), [draft("lamp")], WHO),
    ):
        with pytest.raises(KeyReusedError, match="another request had this key within a day"):
            act()
    require_new(catalog, Once("garden", "key", "another request"))
    assert len(events_after(catalog, 0)) == 1


def test_what_is_refused_leaves_no_row(catalog: Catalog) -> None:
    with pytest.raises(MemoryNotFoundError):
        edit(noting(catalog, ONCE, str), name("bell"), Edit(pinned=True), WHO)
    assert rows(catalog) == 0
    add(catalog, [draft("bell")], WHO)
    assert edit(
        noting(catalog, ONCE, lambda memory: memory.newest), name("bell"), Edit(pinned=True), WHO
    ).pinned


def test_a_change_whose_row_cannot_be_written_is_not_made(catalog: Catalog) -> None:
    """As if the process had died between both."""
    with pytest.raises(ZeroDivisionError):
        add(noting(catalog, ONCE, lambda _: 1 / 0), [draft("bell")], WHO)
    assert (events_after(catalog, 0), rows(catalog)) == ([], 0)


def test_what_follows_the_change_is_no_other_request(catalog: Catalog) -> None:
    """Forgetting looks for adapters afterwards, in transactions of its own."""
    add(catalog, [draft("bell")], WHO)
    forget(noting(catalog, ONCE, len), [name("bell")], WHO)
    with pytest.raises(AlreadyDone) as again:
        require_new(catalog, ONCE)
    assert again.value.kept == 1


def test_of_two_at_once_one_acts(catalog: Catalog) -> None:
    found: list[object] = []
    ready = threading.Barrier(4)

    def act(n: int) -> None:
        noted = noting(catalog, ONCE, versions_of)
        ready.wait(30)
        try:
            found.append(add(noted, [draft("bell", n)], WHO)[0].newest)
        except AlreadyDone as done:
            found.append(done.kept)

    threads = [threading.Thread(target=act, args=(n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(map(str, found)) == ["1", *["[['bell', 1]]"] * 3]
    assert len(events_after(catalog, 0)) == 1


def test_a_day_later_the_key_is_new(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    add(noting(catalog, ONCE, versions_of), [draft("bell")], WHO)
    later = forward(monkeypatch)
    later(24 * 3600 - 60)
    with pytest.raises(AlreadyDone):
        require_new(catalog, ONCE)
    later(24 * 3600 + 60)
    require_new(catalog, ONCE)
    put(noting(catalog, ONCE, versions_of), [draft("bell", 2)], WHO)
    with pytest.raises(AlreadyDone) as again:
        require_new(catalog, ONCE)
    assert again.value.kept == [["bell", 2]]
    later(3 * 24 * 3600)
    expire(catalog)
    assert rows(catalog) == 0
