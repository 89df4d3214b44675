"""From a request to an answer: who asks what, whether he may, what is done, and how it is told."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import msgspec
from fastapi import Request, Response
from fastapi.responses import JSONResponse
from vllm.entrypoints.serve import create_error_response

from vllm_mega.access.keyless import local
from vllm_mega.access.principals import Principal
from vllm_mega.bank.catalog.once import AlreadyDone, Once, require_new
from vllm_mega.bank.catalog.records import MemoryName
from vllm_mega.bank.catalog.rows import unknown
from vllm_mega.config import check_name
from vllm_mega.errors import MegaError, RequestError
from vllm_mega.http.entrance import principal
from vllm_mega.http.memories.items import decode_body, decode_query
from vllm_mega.http.memories.operations import Operation
from vllm_mega.http.memories.refusing import Refusal, refusal_of
from vllm_mega.http.memories.repeating import HEADER, once_of
from vllm_mega.http.memories.service import Asked, Service, Told

logger = logging.getLogger(__name__)
_NO_STAMP = -1
"""That no memory has."""


@dataclass(frozen=True)
class Raw:
    """A request as it came, of somebody who is known."""

    who: Principal
    client: str
    id: str
    query: tuple[tuple[str, str], ...]
    body: bytes
    content_type: str
    if_match: str | None
    idempotency_key: str | None


async def raw_of(request: Request) -> Raw:
    """All of a request.

    Raises:
        ForbiddenError: it comes from nobody who may ask here.
    """
    who = asker(request)
    headers = request.headers
    return Raw(
        who, _client(request) or "", request.path_params.get("id", ""),
        tuple(request.query_params.multi_items()), await request.body(),
        headers.get("content-type", ""), headers.get("if-match"), headers.get("idempotency-key"),
    )  # fmt: skip


def asker(request: Request) -> Principal:
    """Whose key it is; where nobody needs a key, somebody on this machine.

    Raises:
        ForbiddenError: nobody needs a key, and it comes from elsewhere.
    """
    if request.app.state.mega_guarded:
        return principal()
    return local(_client(request), request.headers)


def _client(request: Request) -> str | None:
    return request.client.host if request.client else None


async def answer(operation: Operation, request: Request) -> Response:
    """The answer of an operation, made beside the event loop; a refusal has OpenAI's form."""
    service: Service = request.app.state.mega_memories
    try:
        raw = await raw_of(request)
        return await service.pool.run(lambda: _respond(operation, service, raw))
    except MegaError as error:
        return refuse(refusal_of(error))


def refuse(refusal: Refusal) -> JSONResponse:
    """A refusal as OpenAI's clients read it."""
    body = create_error_response(refusal.message, refusal.kind, refusal.status, refusal.param)
    headers = None if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}
    return JSONResponse(body.model_dump(), refusal.status, headers)


def _respond(operation: Operation, service: Service, raw: Raw) -> Response:
    asked = understand(operation, service, raw)
    headers = {"Cache-Control": "no-store"}
    try:
        if asked.once is not None:
            require_new(service.catalog, asked.once)
        told = operation.act(service, asked)
        _note(operation, service, raw, asked, told)
    except AlreadyDone as done:
        assert operation.again is not None, "or it would not have heeded the key"
        told = operation.again(service, asked, done.kept)
        headers["Idempotency-Replayed"] = "true"
    if told.stamp is not None:
        headers["ETag"] = f'"{service.seals.seal(told.stamp, "stamp", asked.namespace)}"'
    content = msgspec.json.encode(told.value)
    return Response(content, operation.status, headers, media_type="application/json")


def understand(operation: Operation, service: Service, raw: Raw) -> Asked:
    """What a request asks for, if who sent it may.

    Raises:
        RequestError: it cannot be read.
        ConfigError: its namespace can be none.
        ForbiddenError: it is for somebody else.
        MemoryNotFoundError: no memory can have such an id.
    """
    query = decode_query(raw.query, operation.query)
    body = None if operation.body is None else _body(raw, operation.body)
    named = getattr(query, "namespace", None) or getattr(body, "namespace", None)
    namespace = raw.who.home(service.settings.namespace) if named is None else named
    check_name(namespace, "namespace")
    raw.who.check(operation.role, namespace)
    if getattr(query, "receipt", False):
        raw.who.check_whole("a receipt")
        if raw.idempotency_key is not None:
            raise RequestError(f"a receipt is made once and not kept: leave {HEADER} or receipt out", HEADER)
    if "\0" in raw.id:
        raise unknown(MemoryName(namespace, raw.id))
    stamp = _stamp(operation, service, raw, namespace)
    once = _once(operation, service, raw, namespace)
    return Asked(raw.who.name, namespace, raw.id, query, body, stamp, once)


def _body(raw: Raw, kind: type[Any]) -> Any:
    if raw.content_type.partition(";")[0].strip().lower() != "application/json":
        raise RequestError("the body must be JSON: send Content-Type: application/json", "Content-Type")
    return decode_body(raw.body, kind)


def _stamp(operation: Operation, service: Service, raw: Raw, namespace: str) -> int | None:
    """That the memory must have, by If-Match: of a tag that we never gave, one that it cannot have."""
    if raw.if_match is None or raw.if_match.strip() == "*":
        return None
    if not operation.conditional:
        raise RequestError(f"{operation.method} {operation.path} has no use for If-Match", "If-Match")
    stamp = service.seals.open(raw.if_match.strip().strip('"'), "stamp", namespace)
    return _NO_STAMP if stamp is None else stamp


def _once(operation: Operation, service: Service, raw: Raw, namespace: str) -> Once | None:
    if raw.idempotency_key is None:
        return None
    if operation.again is None:
        raise RequestError(f"{operation.method} {operation.path} has no use for {HEADER}", HEADER)
    said = (operation.method, operation.path, raw.id, sorted(raw.query), raw.if_match)
    return once_of(service.seals, namespace, raw.idempotency_key, said, raw.body)


def _note(operation: Operation, service: Service, raw: Raw, asked: Asked, told: Told) -> None:
    """Write into the audit log what was changed; that cannot be undone where the log cannot be written."""
    if service.audit is None or operation.role == "read":
        return
    try:
        service.audit.changed(
            asked.who, operation.status, operation.name, asked.namespace, told.ids, raw.client
        )
    except OSError as error:
        logger.error("the audit log cannot be written: %s", error.strerror)
