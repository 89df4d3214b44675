"""The output file of a batch: grows in order, survives a kill at any moment, and is continued."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar

from vllm_mega.batch.lines import Job, Reply, encode, output_line
from vllm_mega.errors import ConfigError
from vllm_mega.jsonl import JsonError, decode

In = TypeVar("In")
Out = TypeVar("Out")


def finished(path: Path, jobs: Sequence[Job]) -> tuple[int, int]:
    """How many jobs the output at `path` answers, and how many bytes these lines have.

    A last line without its end is a write that was cut off: it does not count.

    Raises:
        ConfigError: the file belongs to another input.
    """
    if not path.exists():
        return 0, 0
    content = path.read_bytes()
    lines = content.split(b"\n")[:-1]
    for number, line in enumerate(lines, 1):
        if number > len(jobs):
            raise _foreign(path, f"it has more than the {len(jobs)} lines of the input")
        try:
            fields: Any = decode(line, object)
        except JsonError as error:
            raise _foreign(path, f"line {number} is not JSON ({error})") from error
        if not isinstance(fields, dict) or not jobs[number - 1].is_answered_by(fields):
            raise _foreign(path, f"line {number} does not answer the input's {jobs[number - 1].id!r}")
    return len(lines), sum(len(line) + 1 for line in lines)


def _foreign(path: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"{path} is not the output of this input: {reason}. Name another file, or use --overwrite"
    )


class BatchOutput:
    """Appends answers; what `add` has returned from is on disk."""

    def __init__(self, path: Path, size: int) -> None:
        """Open `path`, keeping its first `size` bytes.

        Raises:
            ConfigError: it cannot be written.
        """
        try:
            self._file: BinaryIO = path.open("r+b" if path.exists() else "xb")
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error}") from error
        self._file.truncate(size)
        self._file.seek(size)

    def add(self, jobs: Sequence[Job], replies: Sequence[Reply]) -> None:
        """Append the lines of these jobs, and sync."""
        self._file.write(encode(map(output_line, jobs, replies)))
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


async def answer_in_order(
    jobs: Sequence[In],
    answer: Callable[[In], Coroutine[Any, Any, Out]],
    done: Callable[[Sequence[In], Sequence[Out]], None],
    *,
    at_once: int,
    chunk: int,
) -> None:
    """Answer many jobs at once, and hand the answers on in the order of the jobs, some at a time.

    Args:
        jobs: any number.
        answer: answers one; if it raises, the others are cancelled.
        done: gets jobs and answers, next ones first.
        at_once: how many are under way.
        chunk: how many are handed on together, at least, but for the last.
    """
    waiting = deque(jobs)
    running: deque[tuple[In, asyncio.Task[Out]]] = deque()
    ready: list[tuple[In, Out]] = []
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.popleft()
                running.append((job, asyncio.create_task(answer(job))))
            job, task = running[0]
            ready.append((job, await task))
            running.popleft()
            if len(ready) >= chunk or not (waiting or running):
                done([j for j, _ in ready], [a for _, a in ready])
                ready = []
    finally:
        for _, task in running:
            task.cancel()
        await asyncio.gather(*(task for _, task in running), return_exceptions=True)
