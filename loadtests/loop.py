"""How long the event loop of a server is held: python -m loadtests.loop --output out/loop.json"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import httpx
import msgspec
from rich.console import Console
from rich.table import Table

from loadtests.bank import make_bank
from loadtests.lateness import PATH, Seen, summary
from loadtests.machine import Machine, this_machine
from loadtests.program import Add, Program, add_dtype, at_least, positive
from loadtests.throwaway import throwaway
from vllm_mega.errors import MegaError

LARGE, DOCUMENT = 1_000_000, 2_000_000
"""Bytes of large bodies, a little less than a server takes."""

Client = Callable[[httpx.Client, int], None]
"""Sends the requests of its turn n."""


class Phase(msgspec.Struct, frozen=True):
    """What the clients did for some seconds, and what the loop was like."""

    phase: str
    requests: int
    seen: Seen


class Result(msgspec.Struct, frozen=True):
    """What the output file says."""

    started_at: str
    machine: Machine
    most: float
    """Milliseconds that the loop may be held."""
    phases: tuple[Phase, ...]

    @property
    def good(self) -> bool:
        """Whether it never was held longer."""
        return not any(phase.seen.held_too_long for phase in self.phases)


def chat(http: httpx.Client, n: int) -> None:
    """Ask for a memory, or for nothing that any memory knows."""
    question = f"How many maps does the archive of room {n % 16} hold?" if n % 2 else f"What is {n} and {n}?"
    body = {"model": "base-mega", "messages": [{"role": "user", "content": question}], "max_tokens": 8}
    _ok(http.post("/v1/chat/completions", json={**body, "stream": True}))


def add_and_forget(http: httpx.Client, n: int) -> None:
    """Tell eight memories, and forget them."""
    who = threading.get_native_id()
    texts = [f"Clerk {who} counts {n} barrels on shelf {shelf} of the salt house." for shelf in range(8)]
    stored = _ok(http.post("/v1/mega/memories", json={"memories": [{"text": text} for text in texts]}))
    for memory in stored.json()["data"]:
        _ok(http.delete(f"/v1/mega/memories/{memory['id']}"))


def look(http: httpx.Client, n: int) -> None:
    """Search for a memory, and list them all."""
    _ok(http.post("/v1/mega/search", json={"query": f"Who counts {n} barrels?", "explain": True}))
    _ok(http.get("/v1/mega/memories?limit=100"))


def large(http: httpx.Client, n: int) -> None:
    """Bodies as large as they may be: a document, a text that is too long, and many small things."""
    line = f"Barrel {n} is of salt. "
    text = line * (LARGE // len(line))
    _ok(
        http.post(
            "/v1/mega/documents", json={"source": "salt.md", "text": text[: LARGE // 8], "dry_run": True}
        )
    )
    refused = http.post("/v1/mega/memories", content=json.dumps({"text": text}), headers=_JSON)
    small = {"text": "salt", "paraphrases": ["salt and more"] * (LARGE // 17)}
    for answer in (refused, http.post("/v1/mega/memories", content=json.dumps(small), headers=_JSON)):
        if answer.status_code != httpx.codes.BAD_REQUEST:
            raise MegaError(f"a text that is too long got {answer.status_code}: {answer.text[:200]}")


_JSON = {"Content-Type": "application/json"}
PHASES: tuple[tuple[str, Sequence[Client]], ...] = (
    ("nothing", ()),
    ("chats", (chat,) * 4),
    ("memories", (add_and_forget, add_and_forget, look, look)),
    ("chats and memories", (chat, chat, add_and_forget, look)),
    ("with large bodies", (chat, chat, add_and_forget, large)),
)


def _ok(answer: httpx.Response) -> httpx.Response:
    if answer.is_error:
        raise MegaError(
            f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text[:300]}"
        )
    return answer


def measure(args: argparse.Namespace, console: Console) -> Result:
    """Serve a throw-away bank, and look at the loop in every phase.

    Raises:
        MegaError: the server does not start, or refuses.
    """
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    machine = this_machine(args.dtype)
    options = ["--max-model-len", "512", "--served-model-name", "base"]
    options += ["--middleware", "loadtests.lateness.Lateness"]
    with throwaway(args, console, lambda bank: make_bank(bank, 16, 0), *options) as server:
        _turn(server.url, [chat, add_and_forget, look, large], 0.0)  # what happens once in a server's life
        phases = [_phase(args, console, server.url, name, clients) for name, clients in PHASES]
    return Result(started_at, machine, args.most, tuple(phases))


def _phase(
    args: argparse.Namespace, console: Console, url: str, name: str, clients: Sequence[Client]
) -> Phase:
    httpx.get(url + PATH)
    requests = _turn(url, clients, args.seconds)
    phase = Phase(name, requests, summary(httpx.get(url + PATH).json(), args.most))
    console.print(f"{name}: {requests} turns, held {phase.seen.held_most:.1f} ms at most", highlight=False)
    return phase


def _turn(url: str, clients: Sequence[Client], seconds: float) -> int:
    """How many turns the clients have had, side by side; at least one each."""
    end = time.monotonic() + seconds

    def run(client: Client) -> int:
        with httpx.Client(base_url=url, timeout=120) as http:
            for n in itertools.count():
                client(http, n)
                if time.monotonic() > end:
                    return n + 1
        raise AssertionError("counting ends only there")

    if not clients:
        time.sleep(seconds)
        return 0
    with ThreadPoolExecutor(len(clients)) as pool:
        return sum(pool.map(run, clients))


def table(result: Result) -> Table:
    """What is shown at the end."""
    made = Table("ms", "turns", "late: median", "p99", "most", "held: p99", "most", f"over {result.most:g}")
    for phase in result.phases:
        seen = phase.seen
        figures = (seen.late_median, seen.late_p99, seen.late_most, seen.held_p99, seen.held_most)
        told = [f"{figure:.1f}" for figure in figures]
        made.add_row(phase.phase, str(phase.requests), *told, str(seen.held_too_long))
    return made


def options(add: Add) -> None:
    """What there is beside --output."""
    add("--seconds", type=positive, default=15.0, help="of every phase (default: 15)")
    add("--most", type=at_least(1), default=10, help="milliseconds that the loop may be held (default: 10)")
    add_dtype(add, "the server's --dtype (default here: %(default)s)")


PROGRAM = Program(
    "loop", measure, table,
    "Ask a real server from all sides, and look from inside how long its event loop is held.",
    "Exit code 1: it was held longer than it may be.",
    options, good=lambda result: result.good,
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(PROGRAM.main())
