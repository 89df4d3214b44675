"""What has expired is nobody's from the moment on, and is then forgotten for good."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

import pytest

from tests.bank.catalog.following import Index
from tests.bank.catalog.invented import WHO, draft, name, placed
from tests.bank.samples import SHAPES
from tests.clock import Forward, forward, in_seconds
from vllm_mega.bank.catalog.catalog import CATALOG_FILE, Catalog
from vllm_mega.bank.catalog.changes import Edit, add, edit, link, put, restore, tag
from vllm_mega.bank.catalog.check import check
from vllm_mega.bank.catalog.events import events_after, find_stamp
from vllm_mega.bank.catalog.expiring import expire
from vllm_mega.bank.catalog.follower import Follower
from vllm_mega.bank.catalog.forgetting import forget
from vllm_mega.bank.catalog.jobs import lease, publish, request_training
from vllm_mega.bank.catalog.known import find_job, known, links_of, list_jobs
from vllm_mega.bank.catalog.reading import (
    count_memories,
    get_links,
    get_memory,
    get_version,
    history,
    list_memories,
)
from vllm_mega.bank.catalog.records import CLOCK, Filter
from vllm_mega.bank.catalog.store import adapter_folder
from vllm_mega.errors import DraftError, LeaseLostError, LimitError, MemoryNotFoundError


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Forward:
    return forward(monkeypatch)


def two(catalog: Catalog) -> None:
    """The bell expires in a minute, the lamp does not."""
    add(catalog, [draft("bell", expires_at=in_seconds(60), links=("lamp",)), draft("lamp")], WHO)


def ids(catalog: Catalog, **chosen: bool) -> list[str]:
    return [memory.id for memory in list_memories(catalog, Filter(**chosen)).memories]


def test_nobody_can_read_or_change_it(catalog: Catalog, later: Forward) -> None:
    two(catalog)
    later(59)
    assert ids(catalog) == ["lamp", "bell"]
    later(61)
    bell = name("bell")
    for read in (get_memory, get_version, history, get_links):
        with pytest.raises(MemoryNotFoundError, match=r"has no memory 'bell'$"):
            read(catalog, *bell)
    for change in (
        lambda: tag(catalog, bell, WHO, add=["x"]),
        lambda: link(catalog, bell, ["x"], WHO),
        lambda: edit(catalog, bell, Edit(expires=None), WHO),
        lambda: restore(catalog, bell, 1, WHO),
        lambda: request_training(catalog, [bell], WHO),
        lambda: forget(catalog, [bell], WHO),
        lambda: find_job(catalog, bell),
    ):
        with pytest.raises(MemoryNotFoundError, match=r"has no memory 'bell'$"):
            change()
    assert (ids(catalog), ids(catalog, expired=True), count_memories(catalog)) == (["lamp"], ["bell"], 1)
    assert set(known(catalog, [bell, name("lamp")])) == {name("lamp")}
    assert links_of(catalog, [bell]) == {}
    assert [job.id for job in list_jobs(catalog)] == ["lamp"]
    assert [job.id for job in lease(catalog, "trainer", 60, limit=5)] == ["lamp"]


def test_a_reader_that_hears_of_nothing_lets_it_go(
    catalog: Catalog, follower: Follower, index: Index, later: Forward
) -> None:
    two(catalog)
    assert follower.refresh() == 2
    later(61)
    assert follower.refresh() == 0
    assert set(follower.rows) == set(index.keys) == {name("lamp")}
    again = Follower(catalog, Index())
    assert dict(again.rows) == dict(follower.rows)
    again.close()
    expire(catalog)
    assert follower.refresh() == 1, "the event comes when it is gone already"
    assert set(follower.rows) == {name("lamp")}


def test_a_reader_that_begins_before_lets_it_go_too(catalog: Catalog, later: Forward) -> None:
    two(catalog)
    follower = Follower(catalog)
    later(61)
    follower.refresh()
    assert set(follower.rows) == {name("lamp")}
    follower.close()


def test_a_reader_follows_what_is_told_later(catalog: Catalog, follower: Follower, later: Forward) -> None:
    two(catalog)
    follower.refresh()
    edit(catalog, name("bell"), Edit(expires=None), WHO)
    edit(catalog, name("lamp"), Edit(expires=time.time() + 30), WHO)
    follower.refresh()
    later(61)
    follower.refresh()
    assert set(follower.rows) == {name("bell")}


def test_it_is_forgotten_for_good(catalog: Catalog, tmp_path: Path, later: Forward) -> None:
    two(catalog)
    trained = placed(catalog, tmp_path)
    put(catalog, [draft("bell", trained=trained)], WHO)
    folder = adapter_folder(catalog, trained.adapter)
    assert expire(catalog) == []
    assert folder.is_dir()
    later(61)
    assert expire(catalog) == [name("bell")]
    assert expire(catalog) == []
    (event,) = events_after(catalog, 3)
    assert (event.kind, event.id, event.version, event.who) == ("expired", "bell", 2, CLOCK)
    assert ids(catalog, expired=True) == []
    assert not folder.exists()
    assert check(catalog, SHAPES) == []
    if catalog.database.sqlite:
        assert b"lamp of bell" not in (catalog.root / CATALOG_FILE).read_bytes()


def test_its_id_and_its_room_are_free_at_once(catalog: Catalog, later: Forward) -> None:
    two(catalog)
    with pytest.raises(LimitError):
        put(catalog, [draft("horn")], WHO, most=2)
    later(61)
    (again,) = add(catalog, [draft("bell", 2)], "ann")
    assert (again.newest, again.expires) == (2, None), "numbers of versions are never used twice"
    put(catalog, [draft("bell", 3)], WHO, most=2)
    told = [(event.kind, event.id, event.who) for event in events_after(catalog, 2)]
    assert told == [("expired", "bell", CLOCK), ("added", "bell", "ann"), ("updated", "bell", WHO)]


def test_when_can_be_changed(catalog: Catalog) -> None:
    two(catalog)
    lamp, moment = name("lamp"), time.time() + 3600
    with catalog.database.read() as connection:
        before = find_stamp(connection, lamp)
    for expires in (moment, moment, None, None):
        assert edit(catalog, lamp, Edit(expires=expires), WHO).expires == expires
    assert [event.kind for event in events_after(catalog, 2)] == ["dated", "dated"]
    with catalog.database.read() as connection:
        assert find_stamp(connection, lamp) > before
    bell = get_memory(catalog, "default", "bell").expires
    assert put(catalog, [draft("bell", 2)], WHO)[0].expires == bell, "who does not tell leaves it"
    assert put(catalog, [draft("bell", 2, expires_at=in_seconds(99))], WHO)[0].expires != bell


def test_nothing_comes_that_has_expired(catalog: Catalog) -> None:
    two(catalog)
    for act in (
        lambda: put(catalog, [draft("new"), draft("old", expires_at=in_seconds(-1))], WHO),
        lambda: put(catalog, [draft("lamp", expires_at=in_seconds(-1))], WHO),
        lambda: edit(catalog, name("lamp"), Edit(expires=time.time() - 1), WHO),
    ):
        with pytest.raises(DraftError, match="expires_at must be later than now, found 20"):
            act()
    with pytest.raises(ValueError, match="expires_at must name its zone"):
        draft(expires_at=datetime(2999, 1, 1))
    assert len(events_after(catalog, 0)) == 2


def test_who_trains_it_has_lost_his_lease(catalog: Catalog, tmp_path: Path, later: Forward) -> None:
    two(catalog)
    [job] = lease(catalog, "trainer", 600, names=[name("bell")])
    trained = placed(catalog, tmp_path)
    later(61)
    with pytest.raises(LeaseLostError):
        publish(catalog, job, trained)
