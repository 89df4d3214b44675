"""Requests that a server makes of itself, as whoever has asked it: for tools that it executes.

They go through all of the application but the socket: key, role, namespace, limits and audit log are those
of any request. There is no second check of who may do what.
"""

from __future__ import annotations

import httpx
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

_AS = ("authorization", "host", "origin", "forwarded", "x-forwarded-for", "x-real-ip", "traceparent", "tracestate")  # noqa: E501  # fmt: skip
"""Headers by which it is decided who asks, and the trace that it belongs to."""
_MARK = "mega_inside"
_NOBODY = "http://inside.invalid"
"""What a request without a host is taken to ask for: the name of no machine."""


def is_inside(scope: Scope) -> bool:
    """Whether a request is made by one that is being answered; no client can say so of its own."""
    return _MARK in scope


def inside(request: Request) -> httpx.AsyncClient:
    """A client of the server that answers `request`, who is whoever has sent it."""
    app, client = request.app, request.scope.get("client")

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "client": client, _MARK: True}, receive, send)

    headers = [(name, value) for name, value in request.headers.items() if name in _AS]
    transport = httpx.ASGITransport(answer, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=_NOBODY, headers=headers)
