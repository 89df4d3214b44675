"""A server forgets what has expired, though nobody asks it anything."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.banks import Item, events, make_bank
from tests.clock import forward, in_seconds
from tests.http.memories.server import MemoryServer
from vllm_mega.bank.catalog.catalog import open_catalog
from vllm_mega.bank.layout import NewMemory
from vllm_mega.http import expiring
from vllm_mega.http.endpoints import _open_routes
from vllm_mega.http.expiring import keep_expiring


async def test_it_goes_without_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = NewMemory("The lamp burns.", id="lamp", expires_at=in_seconds(0.5))
    make_bank(tmp_path / "bank", [Item(memory)])
    failed: list[int] = []

    def first_fails(catalog: expiring.Catalog) -> object:
        if not failed:
            failed.append(1)
            raise expiring.BankError("the disk is away")
        return real(catalog)

    real = expiring.expire
    monkeypatch.setattr(expiring, "expire", first_fails)
    with open_catalog(tmp_path / "bank") as catalog:
        running = asyncio.create_task(keep_expiring(catalog, 0.05))
        async with asyncio.timeout(60):
            while events(tmp_path / "bank")[-1] != ("lamp", "expired"):
                await asyncio.sleep(0.1)
        running.cancel()
        await asyncio.wait([running])


async def test_a_server_begins_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = MemoryServer(tmp_path)
    memory = NewMemory("The lamp burns.", id="lamp", expires_at=in_seconds(60))
    make_bank(server.bank, [Item(memory)], embedder=server.service.embedder.info)
    forward(monkeypatch)(61)
    state = SimpleNamespace(mega_audit=None, mega_keys=None)
    _open_routes(state, server.service)
    async with asyncio.timeout(60):
        while events(server.bank)[-1] != ("lamp", "expired"):
            await asyncio.sleep(0.1)
    state.mega_expiring.cancel()
    await asyncio.wait([state.mega_expiring])
    server.close()


async def test_why_it_could_not_is_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_bank(tmp_path / "bank")

    def fails(_: object) -> object:
        raise expiring.BankError("the disk is away")

    monkeypatch.setattr(expiring, "expire", fails)
    with open_catalog(tmp_path / "bank") as catalog, caplog.at_level(logging.ERROR):
        running = asyncio.create_task(keep_expiring(catalog, 60))
        async with asyncio.timeout(60):
            while "the disk is away" not in caplog.text:
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait([running])
