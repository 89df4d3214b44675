"""Whether a server is ready: its engine lives, and its bank can be read."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from vllm.v1.engine.exceptions import EngineDeadError

from tests.bank.samples import key, write_adapter
from tests.banks import Item, make_bank
from vllm_mega.bank.catalog.catalog import CATALOG_FILE
from vllm_mega.bank.layout import NewMemory
from vllm_mega.bank.library import Library
from vllm_mega.errors import BankError
from vllm_mega.http import watch as watching
from vllm_mega.http.ready import router
from vllm_mega.http.watch import Watch


@pytest.fixture
def root(tmp_path: Path) -> Path:
    item = Item(NewMemory("The ferry is red.", id="ferry"), write_adapter(tmp_path / "a"), key(1))
    make_bank(tmp_path / "bank", [item])
    return tmp_path / "bank"


class FakeEngine:
    dead = False

    async def check_health(self) -> None:
        if self.dead:
            raise EngineDeadError


async def ask(engine: FakeEngine, watch: Any) -> tuple[int, dict[str, Any]]:
    app = FastAPI()
    app.include_router(router)
    app.state.engine_client, app.state.mega_watch = engine, watch
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
        answer = await client.get("/mega/ready")
    return answer.status_code, answer.json()


async def test_ready_and_not(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine()
    with Library(root) as library:
        watch = Watch(library)
        assert await ask(engine, watch) == (200, {"ready": True, "engine": "ok", "bank": "ok"})
        engine.dead = True
        assert await ask(engine, watch) == (503, {"ready": False, "engine": "dead", "bank": "ok"})
        engine.dead = False
        (root / CATALOG_FILE).write_bytes(b"no database " * 1000)
        with caplog.at_level(logging.ERROR):
            assert await ask(engine, watch) == (503, {"ready": False, "engine": "ok", "bank": "unreadable"})
        assert "not ready" in caplog.text
        assert str(root) not in str(await ask(engine, watch)), "the reason is for the log"


async def test_a_bank_that_comes_back_is_ready_again() -> None:
    library: Any = FakeLibrary()
    watch = Watch(library)
    library.error = BankError("gone")
    assert await watch.trouble() == "gone"
    library.error = None
    assert await watch.trouble() == ""


class FakeLibrary:
    """Of a bank that can be away, or hang."""

    catalog = None

    def __init__(self) -> None:
        self.event = 1
        self.refreshed = 0
        self.error: BankError | None = None
        self.go = threading.Event()
        self.go.set()

    def refresh(self) -> int:
        self.refreshed += 1
        self.go.wait(20)
        if self.error is not None:
            raise self.error
        return 0


@pytest.fixture(autouse=True)
def counts(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[None]:
    """How often a fake library's bank was counted; real ones are counted as ever."""
    counted: list[None] = []
    real = watching.sizes

    def count(catalog: Any) -> Any:
        counted.append(None)
        return real(catalog) if catalog is not None else SimpleNamespace()

    monkeypatch.setattr(watching, "sizes", count)
    return counted


async def test_a_bank_that_hangs_is_asked_once_however_many_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "PATIENCE", 0.05)
    library: Any = FakeLibrary()
    library.go.clear()
    watch = Watch(library)
    troubles = await asyncio.gather(*[watch.trouble() for _ in range(5)], watch.trouble())
    assert set(troubles) == {"the bank has not answered within 0.05 s"}
    assert await watch.trouble(), "and later, too"
    assert library.refreshed == 1
    library.go.set()
    async with asyncio.timeout(20):
        while await watch.trouble():
            await asyncio.sleep(0.01)


async def test_a_bank_is_counted_again_when_it_has_changed(counts: list[None]) -> None:
    library: Any = FakeLibrary()
    watch = Watch(library)
    for _ in range(3):
        await watch.sizes()
    assert len(counts) == 1
    library.event = 2
    await watch.sizes()
    assert (len(counts), watch.event) == (2, 2)
