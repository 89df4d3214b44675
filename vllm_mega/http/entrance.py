"""The door of a server whose keys are for somebody: it finds out who asks, and what routes are for whom.

vLLM's check of --api-key knows one kind of key, and none of ours; so a server has one or the other.
"""

from __future__ import annotations

import asyncio
import logging
from contextvars import ContextVar
from http import HTTPStatus
from typing import NamedTuple

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from vllm.entrypoints.serve import create_error_response

from vllm_mega.access.audit import Audit
from vllm_mega.access.keyfile import Keys
from vllm_mega.access.principals import OPERATOR, Principal
from vllm_mega.errors import ConfigError
from vllm_mega.http.door import is_open

logger = logging.getLogger(__name__)

FOR_EVERYBODY = frozenset({
    ("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("POST", "/v1/completions"),
    ("POST", "/v1/messages"), ("POST", "/invocations"), ("POST", "/tokenize"), ("POST", "/detokenize"),
    ("GET", "/version"),
})  # fmt: skip
"""What every key opens: each answer is made of the request, and of memories that the key may ask about. All
else, whoever added it, tells or changes something of the whole server and is for admins; but for ..."""
ROOM = "/v1/mega/"
"""... the routes under this, each of which asks whether its key has the role and the namespace."""


class Refusal(NamedTuple):
    """What somebody hears who is not let in."""

    kind: str
    status: HTTPStatus
    message: str


NOBODY = Refusal(
    "AuthenticationError", HTTPStatus.UNAUTHORIZED, "this server needs a key: Authorization: Bearer KEY"
)
NO_ADMIN = Refusal(
    "PermissionDeniedError", HTTPStatus.FORBIDDEN, "this route is for keys with the role admin"
)
UNREADABLE = Refusal(
    "ServiceUnavailableError", HTTPStatus.SERVICE_UNAVAILABLE,
    "the server cannot read its keys: whoever runs it finds the reason in its log",
)  # fmt: skip

_principal: ContextVar[Principal] = ContextVar("mega_principal", default=OPERATOR)


def principal() -> Principal:
    """Who asks, in the request that is being answered; `OPERATOR` where nobody needs a key of ours."""
    return _principal.get()


class Entrance:
    """Lets in who has a key, to what it is for: 401 without, 403 elsewhere, 503 while keys are unreadable.

    Args:
        app: what answers.
        keys: as they are at the moment of the request.
        audit: gets a line for every refused try; None: nobody wants to know.
    """

    def __init__(self, app: ASGIApp, keys: Keys, audit: Audit | None) -> None:
        self._app = app
        self._keys = keys
        self._audit = audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request pass, as somebody's, or refuse it."""
        if scope["type"] not in ("http", "websocket") or is_open(scope):
            await self._app(scope, receive, send)
            return
        try:
            who = self._keys().find(_bearer(scope))
        except ConfigError as error:
            logger.error("nobody is let in: %s", error)
            await self._refuse(UNREADABLE, "", scope, receive, send)
            return
        if who is None:
            await self._refuse(NOBODY, "", scope, receive, send)
        elif who.role != "admin" and not _for_everybody(scope):
            await self._refuse(NO_ADMIN, who.name, scope, receive, send)
        else:
            await self._pass(who, scope, receive, send)

    async def _pass(self, who: Principal, scope: Scope, receive: Receive, send: Send) -> None:
        status = 0

        async def noted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        token = _principal.set(who)
        try:
            await self._app(scope, receive, noted)
        finally:
            _principal.reset(token)
        if status == HTTPStatus.FORBIDDEN:  # by a handler, for the namespace
            await self._write(status, who.name, scope)

    async def _refuse(self, refusal: Refusal, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        await self._write(refusal.status, name, scope)
        body = create_error_response(refusal.message, refusal.kind, refusal.status)
        headers = {"WWW-Authenticate": "Bearer"} if refusal is NOBODY else None
        await JSONResponse(body.model_dump(), refusal.status, headers)(scope, receive, send)

    async def _write(self, status: int, name: str, scope: Scope) -> None:
        if self._audit is None:
            return
        client = (scope.get("client") or ("",))[0]
        try:
            await asyncio.to_thread(self._audit.refused, name, int(status), client)
        except OSError as error:
            logger.error("the audit log cannot be written: %s", error.strerror)


def _bearer(scope: Scope) -> str:
    scheme, _, key = Headers(scope=scope).get("Authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _for_everybody(scope: Scope) -> bool:
    return in_room(scope) or (scope.get("method", ""), inner_path(scope)) in FOR_EVERYBODY


def in_room(scope: Scope) -> bool:
    """Whether a request is about memories, spelled exactly so."""
    return inner_path(scope).startswith(ROOM)


def inner_path(scope: Scope) -> str:
    """The path as routes have it, without what --root-path puts before it."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
