"""A reader that follows: it sees each change, reads only what is new, and hands on the keys."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from tests.bank.catalog.following import Index
from tests.bank.catalog.invented import WHO, draft, name, placed
from tests.bank.samples import BASE, EMBEDDER, key
from vllm_mega.bank.catalog.catalog import Catalog, create_catalog
from vllm_mega.bank.catalog.changes import add, link, pin, put, restore, set_chat_template, tag
from vllm_mega.bank.catalog.events import events_of
from vllm_mega.bank.catalog.follower import Follower
from vllm_mega.bank.catalog.forgetting import forget
from vllm_mega.bank.catalog.jobs import lease, publish, renew
from vllm_mega.bank.catalog.reading import measure_adapters
from vllm_mega.bank.catalog.records import BankSettings, Row
from vllm_mega.errors import BankError


def test_it_begins_with_everything(catalog: Catalog, index: Index) -> None:
    add(catalog, [draft("a", 1, tags=("night",), links=("b", "c")), draft("b", 2)], WHO)
    follower = Follower(catalog, index)
    (said,) = events_of(catalog, "default", "a")
    row = Row("default", "a", 1, "pending", "", ("night",), ("b", "c"), None, said.at)
    assert follower.rows[name("a")] == row
    assert set(follower.rows) == {name("a"), name("b")}
    assert (follower.number, follower.settings) == (2, catalog.settings())
    np.testing.assert_array_equal(index.keys[name("b")], key(2))
    assert follower.refresh() == 0
    follower.close()


def test_it_sees_every_change(catalog: Catalog, follower: Follower, index: Index, tmp_path: Path) -> None:
    def row() -> Row:
        assert follower.refresh() > 0
        return follower.rows[name()]

    add(catalog, [draft()], WHO)
    assert (row().state, row_key(index)) == ("pending", key(1).tobytes())
    [job] = lease(catalog, "trainer", 60)
    assert row().state == "training"
    trained = placed(catalog, tmp_path)
    publish(catalog, job, trained)
    seen = row()
    assert (seen.state, seen.adapter) == ("ready", trained.adapter)
    assert measure_adapters(catalog) == (1, trained.bytes, 2)
    link(catalog, name(), ["oil"], WHO)
    assert row().links == ("oil",)
    tag(catalog, name(), WHO, add=["night"])
    seen = row()
    assert (seen.tags, seen.version) == (("night",), 2)
    put(catalog, [draft(nights=2, tags=("day",))], WHO)
    seen = row()
    assert (seen.version, seen.tags, seen.state) == (2, ("day",), "pending"), (
        "the old text answers, with new tags"
    )
    assert row_key(index) == key(1).tobytes()
    forget(catalog, [name()], WHO)
    follower.refresh()
    assert (dict(follower.rows), index.keys) == ({}, {})


def row_key(index: Index) -> bytes:
    return index.keys[name()].tobytes()


def test_it_applies_many_changes_at_once(catalog: Catalog, follower: Follower, index: Index) -> None:
    add(catalog, [draft("a"), draft("b"), draft("c")], WHO)
    follower.refresh()
    forget(catalog, [name("a"), name("b")], WHO)
    add(catalog, [draft("b", 5), draft("d")], WHO)
    forget(catalog, [name("d")], WHO)
    assert follower.refresh() == 5
    assert set(follower.rows) == set(index.keys) == {name("b"), name("c")}
    assert follower.rows[name("b")].version == 2
    np.testing.assert_array_equal(index.keys[name("b")], key(5))


def test_a_change_without_an_event_is_no_news(catalog: Catalog, follower: Follower) -> None:
    add(catalog, [draft()], WHO)
    [job] = lease(catalog, "trainer", 60)
    assert follower.refresh() == 2
    renew(catalog, job, 60)
    assert follower.refresh() == 0


def test_a_memory_is_as_old_as_its_text(
    catalog: Catalog, follower: Follower, index: Index, tmp_path: Path
) -> None:
    def ages(*ids: str) -> list[float]:
        follower.refresh()
        again = Follower(catalog, index)
        assert dict(again.rows) == dict(follower.rows), "who comes later sees it otherwise"
        again.close()
        return [follower.rows[name(one)].age for one in ids]

    add(catalog, [draft("b"), draft("a"), draft("c", trained=placed(catalog, tmp_path))], WHO)
    b, a, c = ages("b", "a", "c")
    assert b < a < c, "of one change, the later line is the newer"
    tag(catalog, name("b"), WHO, add=["night"])
    put(catalog, [draft("c", 2)], WHO)
    assert ages("b", "c") == [b, c], "tags are not text, and what waits for its adapter does not answer"
    put(catalog, [draft("a", 2)], WHO)
    tag(catalog, name("a"), WHO, add=["night"])
    (told,) = ages("a")
    assert told > c
    restore(catalog, name("b"), 1, WHO)
    restore(catalog, name("a"), 1, WHO)
    assert ages("b")[0] == b
    assert ages("a")[0] > told, "what was said anew is new"


def test_nothing_changes_as_long_as_it_stands_still(catalog: Catalog, follower: Follower) -> None:
    add(catalog, [draft("a")], WHO)
    with follower.still():
        assert set(follower.rows) == {name("a")}
        add(catalog, [draft("b")], WHO)
        other = threading.Thread(target=follower.refresh)
        other.start()
        other.join(0.2)
        assert other.is_alive()
        assert set(follower.rows) == {name("a")}
    other.join()
    assert set(follower.rows) == {name("a"), name("b")}


def test_settings_are_followed(catalog: Catalog, follower: Follower) -> None:
    set_chat_template(catalog, "{{ new }}", WHO)
    assert follower.refresh() == 1
    assert follower.settings.base.chat_template == "{{ new }}"
    assert dict(follower.rows) == {}


def test_nothing_new_costs_one_question(catalog: Catalog, follower: Follower) -> None:
    statements: list[str] = []
    sa.event.listen(
        catalog.database.engine, "before_cursor_execute", lambda *call: statements.append(call[2])
    )
    for _ in range(3):
        assert follower.refresh() == 0
    assert statements == [], "the question goes past SQLAlchemy: it is one statement of the driver's"
    add(catalog, [draft("a"), draft("b")], WHO)
    statements.clear()
    follower.refresh()
    assert 0 < len(statements) < 10


def test_only_what_is_new_is_read(catalog: Catalog, follower: Follower) -> None:
    add(catalog, [draft(f"m{n}") for n in range(50)], WHO)
    follower.refresh()
    before = {known: id(row) for known, row in follower.rows.items()}
    pin(catalog, name("m7"), WHO)
    follower.refresh()
    assert {known for known, row in follower.rows.items() if before[known] != id(row)} == {name("m7")}


def test_no_question_walks_a_table(tmp_path: Path) -> None:
    """However many memories there are: SQLite says how it will find what is new."""
    with create_catalog(tmp_path / "bank", BankSettings(BASE, EMBEDDER)) as catalog:
        follower = Follower(catalog, Index())
        add(catalog, [draft(links=("oil",))], WHO)
        asked: list[tuple[str, object]] = []
        sa.event.listen(
            catalog.database.engine, "before_cursor_execute", lambda *call: asked.append(call[2:4])
        )
        follower.refresh()
        follower.close()
        selects = [question for question in asked if question[0].startswith("SELECT")]
        with catalog.database.engine.connect() as connection:
            plans = [
                (step[3], statement)
                for statement, values in selects
                for step in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)  # type: ignore[arg-type]
            ]
    assert len(plans) > 3
    assert [plan for plan in plans if plan[0].startswith("SCAN") and "counter" not in plan[0]] == []


def test_without_an_index_no_keys_are_read(catalog: Catalog) -> None:
    add(catalog, [draft()], WHO)
    statements: list[str] = []
    sa.event.listen(
        catalog.database.engine, "before_cursor_execute", lambda *call: statements.append(call[2])
    )
    follower = Follower(catalog)
    follower.close()
    assert not any(".key" in statement for statement in statements)


def test_what_could_not_be_applied_is_applied_next_time(
    catalog: Catalog, follower: Follower, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(catalog, [draft()], WHO)
    with monkeypatch.context() as patch:
        patch.setattr(index, "put", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            follower.refresh()
    assert follower.refresh() == 1
    assert set(follower.rows) == set(index.keys) == {name()}


def test_a_broken_key_is_refused(catalog: Catalog, follower: Follower) -> None:
    add(catalog, [draft()], WHO)
    catalog.database.write(lambda connection: connection.execute(sa.text("UPDATE versions SET key = NULL")))
    catalog.database.write(
        lambda connection: connection.execute(sa.text("UPDATE versions SET key = :key"), {"key": b"abc"})
    )
    with pytest.raises(BankError, match="expected keys of 32 bytes"):
        follower.refresh()


def test_it_asks_again_when_the_server_was_away(catalog: Catalog, follower: Follower) -> None:
    add(catalog, [draft()], WHO)
    if catalog.database.sqlite:
        follower.close()
    else:
        others = sa.text(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        catalog.database.write(lambda connection: connection.execute(others))
    assert follower.refresh() == 1
    assert set(follower.rows) == {name()}
