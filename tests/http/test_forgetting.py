"""A server has its engines let go of what was forgotten, whoever forgot it; the engines are fakes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.v1.engine.exceptions import EngineDeadError

from tests.bank.samples import write_adapter
from tests.banks import Item, make_bank
from tests.banks import forget as forget_in
from vllm_mega.bank.adapter import adapter_digest
from vllm_mega.bank.layout import NewMemory
from vllm_mega.bank.library import Library
from vllm_mega.errors import BankError
from vllm_mega.http import endpoints, forgetting
from vllm_mega.http.forgetting import LATE, Forgetting
from vllm_mega.memories.receipts.signing import Server

LAMP = NewMemory("The lamp burns nine nights.", id="lamp")
OWL = NewMemory("The owl waits.", id="owl")


class Engines:
    """Two engines, that hold parts of memories; requests use them for so many calls."""

    def __init__(self, *held: str, busy: int = 0) -> None:
        self.held = [set(held), set(held)]
        self.busy = busy
        self.asked: list[tuple[str, Any]] = []
        self.error: Exception | None = None

    async def __call__(
        self, utility: str, method: str, timeout: Any, args: Sequence[Any], kwargs: Any
    ) -> list[Any]:
        assert (utility, timeout, kwargs) == ("collective_rpc", None, None)
        self.asked.append((method, args))
        if self.error is not None:
            raise self.error
        if method == "mega_engine_held":
            return [sorted(some) for some in self.held]
        assert method == "mega_engine_let_go"
        self.busy -= 1
        return [self._let_go(some, set(args[0])) for some in self.held]

    def _let_go(self, held: set[str], parts: set[str]) -> dict[str, int]:
        found = held & parts
        if self.busy >= 0:
            return {"adapters": 0, "slots": 0, "blocks": 0, "ended": 0, "running": 1}
        held -= found
        return {"adapters": len(found), "slots": 1, "blocks": 5, "ended": 0, "running": 0}

    @property
    def let_go(self) -> list[tuple[list[str], bool]]:
        return [args for method, args in self.asked if method == "mega_engine_let_go"]


@pytest.fixture
def adapter(tmp_path: Path) -> str:
    return adapter_digest(write_adapter(tmp_path / "made", 1))


@pytest.fixture
def library(tmp_path: Path, adapter: str) -> Iterator[Library]:
    make_bank(tmp_path / "bank", [Item(LAMP, tmp_path / "made"), Item(OWL)])
    with Library(tmp_path / "bank") as opened:
        yield opened


async def test_what_no_memory_has_any_more_is_let_go_of(library: Library, adapter: str) -> None:
    engines = Engines(adapter, "default/lamp/1", "default/owl/1")
    following = Forgetting(library, engines, end=True)
    await following.look()
    assert engines.asked == [], "nothing was forgotten: nobody is asked"
    forget_in(library.root, ("default", "lamp"))  # by another process
    await following.look()
    assert engines.let_go == [([adapter, "default/lamp/1"], True)]
    assert engines.held == [{"default/owl/1"}] * 2
    assert ("default", "lamp") not in library.rows, "a quiet server forgets keys, too"


async def test_requests_that_come_late_are_looked_for(
    library: Library, adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = Engines()
    following = Forgetting(library, engines, end=False)
    forget_in(library.root, ("default", "lamp"))
    now = [0.0]
    monkeypatch.setattr(forgetting, "time", SimpleNamespace(monotonic=lambda: now[0]))
    asked = []
    for now[0] in map(float, range(400)):
        before = len(engines.asked)
        await following.look()
        asked += [now[0]] if len(engines.asked) > before else []
        if now[0] == 10.0:
            engines.held[1].add(adapter)  # it was decided before
    assert asked == [0, 1, 3, 7, 15, 31, 63, 127, 255], "ever more seldom"
    assert (engines.let_go, engines.held) == ([([adapter], False)], [set(), set()])


async def test_other_changes_ask_no_engine(library: Library, adapter: str, tmp_path: Path) -> None:
    engines = Engines(adapter)
    following = Forgetting(library, engines, end=False)
    make_bank(library.root, [Item(NewMemory("The lamp burns ten nights.", id="lamp"))])
    await following.look()
    assert engines.asked == []


async def test_what_requests_use_is_asked_for_again(
    library: Library, adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it is late: as long as one of them runs."""
    now = [0.0]
    monkeypatch.setattr(forgetting, "time", SimpleNamespace(monotonic=lambda: now[0]))
    engines = Engines(adapter, busy=3)
    following = Forgetting(library, engines, end=False)
    forget_in(library.root, ("default", "lamp"))
    for now[0] in (0.0, LATE - 0.5, LATE + 1, LATE + 2, LATE + 3, LATE + 4):
        await following.look()
    assert len(engines.let_go) == 4
    assert engines.held == [set(), set()]


async def test_a_receipt_waits_a_little_for_requests(
    library: Library, adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    following = Forgetting(library, Engines(adapter, busy=2), end=False)
    told = await asyncio.to_thread(following.let_go_now, {adapter})
    assert told == Server(engines=2, adapters=2, slots=2, blocks=10, ended=0, running=0)
    monkeypatch.setattr(forgetting, "PATIENCE", 0.0)
    busy = Forgetting(library, Engines(adapter, busy=2), end=False)
    assert (await asyncio.to_thread(busy.let_go_now, {adapter})).running == 2


async def test_the_loop_survives_what_may_pass_and_ends_with_the_engines(
    library: Library, adapter: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(forgetting, "INTERVAL", 0.01)
    engines = Engines(adapter)
    engines.error = BankError("away")
    running = asyncio.create_task(Forgetting(library, engines, end=False).run())
    forget_in(library.root, ("default", "lamp"))
    while "away" not in caplog.text:
        await asyncio.sleep(0.01)
    engines.error = None
    while engines.held[0]:
        await asyncio.sleep(0.01)
    engines.error = EngineDeadError()
    await asyncio.wait_for(running, 10)


async def test_workers_that_are_not_ours_are_left_alone(
    library: Library, caplog: pytest.LogCaptureFixture
) -> None:
    service: Any = SimpleNamespace(let_go=None)
    parallel = SimpleNamespace(worker_extension_cls="mine.Extension")
    client = SimpleNamespace(vllm_config=SimpleNamespace(parallel_config=parallel))
    endpoints._follow(client, SimpleNamespace(), service)
    assert service.let_go is None
    assert "mine.Extension" in caplog.text
