"""Streams: the field `mega` is on the last chunk, and no token waits for it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from vllm_mega.http.sse import annotate

VALUE = {"memories": [{"id": "bées", "weight": 1.0}], "mode": "adapter"}


def chunk(text: str, finish: str | None = None, **more: Any) -> str:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return f"data: {json.dumps({'choices': [choice], **more}, separators=(',', ':'))}\n\n"


USAGE = 'data: {"choices":[],"usage":{"total_tokens":3}}\n\n'
ERROR = 'data: {"error":{"message":"boom","code":500}}\n\n'
DONE = "data: [DONE]\n\n"


async def through(events: Sequence[str]) -> tuple[list[str], list[int]]:
    """What comes out, and how many events had been read when each came."""
    read = 0

    async def source() -> AsyncGenerator[str, None]:
        nonlocal read
        for event in events:
            read += 1
            yield event

    out, when = [], []
    async for event in annotate(source(), VALUE):
        out.append(event)
        when.append(read)
    return out, when


def parsed(event: str) -> Any:
    return json.loads(event.removeprefix("data: "))


async def test_the_finished_chunk_carries_it() -> None:
    out, when = await through([chunk(""), chunk("a"), chunk("b", "stop"), DONE])
    assert out[:2] == [chunk(""), chunk("a")]
    assert parsed(out[2]) == {**parsed(chunk("b", "stop")), "mega": VALUE}
    assert out[3] == DONE
    assert when[:2] == [1, 2], "a token waited"


async def test_the_usage_chunk_carries_it_when_there_is_one() -> None:
    out, _ = await through([chunk("a", "stop"), USAGE, DONE])
    assert out[0] == chunk("a", "stop")
    assert parsed(out[1])["mega"] == VALUE
    assert parsed(out[1])["usage"] == {"total_tokens": 3}


async def test_only_the_last_of_several_choices() -> None:
    out, _ = await through([chunk("a", "stop"), chunk("b"), chunk("c", "length"), DONE])
    assert ["mega" in event for event in out] == [False, False, True, False]


async def test_text_that_looks_like_the_mark_is_text() -> None:
    tricky = chunk('{"finish_reason":null}', "stop")
    out, _ = await through([tricky, DONE])
    assert parsed(out[0])["mega"] == VALUE


async def test_errors_stay_as_they_are() -> None:
    assert (await through([chunk("a"), ERROR, DONE]))[0] == [chunk("a"), ERROR, DONE]
    assert (await through([ERROR, DONE]))[0] == [ERROR, DONE]


async def test_a_stream_that_breaks_off_loses_nothing() -> None:
    assert (await through([chunk("a"), chunk("b", "stop")]))[0] == [chunk("a"), chunk("b", "stop")]


async def test_leaving_early_closes_the_source() -> None:
    closed = False

    async def source() -> AsyncGenerator[str, None]:
        nonlocal closed
        try:
            while True:
                yield chunk("a")
        finally:
            closed = True

    stream = annotate(source(), VALUE)
    assert await anext(stream) == chunk("a")
    await stream.aclose()
    assert closed
