"""What a check finds. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import msgspec

from vllm_mega.errors import MegaError

Status = Literal["ok", "warning", "problem"]


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    name: str
    """What was looked at, in a word or two."""
    status: Status
    """problem: a server would not start, or not answer; warning: it would, and somebody should know."""
    found: str
    change: str = ""
    """What to change; empty: nothing, or an error says it in `found`."""


Check = Callable[[], Iterable[Finding]]


def examined(name: str, check: Check) -> Iterator[Finding]:
    """What `check` finds; an error of ours or of the system, or a package that is missing, is a problem."""
    try:
        yield from check()
    except (MegaError, OSError, ImportError) as error:
        yield Finding(name, "problem", str(error))


def exit_status(findings: Iterable[Finding]) -> int:
    """Of the command: 1 if something would keep a server from serving."""
    return int(any(finding.status == "problem" for finding in findings))
