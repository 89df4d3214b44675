"""Events as they happen: a stream of server-sent events, that a client takes up again where it ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import msgspec
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from vllm_mega.bank.catalog.events import events_after
from vllm_mega.bank.catalog.records import Event
from vllm_mega.errors import BankError, BusyError
from vllm_mega.http.memories.reading import happened
from vllm_mega.http.memories.service import Service

MOST = 16
"""Streams at a time; each asks the catalog now and then."""
POLL_SECONDS = 0.5
QUIET_SECONDS = 15.0
"""Without an event for so long, a line says that the stream lives: proxies close what is still."""
LIFE_SECONDS = 300.0
"""Then a client comes again, behind the last event that it has, and shows its key again."""
KIND = "text/event-stream"
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_AT_ONCE = 100


def enter(service: Service) -> None:
    """Count one stream more.

    Raises:
        BusyError: there are as many as may be.
    """
    if service.streams >= MOST:
        raise BusyError(f"the server has {MOST} streams of events, as many as it keeps: ask without a stream")
    service.streams += 1


class EventStream(StreamingResponse):  # type: ignore[misc]  # FastAPI is untyped to mypy
    """An answer that is a stream, once it was let `enter`; however it ends, it is counted no more.

    Its lines cannot see to that: where a client is gone before the first of them, none is made.
    """

    def __init__(self, service: Service, lines: AsyncIterator[bytes]) -> None:
        super().__init__(lines, media_type=KIND, headers=_HEADERS)
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._service.streams -= 1


async def event_lines(
    service: Service, namespace: str, after: int, is_ending: Callable[[], bool]
) -> AsyncIterator[bytes]:
    """Events of a namespace, as the bytes of an answer.

    Args:
        service: of the bank.
        namespace: whose events.
        after: number of the event after which it begins.
        is_ending: whether the server ends; then the stream does.
    """
    end, spoken = time.monotonic() + LIFE_SECONDS, time.monotonic()
    yield b"retry: 1000\n\n"
    while time.monotonic() < end and not is_ending():
        found = await _next(service, namespace, after)
        if found is None:
            return
        for event in found:
            after, spoken = event.number, time.monotonic()
            yield _line(service, event)
        if not found:
            if time.monotonic() - spoken > QUIET_SECONDS:
                spoken = time.monotonic()
                yield b": nothing new\n\n"
            await asyncio.sleep(POLL_SECONDS)


async def _next(service: Service, namespace: str, after: int) -> list[Event] | None:
    """What is new; None: it cannot be told now, and the client shall come again."""
    try:
        return await service.pool.run(
            lambda: events_after(service.catalog, after, _AT_ONCE, namespace=namespace)
        )
    except (BankError, BusyError):
        return None


def _line(service: Service, event: Event) -> bytes:
    told = happened(service, event)
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (
        told.event.encode(), told.kind.encode(), msgspec.json.encode(told),
    )  # fmt: skip
