"""The load test of the server: python -m loadtests.serve --output out/loadtest.json"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from rich.console import Console

from loadtests.bench_client import NEW_TOKENS, BenchClient
from loadtests.machine import Machine, this_machine
from loadtests.program import Add, Program, add_dtype, at_least, fresh_log, positive
from loadtests.scenarios import SCENARIOS, Request, reference, requests_of
from loadtests.summary import Run, ScenarioSummary, summarise, table
from vllm_mega.bank.library import Library
from vllm_mega.config import DEFAULT_NAMESPACE
from vllm_mega.demo.server import HOST, free_port, serving
from vllm_mega.errors import ConfigError, MegaError
from vllm_mega.http.launch import CPU_SLOTS, served

STOP_RESERVE = 10.0
"""Seconds of the time allowed that are kept for stopping the server and writing."""
MAX_MODEL_LEN = 4096

EPILOG = """\
scenarios, in turn, each with the same questions (invented, 32 to 64 tokens) and 32 new tokens:
  base           the plain model name: no memory
  one-memory     every request the same memory
  zipf           one memory each, drawn by Zipf(1.1)
  all-different  2 to 4 memories each, with weights that no other request has
  prefix-base, prefix-different
                 the first and the last behind a text of about 2,000 tokens that all requests share;
                 memory acts from the question on

Rounds of all scenarios follow each other until the time or --rounds is used up; a round that is cut off
is left out. Beside the output: OUTPUT's name with .server.log and .client.log.

Exit code 0: every request was answered in full. 1: one was not, or there is no result. 130: interrupted."""


class Settings(msgspec.Struct, frozen=True):
    """What the figures depend on beside the machine."""

    memories: int
    slots: int
    concurrency: int
    rate: float | None
    """Requests per second; None: closed loop, a request starts when one ends."""
    requests_per_round: int
    rounds: int
    """Most of them; the time may be used up before."""
    minutes: float
    seed: int
    new_tokens: int = NEW_TOKENS


class Result(msgspec.Struct, frozen=True):
    """What the output file says."""

    started_at: str
    machine: Machine
    settings: Settings
    start_seconds: float
    """From the server's start to its first answer to /health."""
    rounds: int
    """Whole ones, which the figures are from."""
    scenarios: tuple[ScenarioSummary, ...]

    @property
    def good(self) -> bool:
        """Whether every request was answered."""
        return not any(each.errors for each in self.scenarios)


def measure(args: argparse.Namespace, console: Console) -> Result:
    """Make the bank, serve it, load the server.

    Raises:
        MegaError: there is no result.
    """
    begin = time.monotonic()
    end = begin + 60.0 * args.minutes - STOP_RESERVE
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    machine = this_machine(args.dtype)  # before the server adds to the load average
    client_log, server_log = fresh_log(args, "client.log"), fresh_log(args, "server.log")

    with _bank(args, console) as (bank, ids):
        port = free_port()
        start = time.monotonic()
        console.print(f"the server starts (log: {server_log})", soft_wrap=True)
        with serving(_command(args, bank, port), port, server_log, end - start, lambda _: None) as url:
            start_seconds = round(time.monotonic() - start, 1)
            console.print(f"the server answers at {url} after {start_seconds:.0f} s")
            client = BenchClient(url, args.concurrency, args.rate or math.inf, args.seed, client_log)
            runs = _rounds(args, ids, client, url, end, console)

    settings = Settings(
        memories=len(ids),
        slots=args.slots,
        concurrency=args.concurrency,
        rate=args.rate,
        requests_per_round=args.requests,
        rounds=args.rounds,
        minutes=args.minutes,
        seed=args.seed,
    )
    scenarios, rounds = tuple(summarise(runs)), len(runs) // len(SCENARIOS)
    console.print(f"{rounds} rounds, {time.monotonic() - begin:.0f} s")
    errors = sum(each.errors for each in scenarios)
    if errors:
        console.print(f"[red]{errors} requests failed[/red]; see {args.output} and {server_log}")
    return Result(started_at, machine, settings, start_seconds, rounds, scenarios)


@contextmanager
def _bank(args: argparse.Namespace, console: Console) -> Iterator[tuple[Path, list[str]]]:
    """The bank to serve, and the ids of the memories to ask for."""
    if args.bank:
        with Library(args.bank) as library:
            names = sorted(row.name for row in served(library) if row.namespace == DEFAULT_NAMESPACE)
        ids = [name.id for name in names[: args.memories]]
        if len(ids) < 2:
            raise ConfigError(
                f"{args.bank} has {len(ids)} memories in the namespace {DEFAULT_NAMESPACE}: "
                "the load test needs at least 2"
            )
        yield args.bank, ids
        return
    from loadtests.bank import make_bank

    with tempfile.TemporaryDirectory(prefix="vllm-mega-loadtest-") as folder:
        console.print(f"making a bank of {args.memories} memories")
        bank = Path(folder, "bank")
        yield bank, make_bank(bank, args.memories, args.seed)


def _command(args: argparse.Namespace, bank: Path, port: int) -> list[str]:
    options = {
        "bank": bank,
        "host": HOST,
        "port": port,
        "max-loras": args.slots,
        "dtype": args.dtype,
        "max-model-len": MAX_MODEL_LEN,
        "max-num-seqs": args.concurrency,
        "max-num-batched-tokens": 1024,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "vllm_mega", "serve", *words]


def _rounds(
    args: argparse.Namespace, ids: Sequence[str], client: BenchClient, url: str, end: float, console: Console
) -> list[Run]:
    """Warm up, then whole rounds until `end` (of `time.monotonic`): the runs of all scenarios."""
    base = _model_name(url)
    total = args.rounds * args.requests
    requests = {name: requests_of(name, ids, total, args.seed, args.slots) for name in SCENARIOS}
    for name in SCENARIOS:
        check_mixture(url, _model(base, name), requests[name][0])
    _warm_up(args, ids, client, base, end)

    runs: list[Run] = []
    longest = 0.0
    for number in range(args.rounds):
        start = time.monotonic()
        if start + longest > end:
            break
        try:
            finished = []
            # Each round begins with another scenario: none is always first, or always behind the same one.
            for place in range(len(SCENARIOS)):
                name = SCENARIOS[(number + place) % len(SCENARIOS)]
                part = requests[name][number * args.requests : (number + 1) * args.requests]
                run = client.run(name, _model(base, name), part, max(0.0, end - time.monotonic()))
                finished.append(run)
                console.print(_progress(number, run), highlight=False)
        except TimeoutError:
            console.print("the time is used up: this round is left out")
            break
        runs += finished
        longest = max(longest, time.monotonic() - start)
    if not runs:
        raise MegaError(
            f"not one round was finished within {args.minutes:g} minutes: "
            "allow more with --minutes, or ask for less with --requests"
        )
    return runs


def _progress(number: int, run: Run) -> str:
    done = len(run.samples)
    line = f"round {number + 1}  {run.scenario:13}  {done} requests, {run.seconds:.1f} s, "
    line += f"{run.tokens_per_s:.1f} tokens/s"
    return f"{line}, {len(run.errors)} errors: {run.errors[0]}" if run.errors else line


def _warm_up(
    args: argparse.Namespace, ids: Sequence[str], client: BenchClient, base: str, end: float
) -> None:
    """What happens once in a server's life is not measured: adapters come from disk, memory is reserved.

    Raises:
        MegaError: a request failed, or there was no time left.
    """
    # Not the prompts of the test: these must not be in the prefix cache.
    plain = requests_of("base", ids, max(args.concurrency, len(ids)), args.seed + 1, args.slots)
    single = [Request(ask.prompt, ((id_, 1.0),)) for ask, id_ in zip(plain, ids, strict=False)]
    mixed = requests_of("all-different", ids, args.concurrency, args.seed + 1, args.slots)
    for name, asked in (("base", plain[: args.concurrency]), ("all-different", [*single, *mixed])):
        try:
            run = client.run(name, _model(base, name), asked, max(0.0, end - time.monotonic()))
        except TimeoutError as error:
            raise MegaError("the time is used up by start and warm-up: allow more with --minutes") from error
        if run.errors:
            raise MegaError(f"a request to warm up failed: {run.errors[0]}")


def _model(base: str, scenario: str) -> str:
    return base if scenario == reference(scenario) else f"{base}-mega"


def _model_name(url: str) -> str:
    """The name of the base model."""
    return str(_ask(url, "GET", "/v1/models")["data"][0]["id"])


def check_mixture(url: str, model: str, request: Request) -> None:
    """Ask once, and see that the server used what was asked for: the test measures what it says.

    Raises:
        MegaError: it used another mixture, or refused.
    """
    body = {"model": model, "prompt": request.prompt, "max_tokens": 1, **request.extra}
    answer = _ask(url, "POST", "/v1/completions", body)
    used = {(memory["id"], memory["weight"]) for memory in answer.get("mega", {}).get("memories", [])}
    if used != set(request.mixture):
        raise MegaError(f"{model} was asked for the mixture {request.mixture} and used {sorted(used)}")


def _ask(url: str, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60.0)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request(method, path, json.dumps(body) if body else None, headers)
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise MegaError(f"{url}{path}: {error}") from error
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise MegaError(f"{url}{path}: {response.status} {content.decode(errors='replace')}")
    parsed: dict[str, Any] = json.loads(content)
    return parsed


def options(add: Add) -> None:
    """What there is beside --output."""
    count, two = at_least(1), at_least(2)  # a mixture has two memories or more
    add("--bank", type=Path, help="serve this bank (default: a throw-away one of random adapters)")
    add("--memories", type=two, default=16, help="how many memories are asked for (default: 16)")
    add("--slots", type=two, default=CPU_SLOTS, help="the server's --max-loras (default: %(default)s)")
    add("--minutes", type=positive, default=5.0, help="the whole run takes no longer (default: 5)")
    add("--concurrency", type=count, default=8, help="most requests in flight (default: 8)")
    add("--rate", type=positive, help="requests per second, Poisson (default: as fast as answers come)")
    add("--requests", type=count, default=24, help="of each scenario in each round (default: 24)")
    add("--rounds", type=count, default=6, help="most rounds (default: 6)")
    add_dtype(add, "the server's --dtype (default here: %(default)s)")
    add("--seed", type=int, default=0, help="decides prompts, mixtures and adapters (default: 0)")


PROGRAM = Program(
    "serve", measure, lambda result: table(result.scenarios),
    "Start the real server on the loopback interface, load it with `vllm bench serve`'s client, and write "
    "what it held.",
    EPILOG, options, good=lambda result: result.good, output="loadtest.json",
    formatter=argparse.RawDescriptionHelpFormatter,
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(PROGRAM.main())
