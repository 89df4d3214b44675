"""Leases: who trains what, what becomes of leases that end, and what becomes of late results."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.bank.catalog.invented import WHO, draft, name, placed
from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.changes import add, put, tag
from vllm_mega.bank.catalog.check import check
from vllm_mega.bank.catalog.database import Database
from vllm_mega.bank.catalog.events import events_after, events_of, last_event
from vllm_mega.bank.catalog.forgetting import forget
from vllm_mega.bank.catalog.jobs import (
    fail,
    give_back,
    lease,
    progress,
    publish,
    publish_all,
    renew,
    request_training,
    take_back,
)
from vllm_mega.bank.catalog.known import known, list_jobs, page_jobs
from vllm_mega.bank.catalog.reading import get_memory, get_version
from vllm_mega.bank.catalog.store import sweep
from vllm_mega.errors import BankError, LeaseLostError


class Clock:
    """The database's clock, in the test's hands."""

    def __init__(self) -> None:
        self.time = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    monkeypatch.setattr(Database, "now", lambda *_: made.time)
    return made


def state(catalog: Catalog) -> tuple[str, str]:
    memory = get_memory(catalog, "default", "lamp")
    return memory.state, memory.reason


def test_the_server_s_clock_is_about_right(catalog: Catalog) -> None:
    with catalog.database.read() as connection:
        assert abs(catalog.database.now(connection) - time.time()) < 60


def test_a_job_tells_since_when_and_how_far(catalog: Catalog, clock: Clock) -> None:
    add(catalog, [draft("a"), draft("b", 2), draft("c", 3)], WHO)
    clock.time = 500.0
    first, second = lease(catalog, "one", 60, limit=2)
    before = last_event_number(catalog)
    progress(catalog, [first, second], 7)
    assert last_event_number(catalog) == before
    clock.time = 510.0
    renew(catalog, second, 60)
    give_back(catalog, first)
    progress(catalog, [first, second], 9)
    assert [(job.id, job.state, job.started, job.steps) for job in list_jobs(catalog)] == [
        ("a", "waiting", 0.0, 0),
        ("b", "leased", 500.0, 9),
        ("c", "waiting", 0.0, 0),
    ]
    fail(catalog, second, "the loss is not finite")
    [_, again, _] = lease(catalog, "two", 60, limit=3)
    assert [(job.id, job.started, job.steps) for job in list_jobs(catalog)] == [
        (name, 510.0, 0) for name in "abc"
    ]
    assert again.name.id == "b"


def last_event_number(catalog: Catalog) -> int:
    return events_after(catalog, 0)[-1].number


def test_a_job_is_leased_once(catalog: Catalog) -> None:
    add(catalog, [draft("a"), draft("b", 2), draft("c", 3, namespace="other")], WHO)
    [a] = lease(catalog, "one", 60)
    [b] = lease(catalog, "two", 60, limit=10, namespace="default")
    [c] = lease(catalog, "two", 60, limit=10)
    assert ([a.id, b.id, c.id], lease(catalog, "three", 60)) == (["a", "b", "c"], [])
    assert (a.owner, a.attempt, a.version, a.text_digest) == ("one", 1, 1, draft("a").text_digest)
    assert get_version(catalog, *a.name, a.version).text == draft("a").memory.text
    assert get_memory(catalog, "default", "a").state == "training"


def test_a_lease_that_ends_goes_back_and_three_are_the_last(catalog: Catalog, clock: Clock) -> None:
    add(catalog, [draft()], WHO)
    for attempt in (1, 2, 3):
        [job] = lease(catalog, f"trainer-{attempt}", 60)
        assert job.attempt == attempt
        clock.time += 59
        assert lease(catalog, "other", 60) == []
        assert state(catalog)[0] == "training"
        clock.time += 2
    assert lease(catalog, "other", 60) == []
    assert state(catalog) == (
        "failed",
        "the trainer trainer-3 had it for attempt 3 and gave no result in time",
    )
    assert [event.kind for event in events_of(catalog, "default", "lamp")] == [
        "added", "leased", "returned", "leased", "returned", "leased", "failed",
    ]  # fmt: skip
    assert get_version(catalog, "default", "lamp").text == draft().memory.text


def test_renewing_keeps_a_lease(catalog: Catalog, clock: Clock) -> None:
    add(catalog, [draft()], WHO)
    [job] = lease(catalog, "trainer", 60)
    for _ in range(5):
        clock.time += 50
        job = renew(catalog, job, 60)
        assert job.expires == clock.time + 60
        assert lease(catalog, "other", 60) == []


def test_failures_say_why(catalog: Catalog) -> None:
    add(catalog, [draft()], WHO)
    for attempt, expected in enumerate(["pending", "pending", "failed"], 1):
        [job] = lease(catalog, "trainer", 60)
        assert fail(catalog, job, f"loss {attempt}").state == expected
        assert state(catalog) == (expected, f"loss {attempt}")
        with pytest.raises(LeaseLostError):
            fail(catalog, job, "again")
    assert lease(catalog, "trainer", 60) == []
    assert [memory.state for memory in request_training(catalog, [name()], WHO)] == ["pending"]
    [job] = lease(catalog, "trainer", 60)
    assert (job.attempt, state(catalog)) == (1, ("training", ""))


def test_what_is_given_back_was_no_attempt(catalog: Catalog) -> None:
    add(catalog, [draft()], WHO)
    for _ in range(5):
        [job] = lease(catalog, "trainer", 60)
        assert job.attempt == 1
        give_back(catalog, job)
    assert state(catalog) == ("pending", "")


def test_a_late_result_is_refused(catalog: Catalog, clock: Clock, tmp_path: Path) -> None:
    add(catalog, [draft()], WHO)
    [late] = lease(catalog, "late", 60)
    clock.time += 61
    [job] = lease(catalog, "other", 60)
    lost = placed(catalog, tmp_path, 1)
    for act in (lambda: publish(catalog, late, lost), lambda: renew(catalog, late, 60)):
        with pytest.raises(LeaseLostError, match=r"lamp \(attempt 1\) has ended"):
            act()
    publish(catalog, job, kept := placed(catalog, tmp_path, 2))
    assert get_version(catalog, "default", "lamp").adapter == kept.adapter


def test_a_late_result_that_nobody_else_makes_is_welcome(
    catalog: Catalog, clock: Clock, tmp_path: Path
) -> None:
    add(catalog, [draft()], WHO)
    [job] = lease(catalog, "late", 60)
    clock.time += 61
    assert publish(catalog, job, placed(catalog, tmp_path)).state == "ready"


@pytest.mark.parametrize("change", ["forget", "update"])
def test_nothing_waits_for_a_training(change: str, catalog: Catalog, tmp_path: Path) -> None:
    add(catalog, [draft()], WHO)
    [job] = lease(catalog, "trainer", 60)
    if change == "forget":
        forget(catalog, [name()], WHO)
    else:
        put(catalog, [draft(nights=2)], WHO)
    with pytest.raises(LeaseLostError):
        publish(catalog, job, placed(catalog, tmp_path))
    assert len(lease(catalog, "trainer", 60)) == (0 if change == "forget" else 1)


def test_training_again_keeps_the_adapter_until_the_new_one_is_there(
    catalog: Catalog, tmp_path: Path
) -> None:
    add(catalog, [draft(trained=(old := placed(catalog, tmp_path, 1)))], WHO)
    assert [memory.state for memory in request_training(catalog, [name()], WHO)] == ["pending"]
    assert get_version(catalog, "default", "lamp").adapter == old.adapter
    [job] = lease(catalog, "trainer", 60)
    memory = publish(catalog, job, new := placed(catalog, tmp_path, 2))
    assert (memory.state, memory.newest) == ("ready", 1)
    assert get_version(catalog, "default", "lamp").adapter == new.adapter


def test_a_claim_that_ended_names_nothing(catalog: Catalog, clock: Clock, tmp_path: Path) -> None:
    add(catalog, [draft()], WHO)
    [job] = lease(catalog, "trainer", 10_000)
    trained = placed(catalog, tmp_path)
    clock.time += 3601
    assert sweep(catalog) == 1
    with pytest.raises(BankError, match="place it again"):
        publish(catalog, job, trained)
    assert publish(catalog, job, placed(catalog, tmp_path)).state == "ready"


def test_the_key_may_come_with_the_adapter(catalog: Catalog, tmp_path: Path) -> None:
    without = msgspec.structs.replace(draft(), key=None)
    add(catalog, [without], WHO)
    publish(catalog, *lease(catalog, "trainer", 60), placed(catalog, tmp_path), key=draft().key)
    assert get_version(catalog, "default", "lamp").key == draft().key


def test_jobs_of_these_memories_alone(catalog: Catalog) -> None:
    add(catalog, [draft("a"), draft("b", 2), draft("a", 3, namespace="other")], WHO)
    chosen = [name("a"), name("missing"), name("a", "other")]
    jobs = lease(catalog, "one", 60, limit=10, names=chosen)
    assert [job.name for job in jobs] == [name("a"), name("a", "other")]
    assert lease(catalog, "one", 60, limit=10, names=chosen) == []
    assert lease(catalog, "one", 60, names=[]) == []


def test_results_are_published_together_but_for_lost_leases(catalog: Catalog, tmp_path: Path) -> None:
    add(catalog, [draft("a"), draft("b", 2), draft("c", 3)], WHO)
    jobs = lease(catalog, "one", 60, limit=3)
    forget(catalog, [name("b")], WHO)
    before = last(catalog)
    results = [(job, placed(catalog, tmp_path, n)) for n, job in reversed(list(enumerate(jobs)))]
    c, b, a = publish_all(catalog, results, "one")
    assert isinstance(b, LeaseLostError)
    assert [(one.id, one.state) for one in (a, c) if not isinstance(one, LeaseLostError)] == [
        ("a", "ready"), ("c", "ready"),
    ]  # fmt: skip
    assert last(catalog) == before + 2
    assert get_version(catalog, "default", "c").adapter == results[0][1].adapter


def test_a_dead_trainer_s_leases_go_back_at_once(catalog: Catalog) -> None:
    add(catalog, [draft("a"), draft("b", 2)], WHO)
    lease(catalog, "dead", 600)
    lease(catalog, "alive", 600)
    take_back(catalog, lambda owner: owner == "dead", WHO)
    assert [(job.id, job.state, job.owner, job.attempts) for job in list_jobs(catalog)] == [
        ("a", "waiting", "", 1), ("b", "leased", "alive", 1),
    ]  # fmt: skip
    assert list_jobs(catalog)[0].reason == "the trainer dead had it for attempt 1 and gave no result in time"
    assert list_jobs(catalog, "other") == []


def test_pages_of_jobs(catalog: Catalog) -> None:
    add(catalog, [draft("a"), draft("b", 2), draft("c", 3), draft("d", 4, namespace="other")], WHO)
    [first] = lease(catalog, "one", 60)
    page = page_jobs(catalog, "default", limit=2)
    assert [(job.id, job.state) for job in page.jobs] == [("a", "leased"), ("b", "waiting")]
    forget(catalog, [name("b")], WHO)
    add(catalog, [draft("e", 5)], WHO)
    rest = page_jobs(catalog, "default", limit=2, cursor=page.cursor)
    assert ([job.id for job in rest.jobs], rest.cursor) == (["c", "e"], None)
    assert [job.id for job in page_jobs(catalog, "default", "leased").jobs] == [first.id]
    with pytest.raises(BankError, match="no cursor that a page gave"):
        page_jobs(catalog, "default", cursor="b")
    with pytest.raises(BankError, match=r"1\.\.1000 jobs"):
        page_jobs(catalog, "default", limit=0)


def test_what_is_known_of_many_at_once(catalog: Catalog, tmp_path: Path) -> None:
    trained = placed(catalog, tmp_path, recipe="c" * 64, training={"ending": "learnt"})
    names = [name(f"m-{n}") for n in range(900)]
    add(catalog, [draft(n.id, trained=trained if n.id == "m-7" else None) for n in names], WHO)
    put(catalog, [draft("m-7", 2, tags=("sea",))], WHO)
    found = known(catalog, [*names, name("missing")])
    assert set(found) == set(names)
    assert (found[names[0]].state, found[names[0]].adapter, found[names[0]].version) == ("pending", None, 1)
    seven = found[name("m-7")]
    assert (seven.state, seven.version, seven.tags) == ("pending", 1, ("sea",))
    assert (seven.text_digest, seven.answers) == (
        draft("m-7", 2).text_digest, draft("m-7").text_digest,
    )  # fmt: skip
    assert (seven.adapter, seven.recipe, seven.training) == (
        trained.adapter, "c" * 64, {"ending": "learnt"},
    )  # fmt: skip


def test_a_tag_does_not_end_the_wish_to_train_again(catalog: Catalog, tmp_path: Path) -> None:
    add(catalog, [draft(trained=placed(catalog, tmp_path))], WHO)
    request_training(catalog, [name()], WHO)
    [job] = lease(catalog, "one", 60)
    tagged = tag(catalog, name(), WHO, add=["sea"])
    assert (tagged.state, tagged.newest, tagged.current) == ("training", 2, 2)
    other = placed(catalog, tmp_path, 2)
    assert publish(catalog, job, other).state == "ready"
    assert get_version(catalog, "default", "lamp").adapter == other.adapter
    assert check(catalog) == []


def last(catalog: Catalog) -> int:
    with catalog.database.read() as connection:
        return last_event(connection)
