"""Numbers of events: in the order of the commits, without gaps, also for readers in the middle."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.bank.catalog.invented import WHO, draft, name
from tests.bank.samples import BASE, EMBEDDER
from vllm_mega.bank.catalog import database as database_module
from vllm_mega.bank.catalog.catalog import Catalog, create_catalog
from vllm_mega.bank.catalog.changes import add, pin
from vllm_mega.bank.catalog.events import Change, events_after, last_event
from vllm_mega.bank.catalog.records import BankSettings
from vllm_mega.errors import BankError


def test_events_are_read_in_parts(catalog: Catalog) -> None:
    add(catalog, [draft(f"m{n}") for n in range(5)], WHO)
    assert [(e.number, e.id) for e in events_after(catalog, 0, limit=2)] == [(1, "m0"), (2, "m1")]
    assert [e.number for e in events_after(catalog, 2)] == [3, 4, 5]
    assert events_after(catalog, 5) == []


def test_a_namespace_has_its_own_events(catalog: Catalog) -> None:
    places = {"a": "sea", "b": "land", "c": "sea"}
    add(catalog, [draft(one, namespace=place) for one, place in places.items()], WHO)
    assert [e.id for e in events_after(catalog, 0, namespace="sea")] == ["a", "c"]
    (first,) = events_after(catalog, 0, 1, namespace="sea")
    assert [e.id for e in events_after(catalog, first.number, namespace="sea")] == ["c"]
    assert events_after(catalog, 0, namespace="air") == []


def test_a_quiet_namespace_does_not_walk_over_the_events_of_others(tmp_path: Path) -> None:
    with create_catalog(tmp_path / "bank", BankSettings(BASE, EMBEDDER)) as catalog:
        asked: list[tuple[str, Any]] = []
        sa.event.listen(
            catalog.database.engine, "before_cursor_execute", lambda *call: asked.append(call[2:4])
        )
        events_after(catalog, 5, namespace="sea")
        ((statement, values),) = [one for one in asked if one[0].startswith("SELECT")]
        with catalog.database.engine.connect() as connection:
            (plan,) = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
    assert plan[3] == "SEARCH events USING INDEX events_namespace (namespace=? AND number>?)"


def test_what_is_rolled_back_takes_its_number_with_it(catalog: Catalog) -> None:
    def act(connection: sa.Connection) -> None:
        change = Change(connection, WHO)
        change.note("added", 1, name(), 1)
        assert [event.number for event in change.write_events()] == [1]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        catalog.database.write(act)
    assert events_after(catalog, 0) == []
    add(catalog, [draft()], WHO)
    assert [event.number for event in events_after(catalog, 0)] == [1]


def test_a_later_number_waits_for_the_earlier_one(catalog: Catalog) -> None:
    """A writer that has its number and has not committed: nobody may commit the next one before it."""
    numbered, go = threading.Event(), threading.Event()
    order: list[str] = []

    def slow(connection: sa.Connection) -> None:
        change = Change(connection, "slow")
        change.note("settings", 0, name("", ""), 0)
        change.write_events()
        numbered.set()
        assert go.wait(30)
        order.append("slow")

    def fast() -> None:
        add(catalog, [draft()], "fast")
        order.append("fast")

    first = threading.Thread(target=catalog.database.write, args=(slow,))
    first.start()
    assert numbered.wait(30)
    second = threading.Thread(target=fast)
    second.start()
    second.join(0.5)
    assert second.is_alive()
    assert events_after(catalog, 0) == [], "nothing is seen before it is committed"
    go.set()
    first.join(30)
    second.join(30)
    assert order == ["slow", "fast"]
    assert [(event.number, event.who) for event in events_after(catalog, 0)] == [(1, "slow"), (2, "fast")]


def test_reading_sees_one_moment(catalog: Catalog) -> None:
    add(catalog, [draft()], WHO)
    with catalog.database.read() as connection:
        before = last_event(connection)
        pin(catalog, name(), WHO)
        assert last_event(connection) == before == 1
    with catalog.database.read() as connection:
        assert last_event(connection) == 2


def test_two_that_add_the_same_memory_at_once(catalog: Catalog) -> None:
    results: list[object] = []

    def act() -> None:
        try:
            results.append(add(catalog, [draft()], WHO)[0].newest)
        except BankError as error:
            results.append(str(error))

    threads = [threading.Thread(target=act) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(map(str, results))[0] == "1"
    assert [result for result in results if result != 1] == [
        "namespace 'default' has a memory 'lamp' already: update it"
    ] * 7
    assert len(events_after(catalog, 0)) == 1


def test_writers_that_block_each_other_try_again(catalog: Catalog) -> None:
    """Two lock two memories in the opposite order; PostgreSQL tells one of them to give way."""
    add(catalog, [draft("a"), draft("b")], WHO)
    both = threading.Barrier(2)
    tries: list[str] = []
    done: list[str] = []

    def crossing(first: str, second: str) -> None:
        def act(connection: sa.Connection) -> None:
            tries.append(first)
            held = sa.text("SELECT row FROM memories WHERE id = :id FOR UPDATE")
            connection.execute(held, {"id": first})
            if len(tries) <= 2:
                both.wait(30)
            connection.execute(held, {"id": second})

        catalog.database.write(act)
        done.append(first)

    if catalog.database.sqlite:
        return  # its writers are alone: there is nothing to cross
    threads = [threading.Thread(target=crossing, args=pair) for pair in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(done) == ["a", "b"]
    assert len(tries) >= 3, "nobody had to give way"


def test_a_busy_catalog_is_told(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    if not catalog.database.sqlite:
        return
    monkeypatch.setattr(database_module, "BUSY_S", 0.1)
    catalog.close()  # connections that are made from now on wait for a tenth of a second
    with catalog.database.engine.connect() as blocking:
        blocking.connection.cursor().execute("BEGIN IMMEDIATE")
        with pytest.raises(BankError, match="refused: database is locked"):
            add(catalog, [draft()], WHO)
        blocking.connection.rollback()
    add(catalog, [draft()], WHO)
