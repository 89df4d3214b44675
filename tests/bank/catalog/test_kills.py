"""Writers that are killed at random moments: what they were told is there, and nothing is half."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.bank.catalog import maker
from tests.bank.catalog.replay import Said, require_whole, said, speaking, start, told
from tests.bank.samples import BASE, EMBEDDER
from vllm_mega.bank.catalog.catalog import Catalog, create_catalog, open_catalog
from vllm_mega.bank.catalog.records import BankSettings
from vllm_mega.bank.catalog.store import sweep
from vllm_mega.errors import BankNotFoundError


def killed(catalog: Catalog, url: str | None, seed: int) -> Said:
    """What a writer was told before it was killed, at some moment after its first change."""
    chance = random.Random(seed)
    writer, output = start(catalog, url, seed, 10**6)
    with output:
        first = output.readline()
        time.sleep(chance.uniform(0, 0.4))
        writer.kill()
        rest = output.read()
    writer.join(30)
    assert writer.exitcode == -9
    return said(first + rest)


def kill_often(catalog: Catalog, url: str | None, seeds: range) -> int:
    """Kill a writer for every seed, and look at the bank after each; how many changes they were told of."""
    count = 0
    for seed in seeds:
        acknowledged = killed(catalog, url, seed)
        done = told(require_whole(catalog))[f"writer-{seed}"]
        assert done[: len(acknowledged)] == acknowledged, "a commit is lost"
        assert len(done) <= len(acknowledged) + 1
        count += len(acknowledged)
        if seed % 5 == 0:
            sweep(catalog)
    return count


def test_some_kills(catalog: Catalog, url: str | None) -> None:
    assert kill_often(catalog, url, range(1, 6)) > 5


@pytest.mark.slow
def test_a_hundred_kills(catalog: Catalog, url: str | None) -> None:
    assert kill_often(catalog, url, range(100, 200)) > 100


def test_making_a_bank_is_killed(url: str | None, tmp_path: Path) -> None:
    settings = BankSettings(BASE, EMBEDDER)
    root = tmp_path / "bank"
    for delay in (0.0, 0.01, 0.05, 0.1):
        making, output = speaking(maker.main, str(root), url or "")
        with output:
            assert output.readline() == "begins\n"
            time.sleep(delay)
            making.kill()
            done = output.read() == "done\n"
        making.join(30)
        try:
            open_catalog(root, url).close()
            break
        except BankNotFoundError:
            assert not done
    else:
        create_catalog(root, settings, url).close()
    with open_catalog(root, url) as catalog:
        assert catalog.settings() == settings
