"""The header that names the memories behind an answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route

from vllm_mega.http.provenance import MOST, Provenance, header, note


def memory(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "version": 2, "weight": 0.75, "score": 0.61239, "as": "adapter", **more}


def mega(*memories: Mapping[str, Any]) -> dict[str, Any]:
    return {"memories": list(memories)}


def test_each_memory_is_a_structured_field() -> None:
    read = memory("2.owls", version=1, weight=1.0, score=None, **{"as": "text"})
    assert header([mega(memory("bees"), read)]) == (
        '"bees";version=2;weight=0.75;as=adapter;score=0.6124, "2.owls";version=1;weight=1;as=text'
    )
    assert header([mega()]) == ""


def test_of_several_prompts_each_memory_says_its_own() -> None:
    told = header([mega(memory("bees")), mega(), mega(memory("owls"))])
    assert [item.rpartition(";")[2] for item in told.split(", ")] == ["prompt=0", "prompt=2"]


def test_a_proxy_takes_it() -> None:
    told = header([mega(*(memory(f"{n:03}" + 125 * "x") for n in range(64)))])
    assert told.count(", ") == MOST - 1
    assert len(told) < 4096


async def _answer(request: Request) -> Any:
    name = request.query_params.get("memory")
    if name is not None:
        note(request, mega(memory(name)) if name else mega())

    async def parts() -> Any:
        yield "said"

    return StreamingResponse(parts()) if "stream" in request.query_params else PlainTextResponse("said")


@pytest.mark.parametrize("path", ["/answer", "/inner/answer"])
@pytest.mark.parametrize("stream", ["", "&stream=1"])
async def test_what_is_noted_becomes_the_header_of_that_response(path: str, stream: str) -> None:
    routes = [Route("/answer", _answer)]
    app = Starlette(routes=[*routes, Mount("/inner", routes=routes)], middleware=[Middleware(Provenance)])
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        used = await client.get(f"{path}?memory=bees{stream}")
        base = await client.get(f"{path}?memory={stream}")
        without = await client.get(f"{path}?other=1{stream}")
    assert used.headers["mega-memories"] == header([mega(memory("bees"))])
    assert base.headers["mega-memories"] == "", "the base model answered"
    assert "mega-memories" not in without.headers
    assert {answer.text for answer in (used, base, without)} == {"said"}


def test_a_batch_has_no_header() -> None:
    note(None, mega(memory("bees")))
