"""The routes about memories, as FastAPI has them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request, Response

from vllm_mega.errors import MegaError
from vllm_mega.http.memories.answering import answer, raw_of, refuse, understand
from vllm_mega.http.memories.describing import described
from vllm_mega.http.memories.operations import OPERATIONS, Operation
from vllm_mega.http.memories.reading import events, first
from vllm_mega.http.memories.refusing import refusal_of
from vllm_mega.http.memories.service import Service
from vllm_mega.http.memories.streaming import KIND, EventStream, enter, event_lines


def _handler(operation: Operation) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        if operation.act is events and KIND in request.headers.get("accept", ""):
            return await _stream(operation, request)
        return await answer(operation, request)

    return handle


async def _stream(operation: Operation, request: Request) -> Response:
    """Events as they happen."""
    service: Service = request.app.state.mega_memories
    server: Any = getattr(request.app.state, "server", None)
    try:
        raw = await raw_of(request)
        if last := request.headers.get("last-event-id"):
            raw = replace(raw, query=(*(pair for pair in raw.query if pair[0] != "after"), ("after", last)))
        asked = understand(operation, service, raw)
        after = first(service, asked)
        enter(service)
    except MegaError as error:
        return refuse(refusal_of(error))
    lines = event_lines(service, asked.namespace, after, lambda: bool(getattr(server, "should_exit", False)))
    return EventStream(service, lines)


router = APIRouter(tags=["memories"])
for _operation in OPERATIONS:
    router.add_api_route(
        _operation.path,
        _handler(_operation),
        methods=[_operation.method],
        name=_operation.name,
        operation_id=_operation.name,
        summary=_operation.name.replace("_", " "),
        description=_operation.about,
        status_code=_operation.status,
        response_model=None,
        openapi_extra=described(_operation),
    )
