"""A bounded queue: what does not fit is told to come back, at once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse, StreamingResponse

from tests.http.running_app import build
from vllm_mega.config import MegaSettings
from vllm_mega.errors import ConfigError
from vllm_mega.http.limit import RequestLimit, default_limit

PATH = "/v1/chat/completions"


class Slow:
    """An app that answers when it is told to; /stream begins at once."""

    def __init__(self) -> None:
        self.asked = 0
        self.go = asyncio.Event()
        self.status = 200

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += 1
        if scope["path"] == "/stream":
            await StreamingResponse(self._words())(scope, receive, send)
            return
        if scope["method"] == "POST":
            await self.go.wait()
        await PlainTextResponse("done", self.status)(scope, receive, send)

    async def _words(self) -> Any:
        yield "one "
        await self.go.wait()
        yield "two"


def client_of(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server")


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("path", [PATH, "/invocations", "/stream", "/tokenize"])
async def test_300_requests_do_not_all_wait(path: str) -> None:
    slow = Slow()
    async with client_of(RequestLimit(slow, 32)) as client:
        tasks = [asyncio.create_task(client.post(path, content=b"{}")) for _ in range(300)]
        await until(lambda: sum(task.done() for task in tasks) == 268)
        assert slow.asked == 32
        assert (await client.get("/health")).text == "done", "those who only look are let in"
        slow.go.set()
        answers = await asyncio.gather(*tasks)
        assert (await client.post(path)).status_code == 200, "there is room again"
    refused = [answer for answer in answers if answer.status_code == 503]
    assert len(refused) == 268
    assert {answer.headers["Retry-After"] for answer in refused} == {"5"}
    error = refused[0].json()["error"]
    assert (error["type"], error["code"]) == ("ServiceUnavailableError", 503)
    assert "has 32 requests" in error["message"]
    assert "--max-requests" in error["message"]


async def test_who_leaves_makes_room() -> None:
    slow = Slow()
    async with client_of(RequestLimit(slow, 1)) as client:
        first = asyncio.create_task(client.post(PATH))
        await until(lambda: slow.asked)
        assert (await client.post(PATH)).status_code == 503
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        slow.go.set()
        assert (await client.post(PATH)).status_code == 200


@pytest.mark.parametrize(("status", "later"), [(503, "5"), (429, "5"), (500, None), (200, None)])
async def test_every_answer_that_asks_to_come_back_says_when(status: int, later: str | None) -> None:
    slow = Slow()
    slow.status = status
    slow.go.set()
    async with client_of(RequestLimit(slow, 1)) as client:
        assert (await client.post(PATH)).headers.get("Retry-After") == later


@pytest.mark.parametrize(
    ("seqs", "engines", "local", "servers", "limit"),
    [
        (8, 1, False, 1, 32),
        (8, 2, False, 1, 64),
        (8, 2, False, 3, 22),
        (8, 2, True, 1, 32),
        (1, 1, False, 8, 1),
    ],
)
def test_the_default_follows_from_what_runs_at_a_time(
    seqs: int, engines: int, local: bool, servers: int, limit: int
) -> None:
    parallel = SimpleNamespace(
        data_parallel_size=engines,
        data_parallel_size_local=1,
        local_engines_only=local,
        _api_process_count=servers,
    )
    scheduler = SimpleNamespace(max_num_seqs=seqs)
    config = SimpleNamespace(parallel_config=parallel, scheduler_config=scheduler)
    assert default_limit(config) == limit


def test_vllm_has_what_the_default_is_made_of() -> None:
    from vllm.config import ParallelConfig

    parallel = ParallelConfig()
    assert parallel._api_process_count == 1
    assert parallel.local_engines_only in (True, False)
    assert parallel.data_parallel_size_local == parallel.data_parallel_size == 1


async def test_the_server_is_bounded_behind_its_door(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = '{"mega": {"bank": "bank", "max_requests": 1}}'
    app = build(monkeypatch, "--api-key", "sesame", settings=settings)
    go = asyncio.Event()

    async def answer(*_: Any) -> Any:
        await go.wait()
        raise ValueError("that is all")

    app.state.openai_serving_chat = SimpleNamespace(create_chat_completion=answer)
    body = {"model": "base", "messages": [{"role": "user", "content": "Who?"}]}
    key = {"Authorization": "Bearer sesame"}
    async with client_of(app) as client:
        first = asyncio.create_task(client.post(PATH, json=body, headers=key))
        await asyncio.sleep(0.2)
        assert (await client.post(PATH, json=body)).status_code == 401
        full = await client.post(PATH, json=body, headers=key)
        assert (full.status_code, full.headers["Retry-After"]) == (503, "5")
        go.set()
        assert (await first).status_code == 400


def test_no_request_at_all_is_no_limit() -> None:
    with pytest.raises(ConfigError, match="max_requests must be at least 1, got 0"):
        MegaSettings(bank="bank", max_requests=0)
