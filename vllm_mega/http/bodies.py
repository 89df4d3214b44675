"""ASGI middleware: bodies of JSON requests are checked before anything parses them."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from vllm.entrypoints.serve import create_error_response

from vllm_mega.errors import RequestError
from vllm_mega.requests.wellformed import check_body


class CheckedBodies:
    """Answers 400 to JSON that `check_body` refuses; passes everything else on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request as an ASGI application: refuse its body, or pass it on."""
        if scope["type"] != "http" or not _is_json(scope):
            await self._app(scope, receive, send)
            return
        messages = await _all(receive)
        try:
            check_body(b"".join(message.get("body", b"") for message in messages))
        except RequestError as error:
            refusal = create_error_response(str(error), param=error.param)
            await JSONResponse(refusal.model_dump(), refusal.error.code)(scope, receive, send)
            return
        left = iter(messages)

        async def replay() -> Message:
            return next(left, None) or await receive()

        await self._app(scope, replay, send)


def _is_json(scope: Scope) -> bool:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    # FastAPI takes a body without a type for JSON.
    return scope["method"] == "POST" and (not kind or kind == b"application/json" or kind.endswith(b"+json"))


async def _all(receive: Receive) -> list[Any]:
    """The messages with the body, or those before the client left."""
    messages: list[Message] = []
    while not messages or (messages[-1]["type"] == "http.request" and messages[-1].get("more_body")):
        messages.append(await receive())
    return messages
