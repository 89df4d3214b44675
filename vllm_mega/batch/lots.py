"""Jobs and replies on their way between processes: in lots, as bytes. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from vllm_mega.batch.lines import Job, Reply

LOT = 32
"""Most jobs that go together: few enough that workers end at about the same time."""


def divided(jobs: Sequence[Job], workers: int) -> Iterator[Sequence[Job]]:
    """The jobs in their order, in lots, of which there is one for each worker if there are enough jobs."""
    size = max(1, min(LOT, -(-len(jobs) // workers)))
    return (jobs[first : first + size] for first in range(0, len(jobs), size))


def packed_jobs(lot: Sequence[Job]) -> bytes:
    """A lot of jobs as bytes, which `unpacked_jobs` reads."""
    return msgspec.json.encode(lot)


def unpacked_jobs(packed: bytes) -> list[Job]:
    """The jobs that `packed_jobs` was given."""
    return msgspec.json.decode(packed, type=list[Job])


def packed_replies(lot: Sequence[Reply]) -> bytes:
    """The replies to a lot as bytes, which `unpacked_replies` reads."""
    return msgspec.json.encode(lot)


def unpacked_replies(packed: bytes) -> list[Reply]:
    """The replies that `packed_replies` was given."""
    return msgspec.json.decode(packed, type=list[Reply])
