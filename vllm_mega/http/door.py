"""The door of a server with memory: no request reaches a route, whoever added the route, without the key.

vLLM's own check of --api-key guards four prefixes; /invocations, which leads to the same handlers, is none
of them. Here everything is guarded but what tells only that the server lives, and the files of the console,
which tell nothing.
"""

from __future__ import annotations

from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from vllm import envs
from vllm.entrypoints.serve.middleware.authenticate import AuthenticationMiddleware

from vllm_mega.http.console.files import is_console

OPEN = frozenset({"/health", "/ping", "/mega/ready"})
"""What load balancers ask without a key. The answer is a status code, and of the last what is not ready."""


def is_open(scope: Scope) -> bool:
    """Whether the request in `scope` asks for one of `OPEN`, or reads a file of the console.

    Another spelling of a path is none of these.
    """
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    return path in OPEN or is_console(scope.get("method", ""), path)


def keys_of(args: Any) -> list[str]:
    """The keys that a server with vLLM's arguments `args` asks for; without any, nobody needs one."""
    return [key for key in (args.api_key or [envs.VLLM_API_KEY]) if key]


class KeyCheck(AuthenticationMiddleware):  # type: ignore[misc]  # vLLM is untyped to mypy
    """vLLM's check of keys (`tokens`), for all that is not open (`is_open`).

    The method OPTIONS is no exception: what answers CORS preflights stands before this check.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request pass, or answer 401."""
        guarded = scope["type"] in ("http", "websocket") and not is_open(scope)
        if guarded and not self.verify_token(Headers(scope=scope)):
            refusal = JSONResponse({"error": "Unauthorized"}, 401, {"WWW-Authenticate": "Bearer"})
            await refusal(scope, receive, send)
        else:
            await self.app(scope, receive, send)
