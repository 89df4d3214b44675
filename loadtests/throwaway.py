"""A real server over a bank that nobody keeps, while a load test looks at it."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from loadtests.program import fresh_log
from vllm_mega.demo.server import HOST, free_port, serving

START_LIMIT = 300.0


class Throwaway(NamedTuple):
    """A server that answers."""

    url: str
    """Its root."""
    bank: Path
    """Alone in a folder that is removed with it."""
    start_seconds: float
    """From its start to its first answer."""


@contextmanager
def throwaway(
    args: argparse.Namespace, console: Console, make: Callable[[Path], object], *options: str
) -> Iterator[Throwaway]:
    """Serve a bank while the block runs.

    Args:
        args: the program's; `dtype` is the server's, and its log stands beside `output`.
        console: is told where the log is.
        make: makes the bank at this path.
        options: of `vllm-mega serve`, beside bank, address and dtype.

    Raises:
        MegaError: the server does not start.
    """
    log = fresh_log(args, "server.log")
    with tempfile.TemporaryDirectory(prefix="vllm-mega-load-") as folder:
        bank, port = Path(folder, "bank"), free_port()
        make(bank)
        command = [sys.executable, "-m", "vllm_mega", "serve", "--bank", str(bank), "--host", HOST]
        command += ["--port", str(port), "--dtype", args.dtype, *options]
        console.print(f"the server starts (log: {log})", soft_wrap=True)
        begun = time.monotonic()
        with serving(command, port, log, START_LIMIT, lambda _: None) as url:
            yield Throwaway(url, bank, time.monotonic() - begun)
