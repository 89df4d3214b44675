"""Use over HTTP: what a server tells of it where it counts, and two servers of one bank."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gate.banks import CELLAR, GOATS, LANTERN, make_used
from tests.hook.test_hook import Checks
from tests.http.memories.server import MEMORIES, MemoryServer, error
from vllm_mega.gate.salience import REST
from vllm_mega.gate.uses import UseTracker
from vllm_mega.hook.hook import MemoryHook
from vllm_mega.requests.deciding import Ask
from vllm_mega.requests.describing import describe
from vllm_mega.requests.schemas import make_plan

SEARCH = {"query": LANTERN, "explain": True, "top_k": 1}
GOATS_ONLY = "lit by goats"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MemoryServer]:
    made = MemoryServer(tmp_path, salience_margin=0.05)
    made.train(CELLAR, GOATS)
    yield made
    made.close()


@pytest.fixture
def other(server: MemoryServer) -> Iterator[MemoryServer]:
    """A second server of the same bank."""
    made = MemoryServer(server.folder, salience_margin=0.05)
    yield made
    made.close()


@pytest.fixture
def clock(server: MemoryServer, other: MemoryServer, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What time it is for both."""
    now = [1_000_000.0]
    for one in (server, other):
        monkeypatch.setattr(uses_of(one), "_clock", lambda: now[0])
    return now


def uses_of(server: MemoryServer) -> UseTracker:
    assert server.service.gate.uses is not None
    return server.service.gate.uses


def hook_of(server: MemoryServer) -> MemoryHook:
    return MemoryHook(server.service.gate, server.service.settings, 4, Checks().begin)


def ask(server: MemoryServer, text: str, **mega: Any) -> Ask:
    return Ask(make_plan(mega, server.service.settings), text)


async def use_often(server: MemoryServer, clock: list[float], times: int = 2) -> None:
    """Let chats be answered from the goats, once an hour, and know them for long."""
    hook = hook_of(server)
    make_used(server.service.catalog, "goats", clock[0] - REST, 50.0)
    for _ in range(times):
        decision, _ = await hook.route(ask(server, GOATS_ONLY))
        assert [hit.id for hit in decision.hits] == ["goats"]
        uses_of(server).exchange()
        clock[0] += REST


async def found(client: httpx.AsyncClient) -> tuple[list[str], list[dict[str, Any]]]:
    told = (await client.post("/v1/mega/search", json=SEARCH)).json()
    return [share["id"] for share in told["explain"]["mixture"]], told["explain"]["salience"]


async def test_what_one_server_answers_from_tips_near_ties_of_another(
    server: MemoryServer, other: MemoryServer, clock: list[float]
) -> None:
    async with server.client() as here, other.client() as there:
        untouched = [
            {"id": "cellar", "salience": 0.0, "added": 0.0}, {"id": "goats", "salience": 0.0, "added": 0.0},
        ]  # fmt: skip
        assert await found(here) == await found(there) == (["cellar"], untouched)
        await use_often(server, clock)
        assert await found(there) == (["cellar"], untouched), "it has not asked since"
        uses_of(other).exchange()
        assert await found(here) == await found(there)
        ids, (cellar, goats) = await found(there)
        assert ids == ["goats"]
        assert (cellar["added"], goats["salience"]) == (0.0, pytest.approx(0.85, abs=0.07))
        assert 0.027 < goats["added"] < 0.05


async def test_a_memory_shows_what_use_has_made_of_it(
    server: MemoryServer, other: MemoryServer, clock: list[float]
) -> None:
    async with server.client() as client:
        never = {"salience": 0.0, "strength": 0.0, "last_used_at": None}
        assert (await client.get(f"{MEMORIES}/goats")).json()["use"] == never
        await use_often(server, clock)
        use = (await client.get(f"{MEMORIES}/goats")).json()["use"]
        assert use["last_used_at"] == clock[0] - REST
        assert use["strength"] == pytest.approx(52.0, abs=0.2)
        assert use["salience"] == 13 / 16
        once = {"Idempotency-Key": "pin"}
        for _ in range(2):
            pinned = await client.patch(f"{MEMORIES}/cellar", json={"pinned": True}, headers=once)
            assert pinned.json()["use"] == never, "known with the next exchange"
        assert pinned.headers["idempotency-replayed"] == "true"
        uses_of(server).exchange()
        assert (await client.get(f"{MEMORIES}/cellar")).json()["use"]["salience"] == 1.0


async def test_only_what_the_gate_chose_for_an_answer_is_used(
    server: MemoryServer, other: MemoryServer, clock: list[float]
) -> None:
    hook = hook_of(server)
    async with server.client() as client:
        await client.post("/v1/mega/search", json=SEARCH)
    await hook.route(ask(server, LANTERN, memories=[{"id": "goats"}]))
    await hook.route(ask(server, LANTERN, mode="off"))
    await hook.route(ask(server, "quantum bananas"))
    uses_of(server).exchange()
    assert uses_of(server)._known.used == {}
    await hook.route(ask(server, LANTERN, explain=True))
    uses_of(server).exchange()
    assert {name.id for name in uses_of(server)._known.used} == {"cellar", "goats"}


async def test_an_explanation_in_a_chat_tells_of_it(
    server: MemoryServer, other: MemoryServer, clock: list[float]
) -> None:
    await use_often(server, clock)
    one = ask(server, LANTERN, explain=True, top_k=1)
    decision, _ = await hook_of(server).route(one)
    told = describe(one.plan, decision)
    assert [memory["id"] for memory in told["memories"]] == ["goats"]
    assert [(tip["id"], tip["added"] > 0) for tip in told["explain"]["salience"]] == [
        ("cellar", False), ("goats", True),
    ]  # fmt: skip
    assert told["memories"][0]["score"] < told["best_score"], "scores stay what they are"


async def test_use_is_told_nowhere_where_it_does_not_count(tmp_path: Path) -> None:
    off = MemoryServer(tmp_path)
    off.train(CELLAR, GOATS)
    async with off.client() as client:
        assert "use" not in (await client.get(f"{MEMORIES}/goats")).json()
        told = (await client.post("/v1/mega/search", json=SEARCH)).json()
        assert [share["id"] for share in told["explain"]["mixture"]] == ["cellar"]
        assert "salience" not in told["explain"]
    one = ask(off, LANTERN, explain=True)
    decision, _ = await hook_of(off).route(one)
    assert "salience" not in describe(one.plan, decision)["explain"]
    off.close()


async def test_no_client_sets_the_margin(server: MemoryServer) -> None:
    async with server.client() as client:
        answer = await client.post("/v1/mega/search", json={**SEARCH, "salience_margin": 0.2})
        assert error(answer, 400)["param"] == "salience_margin"


async def test_use_stays_in_its_namespace(
    server: MemoryServer, other: MemoryServer, clock: list[float]
) -> None:
    async with server.client() as client:
        for memory in (CELLAR, GOATS):
            body = {"id": memory.id, "text": memory.text, "namespace": "ann"}
            assert (await client.post(MEMORIES, json=body)).status_code == 202
        await use_often(server, clock)
        ann = (await client.get(f"{MEMORIES}/goats?namespace=ann")).json()
        assert ann["use"]["strength"] == 0.0
        told = (await client.post("/v1/mega/search", json={**SEARCH, "namespace": "ann"})).json()
        assert {tip["salience"] for tip in told["explain"]["salience"]} == {0.0}
