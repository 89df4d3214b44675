"""Kills of every process of a server: python -m loadtests.kills --output out/kills.json

A real server is started, one of its processes is killed, and after ten seconds nothing of it may run or lie
in the temporary folder: the keeper, the API server, the engine, the worker; and a server that starts up is
killed, or asked to end, at some moment.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from loadtests.processes import processes, processes_with, seconds_until_gone, started
from loadtests.program import Add, Program, at_least, fresh_log
from vllm_mega.demo.server import HOST, free_port, wait_healthy

RUNNING = ("keeper", "api", "engine", "worker")
STARTING = ("start-up", "start-up, asked to end")
LIMIT = 10.0
"""Seconds after which nothing may be left."""
START_LIMIT = 300.0
START_UP = 20.0
"""Seconds in which a server is caught while it starts up."""


class Outcome(msgspec.Struct, frozen=True):
    """What became of a server of which a process was killed."""

    kind: str
    seconds: float | None
    """Until nothing ran any more; None: something did after the limit."""
    left: tuple[str, ...]
    """Names of what lay in the temporary folder then."""

    @property
    def clean(self) -> bool:
        """Whether nothing was left."""
        return self.seconds is not None and not self.left


class Result(msgspec.Struct, frozen=True):
    """What the output file says."""

    kills: int
    clean: int
    outcomes: list[Outcome]

    @property
    def good(self) -> bool:
        """Whether none left anything."""
        return self.clean == len(self.outcomes)


def kill(kind: str, bank: Path, log: Path, moment: float) -> Outcome:
    """Start a server for `bank` and kill its process `kind`; a server that starts up, after `moment` seconds.

    Raises:
        MegaError: the server did not start, or has no such process.
    """
    port = free_port()
    command = [sys.executable, "-m", "vllm_mega", "serve", "--bank", str(bank), "--port", str(port)]
    command += ["--host", HOST, "--max-loras", "2", "--max-model-len", "256", "--enforce-eager"]
    with tempfile.TemporaryDirectory(prefix="kill-") as folder, started(command, Path(folder), log) as server:
        if kind in RUNNING:
            wait_healthy(server, port, log, START_LIMIT)
        else:
            time.sleep(moment)
        running = processes_with(kind, server.pid) if kind in RUNNING else processes(server.pid)
        number = signal.SIGTERM if kind == STARTING[1] else signal.SIGKILL
        running[kind if kind in RUNNING else "keeper"].send_signal(number)
        seconds = seconds_until_gone(list(running.values()), LIMIT)
        if kind in ("keeper", STARTING[0]):  # is nobody left who could tidy up, the next keeper does
            keep = [sys.executable, "-m", "vllm_mega.http.keeper", "true"]
            subprocess.run(keep, env={**os.environ, "TMPDIR": folder}, check=True)
        return Outcome(kind, seconds, tuple(sorted(path.name for path in Path(folder).iterdir())))


def measure(args: argparse.Namespace, console: Console) -> Result:
    """Kill each kind so many times, in turn."""
    from loadtests.bank import make_bank

    log, chance, outcomes = fresh_log(args), random.Random(args.seed), []  # noqa: S311
    with tempfile.TemporaryDirectory(prefix="vllm-mega-kills-") as folder:
        bank = Path(folder, "bank")
        make_bank(bank, 2, args.seed)
        kinds = [kind for _ in range(args.kills) for kind in args.kinds]
        moments = [chance.uniform(0.5, START_UP) for _ in kinds]
        with ThreadPoolExecutor(args.at_once) as servers:
            for outcome in servers.map(lambda kind, moment: kill(kind, bank, log, moment), kinds, moments):
                outcomes.append(outcome)
                told = "left something" if outcome.seconds is None else f"{outcome.seconds:.1f} s"
                line = f"{len(outcomes)} of {len(kinds)}  {outcome.kind:22}  {told}  {' '.join(outcome.left)}"
                console.print(line)
    return Result(args.kills, sum(outcome.clean for outcome in outcomes), outcomes)


def table(result: Result) -> Table:
    """How many kills of each kind left nothing, and how long that took at most."""
    shown = Table("killed", "times", "left nothing", "longest s", title=f"gone within {LIMIT:g} s")
    for kind in dict.fromkeys(outcome.kind for outcome in result.outcomes):
        some = [outcome for outcome in result.outcomes if outcome.kind == kind]
        seconds = [outcome.seconds for outcome in some if outcome.seconds is not None]
        longest = f"{max(seconds):.1f}" if seconds else ""
        shown.add_row(kind, str(len(some)), str(sum(outcome.clean for outcome in some)), longest)
    return shown


def options(add: Add) -> None:
    """What there is beside --output."""
    kinds = (*RUNNING, *STARTING)
    add("--kills", type=at_least(1), default=20, help="of each kind (default: 20)")
    add("--kinds", nargs="+", choices=kinds, default=kinds, help="which (default: all)")
    add("--at-once", type=at_least(1), default=2, help="servers side by side (default: 2)")
    add("--seed", type=int, default=0, help="decides when a start-up is cut off")


PROGRAM = Program(
    "kills", measure, table,
    "Kill every process of a real server, and see that nothing is left after ten seconds.",
    "A quarter of a minute a kill. Exit code 1: something was left.",
    options, good=lambda result: result.good,
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(PROGRAM.main())
