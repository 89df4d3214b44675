"""Events of a namespace: by pages, and as they happen."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from starlette.requests import ClientDisconnect

from tests.http.memories.server import FERRY, LAMP, MEMORIES, MemoryServer, error
from vllm_mega.bank.catalog.jobs import lease
from vllm_mega.errors import BusyError
from vllm_mega.http.memories import streaming
from vllm_mega.http.memories.streaming import EventStream, enter, event_lines

EVENTS = "/v1/mega/events"


async def test_events_go_on_where_they_ended(server: MemoryServer, client: httpx.AsyncClient) -> None:
    empty = (await client.get(EVENTS)).json()
    assert empty["data"] == []
    await client.post(MEMORIES, json={"memories": [FERRY, LAMP]})
    first = (await client.get(EVENTS, params={"after": empty["next"], "limit": 1})).json()
    second = (await client.get(EVENTS, params={"after": first["next"]})).json()
    assert [one["id"] for one in (*first["data"], *second["data"])] == ["ferry", "lamp"]
    assert second["data"][-1]["event"] == second["next"]
    lease(server.service.catalog, "host 7 process 9", 60)
    (third,) = (await client.get(EVENTS, params={"after": second["next"]})).json()["data"]
    assert (third["kind"], third["who"]) == ("leased", "trainer")
    assert (await client.get("/v1/mega/jobs/ferry")).json()["state"] == "training"
    assert error(await client.get(EVENTS, params={"after": "7"}), 400)["param"] == "after"


def told(line: bytes) -> dict[str, Any]:
    fields = dict(part.split(b": ", 1) for part in line.strip().split(b"\n"))
    data: dict[str, Any] = json.loads(fields[b"data"])
    assert fields[b"id"].decode() == data["event"]
    assert fields[b"event"].decode() == data["kind"]
    return data


async def test_a_stream_tells_what_happens(
    server: MemoryServer, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(streaming, "QUIET_SECONDS", 0.05)
    await client.post(MEMORIES, json=FERRY)
    ending = False
    lines = event_lines(server.service, "default", 0, lambda: ending)
    async with asyncio.timeout(30):
        assert await anext(lines) == b"retry: 1000\n\n"
        assert told(await anext(lines))["id"] == "ferry"
        assert await anext(lines) == b": nothing new\n\n"
        await client.post(MEMORIES, json={**LAMP, "namespace": "other"})
        await client.post(MEMORIES, json=LAMP)
        while (line := await anext(lines)).startswith(b":"):
            pass
        assert told(line)["id"] == "lamp"
        ending = True
        assert [line async for line in lines if not line.startswith(b":")] == []


async def test_a_stream_is_taken_up_again(
    server: MemoryServer, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "LIFE_SECONDS", 0.3)
    monkeypatch.setattr(streaming, "POLL_SECONDS", 0.01)
    await client.post(MEMORIES, json={"memories": [FERRY, LAMP]})
    headers = {"Accept": "text/event-stream"}
    whole = await client.get(EVENTS, headers=headers)
    assert whole.headers["content-type"].startswith("text/event-stream")
    first, second = (told(part) for part in whole.content.split(b"\n\n")[1:3])
    again = await client.get(
        EVENTS, headers={**headers, "Last-Event-ID": first["event"]}, params={"after": second["event"]}
    )
    assert [told(part)["id"] for part in again.content.split(b"\n\n")[1:-1]] == ["lamp"]
    assert server.service.streams == 0
    error(await client.get(EVENTS, headers={**headers, "Last-Event-ID": "7"}), 400)
    assert server.service.streams == 0


async def test_who_is_gone_before_the_first_line_is_counted_no_more(server: MemoryServer) -> None:
    enter(server.service)
    stream = EventStream(server.service, event_lines(server.service, "default", 0, lambda: False))

    async def gone(_: Any) -> None:
        raise OSError("the client is gone")

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    with pytest.raises(ClientDisconnect):
        await stream({"type": "http", "asgi": {"spec_version": "2.4"}}, receive, gone)
    assert server.service.streams == 0


async def test_there_are_not_too_many_streams(server: MemoryServer, client: httpx.AsyncClient) -> None:
    for _ in range(streaming.MOST):
        enter(server.service)
    with pytest.raises(BusyError):
        enter(server.service)
    error(await client.get(EVENTS, headers={"Accept": "text/event-stream"}), 503)
    assert (await client.get(EVENTS)).status_code == 200
