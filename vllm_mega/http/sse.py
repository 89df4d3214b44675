"""Server-sent events of a streamed answer: the last chunk before [DONE] gets the field `mega`. Pure."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from types import MappingProxyType
from typing import Any

from vllm_mega.requests.schemas import FIELD
from vllm_mega.requests.usage import total

PREFIX = "data: "
DONE = "data: [DONE]"
_USAGE = '"usage":{'
_ERROR = 'data: {"error"'
_GOES_ON = '"finish_reason":null'
"""In a chunk whose choice is not finished. In a text quotes are escaped, so it is never the text."""


async def annotate(
    events: AsyncGenerator[str, None], value: Any, used: Mapping[str, Any] = MappingProxyType({})
) -> AsyncGenerator[str, None]:
    """Pass `events` on; the last one before [DONE] carries `value`, and every usage counts `used` as well.

    Only an event that could be the last is held back, and only until the next one: a token is never
    delayed. An error event stays as it is.
    """
    held: str | None = None
    async with aclosing(events):
        async for given in events:
            event = with_usage(given, used) if used and _USAGE in given else given
            if held is not None:
                yield with_field(held, value) if event.startswith(DONE) else held
            if could_be_last(event):
                held = event
            else:
                held = None
                yield event
    if held is not None:
        yield held


def could_be_last(event: str) -> bool:
    """Whether `event` is a chunk after which [DONE] may follow: a finished choice, or the usage."""
    return event.startswith(PREFIX) and not event.startswith(DONE) and _GOES_ON not in event


def with_field(event: str, value: Any) -> str:
    """The event with the field `mega` in its chunk; an error event unchanged."""
    chunk = json.loads(event[len(PREFIX) :])
    if not isinstance(chunk, dict) or "choices" not in chunk:
        return event
    return _event({**chunk, FIELD: value})


def with_usage(event: str, used: Mapping[str, Any]) -> str:
    """The event, whose chunk has a usage, with `used` added to it."""
    chunk = json.loads(event[len(PREFIX) :])
    return _event({**chunk, "usage": total(chunk["usage"], used)})


async def explained(
    events: AsyncGenerator[str, None], why: Callable[[], Awaitable[str | None]]
) -> AsyncGenerator[str, None]:
    """Pass `events` on; in place of an error of the server's there is the error that `why` knows, if any.

    Args:
        events: of a streamed answer.
        why: gives OpenAI's error object as JSON.
    """
    async with aclosing(events):
        async for event in events:
            reason = await why() if is_server_error(event) else None
            yield event if reason is None else f"{PREFIX}{reason}\n\n"


def is_server_error(event: str) -> bool:
    """Whether `event` says that the server, not the client, is the reason why the answer ends."""
    return event.startswith(_ERROR) and bool(json.loads(event[len(PREFIX) :])["error"]["code"] >= 500)


def _event(chunk: Mapping[str, Any]) -> str:
    return f"{PREFIX}{json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n"
