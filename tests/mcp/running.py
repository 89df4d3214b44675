"""A server that agents reach: the real routes over a real bank, on a socket, and a model that is invented."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal

import httpx2
import uvicorn
from fastapi import Request
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from tests.http.memories.server import MemoryServer
from vllm_mega.demo.server import free_port
from vllm_mega.http.mcp import router

Carrier = Literal["http", "stdio"]
CARRIERS: tuple[Carrier, ...] = ("http", "stdio")
MODEL = "brook-mega"


class AgentServer(MemoryServer):
    """The routes about memories, the MCP endpoint, and a model that repeats what it is asked."""

    def __init__(self, folder: Path, *, keys: bool = False) -> None:
        super().__init__(folder, keys=keys)
        self.asked: list[dict[str, Any]] = []
        """Bodies of the chats."""
        self.app.include_router(router)
        self.app.add_api_route("/v1/models", self._models)
        self.app.add_api_route("/v1/chat/completions", self._chat, methods=["POST"])

    async def _models(self) -> Any:
        names = [{"id": "brook", "parent": None}, {"id": MODEL, "parent": "brook"}]
        return {"object": "list", "data": names}

    async def _chat(self, request: Request) -> Any:
        body = await request.json()
        self.asked.append(body)
        used = {"id": "ferry", "title": "", "version": 1, "state": "ready", "as": "text", "weight": 1.0}
        message = {"role": "assistant", "content": f"Told: {body['messages'][0]['content']}"}
        return {"choices": [{"message": message}], "mega": {"memories": [{**used, "score": 0.9}]}}


@contextmanager
def listening(server: MemoryServer) -> Iterator[str]:
    """Root of the server, which listens on loopback meanwhile."""
    port = free_port()
    listener = uvicorn.Server(uvicorn.Config(server.app, port=port, log_level="error", lifespan="off"))
    thread = threading.Thread(target=listener.run)
    thread.start()
    try:
        while not listener.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        listener.should_exit = True
        thread.join()
        server.close()


@asynccontextmanager
async def agent(
    carrier: Carrier, url: str, headers: dict[str, str] | None = None, namespace: str | None = None
) -> AsyncIterator[Client]:
    """The SDK's client, connected by one of the two carriers."""
    if carrier == "stdio":
        key = (headers or {}).get("Authorization", "").removeprefix("Bearer ")
        words = ["-m", "vllm_mega", "mcp", "--url", url]
        words += [] if namespace is None else ["--namespace", namespace]
        variables = {"VLLM_MEGA_API_KEY": key, "PYTHONPATH": str(Path(__file__).parents[2])}
        async with Client(StdioServerParameters(command=sys.executable, args=words, env=variables)) as client:
            yield client
        return
    query = "" if namespace is None else f"?namespace={namespace}"
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client(f"{url}/v1/mega/mcp{query}", http_client=http)) as client,
    ):
        yield client
