"""What gate and hook cost before the first token: python -m loadtests.ttft --output out/ttft.json

The same server answers the same kind of request by the base model's name, by the name with memory where no
memory is near, and where one is, in turns. Its own metrics say how long the gate took.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import httpx
import msgspec
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from loadtests.bank import make_bank
from loadtests.invented import invent
from loadtests.machine import Machine, this_machine
from loadtests.program import Add, Program, add_dtype, at_least, positive
from loadtests.throwaway import throwaway
from vllm_mega.errors import MegaError

BASE, MEGA = "base", "base-mega"
SCENARIOS = ("base", "null", "memory")


class Scenario(msgspec.Struct, frozen=True):
    """Seconds of one kind of request."""

    scenario: str
    requests: int
    ttft_median: float
    gate_mean: float
    """From a request to its mixture, by the server's metrics; 0: no gate was asked."""


class Result(msgspec.Struct, frozen=True):
    """What the output file says."""

    started_at: str
    machine: Machine
    concurrency: int
    most_share: float
    scenarios: tuple[Scenario, ...]

    def share(self, scenario: Scenario) -> float:
        """Of the gate, in the base model's median time to the first token."""
        return scenario.gate_mean / self.scenarios[0].ttft_median

    @property
    def good(self) -> bool:
        """Whether the gate takes no more than it may."""
        return all(self.share(scenario) <= self.most_share for scenario in self.scenarios)


def measure(args: argparse.Namespace, console: Console) -> Result:
    """Serve a throw-away bank, and ask.

    Raises:
        MegaError: the server does not start, or refuses.
    """
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    machine = this_machine(args.dtype)
    options = ["--max-model-len", "1024", "--served-model-name", BASE]
    options += ["--max-num-seqs", str(args.concurrency)]
    with throwaway(args, console, lambda bank: make_bank(bank, args.memories, 0), *options) as server:
        scenarios = asyncio.run(_scenarios(args, console, server.url))
    return Result(started_at, machine, args.concurrency, args.most_share, scenarios)


async def _scenarios(args: argparse.Namespace, console: Console, url: str) -> tuple[Scenario, ...]:
    """All, in rounds: each begins with another one, and the first round is not counted."""
    numbers = itertools.count()
    times: dict[str, list[float]] = {name: [] for name in SCENARIOS}
    gates = dict.fromkeys(SCENARIOS, 0.0)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=httpx.Limits()) as http:
        for turn in range(args.rounds + 1):
            for place in range(len(SCENARIOS)):
                name = SCENARIOS[(turn + place) % len(SCENARIOS)]
                before = await _gate(http)
                asked = [(name, next(numbers)) for _ in range(args.requests)]
                found = await _all(http, asked, args.concurrency, args.memories)
                count, seconds = (b - a for a, b in zip(before, await _gate(http), strict=True))
                if count != (0 if name == "base" else args.requests):
                    raise MegaError(f"{name}: the gate was asked {count:g} times")
                if turn:
                    times[name] += found
                    gates[name] += seconds
                console.print(f"round {turn}  {name}: {statistics.median(found):.3f} s", highlight=False)
    counted = args.rounds * args.requests
    return tuple(
        Scenario(name, counted, statistics.median(times[name]), gates[name] / counted) for name in SCENARIOS
    )


async def _all(
    http: httpx.AsyncClient, asked: Sequence[tuple[str, int]], concurrency: int, memories: int
) -> list[float]:
    """Seconds to the first token of each, so many at a time."""
    inside = asyncio.Semaphore(concurrency)

    async def one(name: str, number: int) -> float:
        async with inside:
            return await _first_token(http, name, number, memories)

    return list(await asyncio.gather(*(one(*each) for each in asked)))


async def _first_token(http: httpx.AsyncClient, name: str, number: int, memories: int) -> float:
    """Of a request that shares nothing with any other but its form.

    Raises:
        MegaError: it was refused, or other memories were used than the scenario is about.
    """
    question = f"How many maps does the archive of room {number % memories} hold?"
    if name == "null":
        question = f"Is {number} a better breakfast for a lazy otter than bread?"
    told = " ".join(memory.text for memory in invent(3, number))
    messages = [{"role": "system", "content": told}, {"role": "user", "content": question}]
    body = {"model": BASE if name == "base" else MEGA, "messages": messages, "max_tokens": 8, "stream": True}
    begun, first, last = time.perf_counter(), 0.0, ""
    async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        async for line in answer.aiter_lines():
            if not first and '"content":"' in line and '"content":""' not in line:
                first = time.perf_counter() - begun
            last = line if line.startswith("data: {") else last
    uses = '"memories":[{' in last
    if not first or uses != (name == "memory"):
        raise MegaError(f"{name}: an answer ended with {last[:500]!r}")
    return first


async def _gate(http: httpx.AsyncClient) -> tuple[float, float]:
    """How often the gate was asked, and seconds of all."""
    text = (await http.get("/metrics")).text
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text) if family.name == "mega_gate_seconds"
        for sample in family.samples
    }  # fmt: skip
    return values["mega_gate_seconds_count"], values["mega_gate_seconds_sum"]


def table(result: Result) -> Table:
    """What is shown at the end."""
    base = result.scenarios[0].ttft_median
    made = Table("", "requests", "first token: median, s", "of base", "gate: mean, ms", "share of base")
    for one in result.scenarios:
        made.add_row(
            one.scenario, str(one.requests), f"{one.ttft_median:.3f}", f"{one.ttft_median / base:.3f}",
            f"{1e3 * one.gate_mean:.1f}", f"{result.share(one):.1%}",
        )  # fmt: skip
    return made


def options(add: Add) -> None:
    """What there is beside --output."""
    add("--concurrency", type=at_least(1), default=16, help="requests at a time (default: 16)")
    add("--requests", type=at_least(1), default=32, help="of each scenario in a round (default: 32)")
    add("--rounds", type=at_least(1), default=4, help="that are counted, behind one to warm up (default: 4)")
    add("--memories", type=at_least(2), default=100, help="in the bank (default: 100)")
    add("--most-share", type=positive, default=0.05, help="of the gate in the time (default: 0.05)")
    add_dtype(add, "the server's --dtype (default here: %(default)s)")


PROGRAM = Program(
    "ttft", measure, table,
    "Ask a real server with memory and without, in turns, and say what gate and hook add before the first "
    "token.",
    "Exit code 1: the gate takes a larger share than it may.",
    options, good=lambda result: result.good,
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(PROGRAM.main())
