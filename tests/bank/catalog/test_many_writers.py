"""Many processes change one bank at once, and readers follow: nothing is lost, histories are complete."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.bank.catalog.replay import Said, require_whole, said, start, told
from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.events import events_after
from vllm_mega.bank.catalog.follower import Follower
from vllm_mega.bank.catalog.store import named, on_disk, sweep


def run(catalog: Catalog, url: str | None, writers: int, changes: int) -> dict[str, Said]:
    """What the writers were told; meanwhile two readers follow."""
    started = {f"writer-{seed}": start(catalog, url, seed, changes) for seed in range(1, writers + 1)}
    followers = [Follower(catalog), Follower(catalog)]
    for seen in follow(catalog, followers):
        assert seen >= 0
        if not any(writer.process.is_alive() for writer in started.values()):
            break
    found = {}
    for who, writer in started.items():
        with writer.output as output:
            found[who] = said(output.read())
        writer.process.join(60)
        assert writer.process.exitcode == 0
    fresh = Follower(catalog)
    for follower in (*followers, fresh):
        follower.refresh()
        assert dict(follower.rows) == dict(fresh.rows)
        follower.close()
    return found


def follow(catalog: Catalog, followers: list[Follower]) -> Iterator[int]:
    """Let the readers look again and again; what they see never falls behind, and has no gap."""
    number = 0
    while True:
        new = events_after(catalog, number)
        assert [event.number for event in new] == list(range(number + 1, number + 1 + len(new)))
        number += len(new)
        seen = [follower.refresh() for follower in followers]
        assert all(follower.number >= number for follower in followers)
        yield sum(seen)
        time.sleep(0.02)


def require_all(catalog: Catalog, found: dict[str, Said]) -> None:
    assert told(require_whole(catalog)) == found
    sweep(catalog)
    assert named(catalog) <= on_disk(catalog)


def test_four_writers(catalog: Catalog, url: str | None) -> None:
    found = run(catalog, url, 4, 25)
    assert sum(map(len, found.values())) > 60
    require_all(catalog, found)


@pytest.mark.slow
def test_eight_writers_with_two_hundred_changes_each(catalog: Catalog, url: str | None) -> None:
    found = run(catalog, url, 8, 200)
    assert sum(map(len, found.values())) > 1000
    require_all(catalog, found)
