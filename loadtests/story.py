"""The story of a memory: python -m loadtests.story --output out/story.json

A real server with a trainer beside it, on the loopback interface, asked by the official clients: a memory is
told, answers as text, then as adapter, says where answers come from, is changed, restored, forgotten.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import httpx
import msgspec
import openai
from rich.console import Console
from rich.table import Table

from loadtests.acts import ACTS
from loadtests.machine import Machine, this_machine
from loadtests.program import Add, Program, add_dtype, positive
from loadtests.stage import Act, Stage
from loadtests.throwaway import throwaway
from vllm_mega.errors import MegaError

PATIENCE = 120.0
"""Seconds that a client waits for an answer."""


class Played(msgspec.Struct, frozen=True):
    """An act of the story, once it was played."""

    act: str
    seconds: float
    good: bool
    said: str
    """What was seen, or what was wrong."""


class Result(msgspec.Struct, frozen=True):
    """What the output file says."""

    started_at: str
    machine: Machine
    start_seconds: float
    """From the server's start to its first answer to /health."""
    live_seconds: float
    """From a memory that is told to the first answer of its adapter; 0: it never came."""
    most_live_seconds: float
    acts: tuple[Played, ...]
    """Up to the first that failed."""

    @property
    def good(self) -> bool:
        """Whether the story has come to its end, and fast enough."""
        return 0 < self.live_seconds <= self.most_live_seconds and all(act.good for act in self.acts)


def play(acts: Sequence[Act], stage: Stage, console: Console) -> list[Played]:
    """Play the acts in turn, each told in a line; the first that fails is the last."""
    played: list[Played] = []
    for act in acts:
        begun = time.monotonic()
        try:
            seen, good = act(stage), True
        except (MegaError, openai.OpenAIError, httpx.HTTPError) as error:
            seen, good = f"{type(error).__name__}: {error}", False
        done = Played(act.__name__, round(time.monotonic() - begun, 2), good, seen)
        played.append(done)
        mark = "" if good else "FAILED: "
        console.print(
            f"{done.seconds:6.1f} s  {done.act:11} {mark}{seen}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        if not good:
            break
    return played


def _create(bank: Path) -> None:
    command = [sys.executable, "-m", "vllm_mega", "bank", "create", "--bank", str(bank)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def measure(args: argparse.Namespace, console: Console) -> Result:
    """Serve an empty bank, with a trainer, and play.

    Raises:
        MegaError: the server does not start.
    """
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    machine = this_machine(args.dtype)
    with throwaway(args, console, _create, "--train", "--max-model-len", "1024") as server:
        url, bank, start_seconds = server
        with (
            openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=PATIENCE, max_retries=0) as chat,
            httpx.Client(base_url=f"{url}/v1/mega", timeout=PATIENCE) as http,
        ):
            model = f"{chat.models.list().data[0].id}-mega"
            acts = play(ACTS, stage := Stage(url, bank, model, chat, http, bank.parent), console)
    return Result(
        started_at, machine, round(start_seconds, 1), round(stage.live, 1), args.most_live, tuple(acts)
    )


def table(result: Result) -> Table:
    """What is shown at the end."""
    made = Table("of the story", "seconds")
    made.add_row("start of the server", f"{result.start_seconds:.1f}")
    for act in result.acts:
        made.add_row(act.act if act.good else f"{act.act} (failed)", f"{act.seconds:.1f}")
    made.add_row(f"told to adapter (at most {result.most_live_seconds:g})", f"{result.live_seconds:.1f}")
    return made


def options(add: Add) -> None:
    """What there is beside --output."""
    add(
        "--most-live", type=positive, default=20.0, metavar="SECONDS",
        help="from a memory that is told to the first answer of its adapter, at most (default: 20)",
    )  # fmt: skip
    add_dtype(add, "the server's --dtype (default here: %(default)s)")


PROGRAM = Program(
    "story", measure, table,
    "Serve an empty bank with a trainer, and tell, ask, change, restore and forget memories as users do.",
    "Exit code 1: an act failed, which is then the last, or the adapter came too late.",
    options, good=lambda result: result.good,
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(PROGRAM.main())
