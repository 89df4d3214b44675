"""Server-sent events of a streamed answer: the last chunk before [DONE] gets the field `mega`. Pure."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from vllm_mega.serving.schemas import FIELD

PREFIX = "data: "
DONE = "data: [DONE]"
_GOES_ON = '"finish_reason":null'
"""In a chunk whose choice is not finished. In a text the quotes are escaped, so it is never the text."""


async def annotate(events: AsyncGenerator[str, None], value: Mapping[str, Any]) -> AsyncGenerator[str, None]:
    """Pass `events` on; the last one before [DONE] carries `value`.

    Only an event that could be the last is held back, and only until the next one: a token is never
    delayed. An error event stays as it is.
    """
    held: str | None = None
    async with aclosing(events):
        async for event in events:
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


def with_field(event: str, value: Mapping[str, Any]) -> str:
    """The event with the field `mega` in its chunk; an error event unchanged."""
    chunk = json.loads(event[len(PREFIX) :])
    if not isinstance(chunk, dict) or "choices" not in chunk:
        return event
    return f"{PREFIX}{json.dumps({**chunk, FIELD: value}, ensure_ascii=False, separators=(',', ':'))}\n\n"
