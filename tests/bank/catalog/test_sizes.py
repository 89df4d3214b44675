"""How much is in a bank, on both databases."""

from __future__ import annotations

from pathlib import Path

from tests.bank.catalog.invented import WHO, draft, placed
from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.changes import add
from vllm_mega.bank.catalog.jobs import ATTEMPTS, fail, lease, publish
from vllm_mega.bank.catalog.sizes import sizes

NONE = {"pending": 0, "training": 0, "ready": 0, "failed": 0}
NO_JOBS = {"waiting": 0, "leased": 0, "failed": 0}


def test_an_empty_bank(catalog: Catalog) -> None:
    found = sizes(catalog)
    assert (found.memories, found.jobs, found.adapters, found.adapter_bytes) == (NONE, NO_JOBS, 0, 0)


def test_memories_and_jobs_by_state_and_adapters_once(catalog: Catalog, tmp_path: Path) -> None:
    trained, again = (placed(catalog, tmp_path / name, seed=1) for name in "ab")
    add(catalog, [draft("failing")], WHO)
    for _ in range(ATTEMPTS):
        (job,) = lease(catalog, "trainer", 60)
        fail(catalog, job, "it diverged")
    add(catalog, [draft(name) for name in "abcde"], WHO)
    first, second, _ = lease(catalog, "trainer", 60, limit=3)
    publish(catalog, first, trained)
    publish(catalog, second, again)
    found = sizes(catalog)
    assert found.memories == {"pending": 2, "training": 1, "ready": 2, "failed": 1}
    assert found.jobs == {"waiting": 2, "leased": 1, "failed": 1}
    assert (found.adapters, found.adapter_bytes) == (1, trained.bytes)
