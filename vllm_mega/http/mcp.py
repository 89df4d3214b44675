"""The MCP endpoint of a server: streamable HTTP without sessions, each message a POST answered in JSON."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.types import Receive, Scope, Send

from vllm_mega.config import check_name
from vllm_mega.errors import MegaError
from vllm_mega.http.bodies import LARGEST
from vllm_mega.http.entrance import ROOM
from vllm_mega.http.inside import inside
from vllm_mega.http.memories.answering import asker, refuse
from vllm_mega.http.memories.asked import Where
from vllm_mega.http.memories.items import decode_query
from vllm_mega.http.memories.refusing import refusal_of
from vllm_mega.mcp.asking import Asker
from vllm_mega.mcp.server import memory_server

PATH = ROOM + "mcp"


class _Message(Response):  # type: ignore[misc]  # FastAPI is untyped to mypy
    """The answer to one message. What its tools do, they ask of this server, as whoever has sent it."""

    def __init__(self, request: Request, namespace: str | None) -> None:
        super().__init__()
        self._request, self._namespace = request, namespace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with inside(self._request) as client:
            server = memory_server(Asker(client, self._namespace))
            manager = StreamableHTTPSessionManager(
                server, json_response=True, stateless=True, max_request_body_size=LARGEST
            )
            async with manager.run():
                await manager.handle_request(scope, receive, send)


async def _mcp(request: Request) -> Response:
    """One message of MCP, of somebody who may ask here and about this namespace.

    The same is asked where nobody needs a key as by the routes about memories: so no page of another site can
    speak to it, under whatever name it has this machine be known.
    """
    try:
        who = asker(request)
        namespace = decode_query(request.query_params.multi_items(), Where).namespace
        if namespace is not None:
            who.check("read", check_name(namespace, "namespace"))
    except MegaError as error:
        return refuse(refusal_of(error))
    return _Message(request, namespace)


router = APIRouter(tags=["memories"])
router.add_api_route(
    PATH,
    _mcp,
    methods=["POST"],
    name="mcp",
    operation_id="mcp",
    summary="mcp",
    description="The Model Context Protocol (streamable HTTP): tools for agents, as these routes. "
    "`namespace` behind the question mark says whose memories, for all tools.",
    response_model=None,
)
