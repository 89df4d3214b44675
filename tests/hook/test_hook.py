"""The hook: mixtures on their way to the engine, refused for good reasons only."""

from __future__ import annotations

import asyncio
import gc
import shutil
import threading
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace as replace_setting

from tests.banks import Item, make_bank
from tests.http.fakes import FakeGate
from vllm_mega.bank.layout import NewMemory
from vllm_mega.bank.library import Library
from vllm_mega.config import MegaSettings
from vllm_mega.engine.adapters import mixture_of
from vllm_mega.engine.holding import FILES, files_of
from vllm_mega.errors import BankChangedError, BankError, MemoryNotFoundError
from vllm_mega.gate.gate import Query
from vllm_mega.hook.hook import MemoryHook
from vllm_mega.mixture import Component, Mixture
from vllm_mega.requests.deciding import LONG, Ask
from vllm_mega.requests.reading import with_texts
from vllm_mega.requests.schemas import make_plan

SETTINGS = MegaSettings(bank="bank")


class Checks:
    """Records what it is asked to check; refuses paths that contain `bad`; answers when it is free."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.bad = "nothing is bad"
        self.waiting: list[tuple[Component, Future[str]]] = []
        self.free = True

    def begin(self, component: Component, *, afresh: bool = False) -> Future[str]:
        self.afresh = afresh
        self.asked.append(component.path.split("/")[2])
        future: Future[str] = Future()
        self.waiting.append((component, future))
        if self.free:
            self.answer()
        return future

    def answer(self) -> None:
        while self.waiting:
            component, future = self.waiting.pop()
            future.set_result("NaN in it" if self.bad in component.path else "")


def ask(text: str | None, **mega: Any) -> Ask:
    return Ask(make_plan(mega, SETTINGS), text)


def make() -> tuple[MemoryHook, Checks, Any]:
    gate: Any = FakeGate()
    checks = Checks()
    return MemoryHook(gate, SETTINGS, 4, checks.begin), checks, gate


async def test_the_mixture_travels_as_a_lora_request() -> None:
    hook, checks, _ = make()
    decision, request = await hook.route(ask("bees and owls"))
    assert request is not None
    assert (request.lora_name, request.lora_path) == (decision.mixture.name, decision.mixture.path)
    assert set(checks.asked) == {"bees", "owls"}


async def test_the_empty_mixture_is_the_base_model() -> None:
    hook, checks, _ = make()
    decision, request = await hook.route(ask("nothing we know"))
    assert (len(decision.mixture), request) == (0, None)
    assert checks.asked == []


async def test_many_at_once_are_decided_together() -> None:
    hook, _, gate = make()
    routes = await asyncio.gather(*(hook.route(ask("bees")) for _ in range(20)))
    assert len({request.lora_name for _, request in routes if request}) == 1
    assert len(gate.calls) < 20


async def test_a_text_that_fails_the_embedder_costs_nobody_else() -> None:
    hook, _, gate = make()
    gate.fails = {f"bad {n}": RuntimeError(f"bad {n}") for n in range(6)}
    texts = ["bees", "bad 0", "owls", "goats"] * 3 + [f"bad {n}" for n in range(1, 6)]
    routes = await asyncio.gather(*(hook.route(ask(text)) for text in texts), return_exceptions=True)
    for text, route in zip(texts, routes, strict=True):
        if text in gate.fails:
            assert route is gate.fails[text]
        else:
            assert not isinstance(route, BaseException)
            assert [hit.id for hit in route[0].hits] == [text]


async def test_a_broken_adapter_is_refused_and_forgiven_when_repaired() -> None:
    hook, checks, _ = make()
    checks.bad = "owls"
    with pytest.raises(BankError, match=r"\(bees, owls\) cannot be used: NaN in it"):
        await hook.route(ask("bees and owls"))
    assert (await hook.route(ask("bees")))[1] is not None
    checks.bad = "nothing is bad"
    assert (await hook.route(ask("owls")))[1] is not None


async def test_an_adapter_replaced_meanwhile_is_decided_again() -> None:
    hook, checks, gate = make()
    checks.bad, checks.free = "/bees/1", False
    route = asyncio.create_task(hook.route(ask("bees")))
    while not checks.asked:
        await asyncio.sleep(0.001)
    gate.version, checks.free = 2, True
    checks.answer()
    decision, request = await route
    assert request is not None
    assert decision.mixture.components[0].path == "/bank/bees/2"


@pytest.mark.parametrize("what", ["version", "event"])
@pytest.mark.parametrize(("updates", "answered"), [(5, True), (100, False)])
async def test_only_a_torrent_of_updates_is_a_named_refusal(updates: int, answered: bool, what: str) -> None:
    """Each brings another adapter, or the same one, that was gone for a moment."""
    hook, checks, gate = make()

    def begin(component: Component) -> Future[str]:
        setattr(gate, what, getattr(gate, what) + 1)  # an update comes while the adapter is looked at
        checks.bad = "/bees/" if getattr(gate, what) <= updates else "nothing is bad"
        return checks.begin(component)

    hook._check = begin
    if answered:
        decision, _ = await hook.route(ask("bees"))
        assert (decision.event, decision.mixture.components[0].path) == (
            (1, f"/bank/bees/{updates}") if what == "version" else (updates, "/bank/bees/1")
        )
        return
    with pytest.raises(BankChangedError, match=r"\(bees\) change faster than they can be read: ask again"):
        await hook.route(ask("bees"))


async def test_what_was_decided_is_held_until_its_request_is_done(tmp_path: Path) -> None:
    hook, _, gate = make()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_text(name)
    decision = gate.decide([Query("bees")])[0]
    mixture = Mixture((c.adapter, str(tmp_path), c.weight) for c in decision.mixture.components)
    gate.decide = lambda queries: [replace(decision, mixture=mixture)] * len(queries)
    _, request = await hook.route(ask("bees"))
    shutil.rmtree(tmp_path)
    (component,) = mixture_of(request).components
    assert [file.read_text() for file in files_of(component.path)] == list(FILES)
    del request, _
    gc.collect()
    assert files_of(component.path)[0].parent == tmp_path, "closed"


async def test_what_is_wrong_now_is_looked_for_afresh() -> None:
    hook, checks, _ = make()
    decision, _ = await hook.route(ask("bees and owls"))
    assert not checks.afresh
    assert await hook.wrong([decision]) == ""
    checks.bad = "owls"
    assert await hook.wrong([decision]) == "the memories (bees, owls) cannot be used: NaN in it"
    assert checks.afresh


@pytest.mark.parametrize("running", ["finish", "end"])
async def test_who_was_ended_for_a_memory_that_is_forgotten_hears_it(tmp_path: Path, running: Any) -> None:
    hook, checks, gate = make()
    hook.settings = replace_setting(SETTINGS, forget_running=running)
    make_bank(tmp_path / "bank", [Item(NewMemory("Bees.", id="bees"))])
    gate.pending = {"bees", "owls"}
    hits = {name: await hook.route(ask(name, memories=[{"id": name}])) for name in ("bees", "owls")}
    decisions = [with_texts(decision, hit, gate.text) for hit, (decision, _) in hits.items()]
    with Library(tmp_path / "bank") as gate.library:
        assert await hook.why_ended(decisions[:1]) is None, "it is there: another reason"
        reason = await hook.why_ended(decisions)
        found, _ = await hook.route(ask("bees and goats"))
        checks.bad = "goats"
        wrong = await hook.why_ended([found])
    assert (type(reason), "(owls) was forgotten while it was used" in str(reason)) == (
        (BankChangedError, True) if running == "end" else (type(None), False)
    )
    assert type(wrong) is BankError
    assert "cannot be used" in str(wrong)


async def test_a_client_that_leaves_does_not_stop_the_check_for_others() -> None:
    hook, checks, _ = make()
    checks.free = False
    first = asyncio.create_task(hook.route(ask("bees")))
    while not checks.asked:
        await asyncio.sleep(0.001)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert not checks.waiting[0][1].cancelled()
    checks.answer()


async def test_an_unknown_memory() -> None:
    hook, checks, _ = make()
    with pytest.raises(MemoryNotFoundError, match="elk"):
        await hook.route(ask(None, memories=[{"id": "elk"}]))
    assert checks.asked == []


async def test_a_short_question_waits_for_no_long_text() -> None:
    hook, _, gate = make()
    free, decide = threading.Event(), gate.decide

    def slow(queries: Any) -> Any:
        if len(queries[0].text) > LONG:
            assert len(queries) == 1
            assert free.wait(30)
        return decide(queries)

    gate.decide = slow
    long = [asyncio.create_task(hook.route(ask("owls " * LONG))) for _ in range(3)]
    await asyncio.sleep(0.05)
    _, request = await asyncio.wait_for(hook.route(ask("bees")), 20)
    assert request is not None
    assert not any(task.done() for task in long)
    free.set()
    assert all(request for _, request in await asyncio.gather(*long))


async def test_what_the_gate_chose_is_used_and_what_a_client_named_is_not() -> None:
    hook, checks, gate = make()
    await hook.route(ask("bees and owls"))
    await hook.route(ask("goats", memories=[{"id": "goats"}]))
    await hook.route(ask("nothing we know"))
    checks.bad = "goats"
    with pytest.raises(BankError):
        await hook.route(ask("goats"))
    assert gate.uses == ["bees", "owls"]
