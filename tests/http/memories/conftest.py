"""The routes about memories, without keys, and a client of theirs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.http.memories.server import MemoryServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MemoryServer]:
    made = MemoryServer(tmp_path)
    yield made
    made.close()


@pytest.fixture
async def client(server: MemoryServer) -> AsyncIterator[httpx.AsyncClient]:
    async with server.client() as opened:
        yield opened
