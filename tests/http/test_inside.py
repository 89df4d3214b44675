"""Requests that a server makes of itself: as whoever has asked, and not counted twice."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from vllm_mega.http.inside import inside
from vllm_mega.http.limit import RequestLimit


async def outer(request: Request) -> JSONResponse:
    async with inside(request) as client:
        answer = await client.post("/inner", json={"a": 1})
    return JSONResponse({"status": answer.status_code, "inner": answer.json()})


async def inner(request: Request) -> JSONResponse:
    return JSONResponse(
        {"client": request.client, "headers": dict(request.headers), "body": await request.json()}
    )


async def broken(request: Request) -> JSONResponse:
    async with inside(request) as client:
        return JSONResponse({"status": (await client.post("/none")).status_code})


@pytest.fixture
def app() -> Starlette:
    made = Starlette(routes=[Route(f"/{f.__name__}", f, methods=["POST"]) for f in (outer, inner, broken)])
    made.add_middleware(RequestLimit, limit=1)
    return made


def asking(app: Any, address: tuple[str, int] = ("10.0.0.7", 9)) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, client=address)
    return httpx.AsyncClient(transport=transport, base_url="http://server")


async def test_it_is_whoever_has_asked(app: Starlette) -> None:
    headers = {
        "Authorization": "Bearer mega-x", "Origin": "https://site.example", "X-Forwarded-For": "10.0.0.8",
        "X-Request-Id": "one", "If-Match": "tag", "Content-Type": "text/plain",
    }  # fmt: skip
    async with asking(app) as client:
        told = (await client.post("/outer", headers=headers, content="x" * 99)).json()["inner"]
    assert (told["client"], told["body"]) == (["10.0.0.7", 9], {"a": 1})
    heard = told["headers"]
    assert (heard["authorization"], heard["host"]) == ("Bearer mega-x", "server")
    assert (heard["origin"], heard["x-forwarded-for"]) == ("https://site.example", "10.0.0.8")
    assert heard["content-type"] == "application/json"
    assert not {"x-request-id", "if-match"} & set(heard)


async def test_who_is_not_known_stays_unknown(app: Starlette) -> None:
    async def nameless(scope: Any, receive: Any, send: Any) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
        await app({**scope, "client": None, "headers": headers}, receive, send)

    async with asking(nameless) as client:
        told = (await client.post("/outer")).json()["inner"]
    assert (told["client"], told["headers"]["host"]) == (None, "inside.invalid")


async def test_it_counts_as_the_request_that_makes_it(app: Starlette) -> None:
    async with asking(app) as client:
        assert (await client.post("/outer")).json()["status"] == 200
        full = (await client.post("/outer", headers={"Mega-Inside": "1", "mega_inside": "1"})).json()
        assert full["status"] == 200
        assert (await client.post("/broken")).json()["status"] == 404
