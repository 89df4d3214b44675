"""ASGI middleware: bodies of JSON requests are checked before anything parses them, and some are bounded."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from vllm.entrypoints.serve import create_error_response

from vllm_mega.errors import RequestError
from vllm_mega.http.entrance import ROOM, in_room, inner_path
from vllm_mega.requests.wellformed import check_body

LARGEST = 1 << 20
"""Bytes of a body that is about memories. (vLLM's own routes take pictures, and bound nothing.) What is in it
is not looked at here: its reader refuses what is no text, and does so beside the event loop. Yet reading is
one call, which no other thread interrupts: of nothing but small strings it takes 9 ms a megabyte."""
LARGEST_DOCUMENT = 2 << 20
"""Of a body with a document, which is one large string: it is read in a tenth of the time."""
_LARGE = 64 << 10
"""Bytes of a body that is looked at in a thread: the event loop has others to serve."""
_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class CheckedBodies:
    """Answers 400 to JSON that `check_body` refuses, 413 to what is too large; passes everything else on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request as an ASGI application: refuse its body, or pass it on."""
        bounded = scope["type"] == "http" and in_room(scope)
        if scope["type"] != "http" or not (bounded or _is_json(scope)):
            await self._app(scope, receive, send)
            return
        most = _most(scope) if bounded else None
        messages = await _all(receive, most)
        if messages is None:
            await _too_large(most)(scope, receive, send)
            return
        if (refusal := await _refused(scope, messages)) is not None:
            await refusal(scope, receive, send)
            return
        left = iter(messages)

        async def replay() -> Message:
            return next(left, None) or await receive()

        await self._app(scope, replay, send)


async def _refused(scope: Scope, messages: list[Any]) -> JSONResponse | None:
    """The refusal of a body that cannot be used."""
    if in_room(scope):
        return None
    body = b"".join(message.get("body", b"") for message in messages)
    try:
        if len(body) > _LARGE:
            await asyncio.to_thread(check_body, body)
        else:
            check_body(body)
    except RequestError as error:
        refusal = create_error_response(str(error), param=error.param)
        return JSONResponse(refusal.model_dump(), refusal.error.code)
    return None


def _most(scope: Scope) -> int:
    """Bytes of a body about memories, at most."""
    return LARGEST_DOCUMENT if inner_path(scope) == ROOM + "documents" else LARGEST


def _too_large(most: int | None) -> JSONResponse:
    message = f"the body is larger than {most} bytes: send it in parts"
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    refusal = create_error_response(message, "RequestTooLargeError", status, "body")
    return JSONResponse(refusal.model_dump(), status, {"Connection": "close"})


def _is_json(scope: Scope) -> bool:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    # FastAPI takes a body without a type for JSON.
    is_json = not kind or kind == b"application/json" or kind.endswith(b"+json")
    return scope["method"] in _METHODS and is_json


async def _all(receive: Receive, most: int | None) -> list[Any] | None:
    """The messages with the body, or those before the client left; None: it is larger than `most` bytes."""
    messages: list[Message] = []
    size = 0
    while not messages or (messages[-1]["type"] == "http.request" and messages[-1].get("more_body")):
        messages.append(await receive())
        size += len(messages[-1].get("body", b""))
        if most is not None and size > most:
            return None
    return messages
