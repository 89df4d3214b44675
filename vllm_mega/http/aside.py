"""Becomes another program, that yields to all others: python -m vllm_mega.http.aside PARENT COMMAND ...

It gets time of the processors that nobody else wants, is the first to go when memory runs out, and ends with
the process PARENT. Imports nothing but the standard library.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from vllm_mega.http.keeper import end_with

FIRST_TO_GO = 1000
"""The highest `oom_score_adj` of proc(5)."""


def main(parent: int, command: Sequence[str]) -> None:
    """Become `command`; where the system knows no idle time, with the lowest priority that it knows."""
    end_with(parent, signal.SIGKILL)
    os.nice(19)
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(FIRST_TO_GO), encoding="ascii")
    os.execv(command[0], list(command))  # noqa: S606  # no shell


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
