"""The header that says which memories are behind an answer, for those who do not read its body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "mega-memories"
MOST = 16
"""Memories that are named: proxies take headers of some kilobytes."""
_STATE = "mega_used"
"""Where `note` leaves them, in the state of the request."""


def header(values: Sequence[Mapping[str, Any]]) -> str:
    """The value of the header: a list of structured fields (RFC 8941), the heaviest memory first.

    Args:
        values: the field `mega` of the response, of each prompt; with more than one, each memory says of
            which prompt it is.
    """
    every = [(n, memory) for n, value in enumerate(values) for memory in value["memories"]][:MOST]
    return ", ".join(_item(memory, n if len(values) > 1 else None) for n, memory in every)


def note(raw_request: Request | None, value: Any) -> None:
    """Have the response to a request say which memories are behind it.

    Args:
        raw_request: with the state that `Provenance` has given it; None: there is no HTTP (a batch).
        value: the field `mega` of the response, or a list of them.
    """
    if raw_request is not None:
        raw_request.state.mega_used = value if isinstance(value, list) else [value]


class Provenance:
    """ASGI middleware that writes what was noted into the header; where nothing was, there is none."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start" and _STATE in state:
                field = (HEADER.encode(), header(state[_STATE]).encode("ascii"))
                message = {**message, "headers": [*message.get("headers", ()), field]}
            await send(message)

        await self._app(scope, receive, told)


def _item(memory: Mapping[str, Any], prompt: int | None) -> str:
    """Ids have no character that would have to be escaped (see `config.check_name`)."""
    said = f'"{memory["id"]}";version={memory["version"]};weight={memory["weight"]:g};as={memory["as"]}'
    if memory["score"] is not None:
        said += f";score={memory['score']:.4f}"
    return said if prompt is None else f"{said};prompt={prompt}"
