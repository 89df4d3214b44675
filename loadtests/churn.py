"""Requests during updates and forgets: python -m loadtests.churn --output out/churn.json

A real server answers requests for memories that are updated, forgotten and added again all the time, while
its worker is stopped and continued. No request may fail because of that, and the engine must live.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
from rich.console import Console
from rich.table import Table

from loadtests.processes import processes, started
from loadtests.program import Add, Program, at_least, fresh_log, positive
from vllm_mega.bank.catalog import forgetting
from vllm_mega.bank.catalog.catalog import Catalog, open_catalog
from vllm_mega.bank.catalog.drafts import draft_of
from vllm_mega.bank.catalog.reading import get_version
from vllm_mega.bank.catalog.records import MemoryName
from vllm_mega.bank.layout import ADAPTER_CONFIG, NewMemory
from vllm_mega.config import DEFAULT_NAMESPACE
from vllm_mega.demo.server import HOST, free_port, wait_healthy
from vllm_mega.errors import MegaError
from vllm_mega.models import linear_shapes, resolve_model

START_LIMIT = 300.0
RETRYABLE = {"ServiceUnavailableError"}
"""Types of errors with a status of 500 and more that tell a client to ask again."""
VERSIONS = 16
"""Adapters that updates are drawn from."""
AHEAD = 16
"""Changes that may come before the answers that they belong to."""
STANDSTILLS = (0.2, 1.5)
"""Seconds that the worker is stopped, and as long between two stops."""


class Result(msgspec.Struct, frozen=True):
    """What the output file says."""

    requests: int
    seconds: float
    updates: int
    forgets: int
    stops: int
    statuses: dict[str, int]
    """Of the answers: 200, 404 (the memory was forgotten), others with their type of error."""
    bad: list[str]
    """Answers of 500 and more that do not say that one should ask again; broken connections."""
    alive: bool
    """Whether the same engine answers afterwards."""

    @property
    def good(self) -> bool:
        """Whether nobody was harmed."""
        return self.alive and not self.bad


class Writer(threading.Thread):
    """Updates, forgets and adds memories again, one after the other, as fast as requests are answered."""

    def __init__(self, bank: Path, ids: Sequence[str], changes: int, pool: Sequence[Path], seed: int) -> None:
        super().__init__(name="writer", daemon=True)
        self.updates = self.forgets = 0
        self._changes, self._pool = changes, pool
        self._bank, self._ids = bank, ids
        self._chance = random.Random(seed)  # noqa: S311
        self._shapes = linear_shapes(resolve_model())
        self.error: Exception | None = None
        self.answers = threading.Semaphore(AHEAD)

    def run(self) -> None:
        """Update and forget until as many changes are made as were asked for."""
        try:
            with open_catalog(self._bank) as catalog:
                known = {name: _known(catalog, name) for name in self._ids}
                while self.updates + self.forgets < self._changes:
                    self.answers.acquire()
                    name = self._chance.choice(self._ids)
                    if self._chance.random() < 0.3:
                        forgetting.forget(catalog, [MemoryName(DEFAULT_NAMESPACE, name)], "loadtest")
                        self.forgets += 1
                    else:
                        self.updates += 1
                    self._put(catalog, *known[name])
        except Exception as error:
            self.error = error

    def _put(self, catalog: Catalog, memory: NewMemory, key: bytes) -> None:
        """With an adapter that no other memory has, or forgetting this one would remove nothing."""
        from loadtests.bank import put

        with tempfile.TemporaryDirectory() as made:
            folder = Path(made, "adapter")
            shutil.copytree(self._chance.choice(self._pool), folder)
            with (folder / ADAPTER_CONFIG).open("a") as config:
                config.write(" " * (self.updates + self.forgets))
            put(catalog, [(memory, key, folder)], self._shapes)


def _known(catalog: Catalog, name: str) -> tuple[NewMemory, bytes]:
    """A memory and its key, to be written again."""
    draft = draft_of(get_version(catalog, DEFAULT_NAMESPACE, name), train=False)
    return draft.memory, draft.key or b""


class Stopper(threading.Thread):
    """Stops the worker and lets it go on, again and again."""

    def __init__(self, worker: psutil.Process, seed: int) -> None:
        super().__init__(name="stopper", daemon=True)
        self._worker = worker
        self._chance = random.Random(seed)  # noqa: S311
        self.stops = 0
        self.enough = threading.Event()

    def run(self) -> None:
        """Stop the worker and let it go on, until `enough` is set."""
        while not self.enough.is_set():
            self._worker.suspend()
            try:
                time.sleep(self._chance.uniform(*STANDSTILLS))
            finally:
                self._worker.resume()
            self.stops += 1
            self.enough.wait(self._chance.uniform(*STANDSTILLS))


def ask(client: httpx.Client, ids: Sequence[str], n: int) -> tuple[str, str]:
    """One request, by the gate or for two memories by their ids: its status, and what is bad about it."""
    name = ids[n % len(ids)]
    body: dict[str, Any] = {"model": "churn-mega", "max_tokens": 8, "temperature": 0, "stream": n % 5 == 4}
    body["messages"] = [{"role": "user", "content": f"How many maps does the archive of {name} hold?"}]
    if n % 2:
        second = ids[(n * 7 + 1) % len(ids)]
        named = dict.fromkeys([name, second])
        body["mega"] = {"memories": [{"id": memory, "weight": 0.5} for memory in named]}
    elif n % 6 == 0:
        body["mega"] = {"mode": "irag"}
    try:
        answer = client.post("/v1/chat/completions", json=body)
    except httpx.HTTPError as error:
        return type(error).__name__, f"{type(error).__name__}: {error}"
    if answer.status_code < 400:
        wrong = answer.text if body["stream"] and '"error"' in answer.text else ""
        return ("200" if not wrong else "200, then an error"), wrong
    kind = str(answer.json().get("error", {}).get("type"))
    retryable = answer.status_code < 500 or kind in RETRYABLE
    return f"{answer.status_code} {kind}", "" if retryable else answer.text


def measure(args: argparse.Namespace, console: Console) -> Result:
    """Start the server, ask while memories change, and count."""
    from loadtests.bank import default_settings, make_bank, write_adapter

    log, port = fresh_log(args), free_port()
    with tempfile.TemporaryDirectory(prefix="churn-") as name:
        folder = Path(name)
        ids = make_bank(folder / "bank", args.memories, args.seed)
        shapes, settings = linear_shapes(resolve_model()), default_settings()
        pool = [folder / f"version-{n}" for n in range(VERSIONS)]
        for n, version in enumerate(pool):
            version.mkdir()
            write_adapter(version, shapes, settings, 10_000 + n)
        command = [sys.executable, "-m", "vllm_mega", "serve", "--bank", str(folder / "bank")]
        command += ["--host", HOST, "--port", str(port), "--served-model-name", "churn"]
        command += ["--max-loras", "4", "--max-cpu-loras", "4", "--enforce-eager"]
        command += ["--max-model-len", "512", "--max-num-seqs", "8"]
        with started(command, folder, log) as server:
            wait_healthy(server, port, log, START_LIMIT)
            console.print("the server answers")
            running = processes(server.pid)
            writer = Writer(folder / "bank", ids, args.changes, pool, args.seed)
            stopper = Stopper(running["worker"], args.seed)
            return _churn(args, console, f"http://{HOST}:{port}", ids, writer, stopper, running["engine"])


def _churn(
    args: argparse.Namespace,
    console: Console,
    url: str,
    ids: Sequence[str],
    writer: Writer,
    stopper: Stopper,
    engine: psutil.Process,
) -> Result:
    """Ask until there were enough requests and enough changes."""
    start = time.monotonic()
    limits = httpx.Limits(max_connections=args.concurrency)
    with httpx.Client(base_url=url, timeout=120.0, limits=limits) as client:
        client.get("/health").raise_for_status()
        writer.start()
        stopper.start()
        statuses, bad = _ask_all(args, console, client, ids, writer)
        stopper.enough.set()
        stopper.join()
        seconds = time.monotonic() - start
        if writer.error:
            raise MegaError(f"the writer failed: {writer.error}")
        if writer.is_alive():
            raise MegaError(f"{args.minutes:g} minutes were not enough: allow more with --minutes")
        alive = engine.is_running() and ask(client, ids, 0)[0] == "200"
    return Result(
        requests=sum(statuses.values()),
        seconds=round(seconds, 1),
        updates=writer.updates,
        forgets=writer.forgets,
        stops=stopper.stops,
        statuses=dict(statuses),
        bad=bad[:20],
        alive=alive,
    )


def _ask_all(
    args: argparse.Namespace, console: Console, client: httpx.Client, ids: Sequence[str], writer: Writer
) -> tuple[Counter[str], list[str]]:
    """How often each status came, and the bad answers; ends early when too slow or all goes wrong."""
    end = time.monotonic() + 60.0 * args.minutes
    statuses: Counter[str] = Counter()
    bad: list[str] = []
    with ThreadPoolExecutor(args.concurrency) as pool:
        rounds = itertools.count(step=4 * args.concurrency)
        while sum(statuses.values()) < args.requests or writer.is_alive():
            numbers = range(first := next(rounds), first + 4 * args.concurrency)
            for status, wrong in pool.map(partial(ask, client, ids), numbers):
                statuses[status] += 1
                bad += [wrong] if wrong else []
                writer.answers.release(-(-args.changes // args.requests))
            if time.monotonic() > end or len(bad) > 100 or writer.error:
                break
            console.print(f"{sum(statuses.values())} answers, {writer.updates + writer.forgets} changes")
    return statuses, bad


def table(result: Result) -> Table:
    """What clients were told."""
    title = f"{result.updates} updates, {result.forgets} forgets, {result.stops} standstills of the worker"
    shown = Table("answer", "times", title=title)
    for status, count in sorted(result.statuses.items()):
        shown.add_row(status, str(count))
    shown.add_row("bad", str(len(result.bad)))
    shown.add_row("the engine lives", "yes" if result.alive else "no")
    return shown


def options(add: Add) -> None:
    """What there is beside --output."""
    count = at_least(1)
    add("--requests", type=count, default=1000, help="at least so many (default: 1000)")
    add("--changes", type=count, default=1000, help="updates and forgets (default: 1000)")
    add("--memories", type=at_least(2), default=12, help="in the bank, on 4 slots (default: 12)")
    add("--concurrency", type=count, default=8, help="requests in flight (default: 8)")
    add("--minutes", type=positive, default=20.0, help="the churn takes no longer (default: 20)")
    add("--seed", type=int, default=0, help="decides what is changed and when the worker stands still")


PROGRAM = Program(
    "churn", measure, table,
    "Ask a real server for memories that are updated and forgotten meanwhile, while its worker is stopped "
    "and continued.",
    "Exit code 1: an answer was bad (500 and more, no word of asking again), or the engine died.",
    options, good=lambda result: result.good,
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(PROGRAM.main())
