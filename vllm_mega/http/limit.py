"""How many requests a server has at a time: beyond that it says so at once, instead of letting all wait."""

from __future__ import annotations

from collections.abc import MutableMapping
from http import HTTPStatus
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from vllm.entrypoints.serve import create_error_response

from vllm_mega.http.door import is_open
from vllm_mega.http.inside import is_inside
from vllm_mega.http.measures import INSIDE, REFUSED

WAITING = 3
"""For each sequence that can run, so many requests may wait: the last one waits for three answers."""
RETRY_SECONDS = 5
_BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


def default_limit(vllm_config: Any) -> int:
    """The limit of one API server, from what its engines run at a time (--max-num-seqs)."""
    parallel = vllm_config.parallel_config
    local = parallel.local_engines_only
    engines = parallel.data_parallel_size_local if local else parallel.data_parallel_size
    running: int = vllm_config.scheduler_config.max_num_seqs * engines
    return -(-running * (1 + WAITING) // int(parallel._api_process_count))


class RequestLimit:
    """Lets at most so many POST requests in at a time, from the first byte to the last; the others get 503.

    Nothing of a refused request is read. What a request asks of the server itself counts as that request.
    Every answer that asks a client to come back says when.

    Args:
        app: what answers.
        limit: how many; None: `default_limit` of the server that it stands in.
    """

    def __init__(self, app: ASGIApp, limit: int | None) -> None:
        self._app = app
        self._limit = limit
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request in, or answer 503."""
        if scope["type"] != "http" or scope["method"] != "POST" or is_open(scope) or is_inside(scope):
            await self._app(scope, receive, send)
            return
        if self._limit is None:
            self._limit = default_limit(scope["app"].state.vllm_config)

        async def dated(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and message["status"] in _BUSY:
                MutableHeaders(scope=message).setdefault("Retry-After", str(RETRY_SECONDS))
            await send(message)

        if self._inside >= self._limit:
            REFUSED.inc()
            await _full(self._limit)(scope, receive, dated)
            return
        self._inside += 1
        try:
            with INSIDE.track_inprogress():
                await self._app(scope, receive, dated)
        finally:
            self._inside -= 1


def _full(limit: int) -> JSONResponse:
    message = (
        f"the server has {limit} requests, as many as it answers or keeps waiting at a time: "
        f"try again in {RETRY_SECONDS} s, or start it with a larger --max-requests"
    )
    status = HTTPStatus.SERVICE_UNAVAILABLE
    error = create_error_response(message, "ServiceUnavailableError", status)
    return JSONResponse(error.model_dump(), status)
