"""A process that changes a bank at random: python -m tests.bank.catalog.writer ROOT URL SEED COUNT

After each commit it says what it was told: a line of JSON, a list of kind, id and version.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from tests.bank.catalog.invented import draft, name, placed
from vllm_mega.bank.catalog.catalog import Catalog, open_catalog
from vllm_mega.bank.catalog.changes import link, put, tag
from vllm_mega.bank.catalog.forgetting import forget
from vllm_mega.bank.catalog.jobs import fail, lease, publish
from vllm_mega.errors import LeaseLostError, MemoryNotFoundError

MEMORIES = 12
"""Few, so that writers meet."""


def say(kind: str, memory_id: str, version: int) -> None:
    print(json.dumps([kind, memory_id, version]), flush=True)  # noqa: T201


class Writer:
    """Does one random thing after the other."""

    def __init__(self, catalog: Catalog, seed: int, folder: Path) -> None:
        self.catalog = catalog
        self.who = f"writer-{seed}"
        self.folder = folder
        self.random = random.Random(seed)
        self.count = 0

    def step(self) -> None:
        self.count += 1
        acts = [self.put, self.put, self.tag, self.link, self.train, self.forget]
        with suppress(MemoryNotFoundError, LeaseLostError):  # another writer was faster
            self.random.choice(acts)(f"m{self.random.randrange(MEMORIES)}")

    def put(self, memory_id: str) -> None:
        given = draft(memory_id, self.random.randrange(10**9))
        say("written", memory_id, put(self.catalog, [given], self.who)[0].newest)

    def tag(self, memory_id: str) -> None:
        new = f"{self.who}-{self.count}"
        say("written", memory_id, tag(self.catalog, name(memory_id), self.who, add=[new]).newest)

    def link(self, memory_id: str) -> None:
        link(self.catalog, name(memory_id), [f"{self.who}-{self.count}"], self.who)
        say("linked", memory_id, 0)

    def forget(self, memory_id: str) -> None:
        [event] = forget(self.catalog, [name(memory_id)], self.who).events
        say("forgotten", memory_id, event.version)

    def train(self, _: str) -> None:
        for job in lease(self.catalog, self.who, 60):
            say("leased", job.id, job.version)
            if self.random.random() < 0.2:
                fail(self.catalog, job, "bad luck")
                say("ended", job.id, 0)
                continue
            memory = publish(self.catalog, job, placed(self.catalog, self.folder, self.random.randrange(5)))
            say("ready", job.id, memory.newest)


def main(root: str, url: str, seed: str, count: str) -> None:
    with tempfile.TemporaryDirectory() as folder, open_catalog(root, url or None) as catalog:
        writer = Writer(catalog, int(seed), Path(folder))
        for _ in range(int(count)):
            writer.step()


if __name__ == "__main__":
    main(*sys.argv[1:])
