"""The MCP server over stdin and stdout: a thin client of a server that runs elsewhere."""

from __future__ import annotations

import asyncio

import httpx
from mcp.server.stdio import stdio_server

from vllm_mega.mcp.asking import Asker
from vllm_mega.mcp.server import memory_server

_PATIENCE = httpx.Timeout(600, connect=10)
"""Seconds: a recall may wait behind other requests."""


def run(url: str, key: str | None, namespace: str | None) -> None:
    """Answer on stdout what is asked on stdin, until it ends.

    Args:
        url: root of the server.
        key: for the server; None: it needs none.
        namespace: whose memories; None: the first that the key is for.
    """
    asyncio.run(_run(url, key, namespace))


async def _run(url: str, key: str | None, namespace: str | None) -> None:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=_PATIENCE) as client:
        server = memory_server(Asker(client, namespace))
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())
