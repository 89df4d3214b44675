"""The store of LangGraph's real package, against the routes about memories on a port of this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from langgraph.store.base import (
    GetOp,
    InvalidNamespaceError,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    SearchOp,
)

from tests.clients.served import served
from tests.http.memories.server import FERRY, MEMORIES, MemoryServer
from vllm_mega.clients.langgraph import MegaStore
from vllm_mega.clients.places import tags_of
from vllm_mega.errors import ConfigError, ForbiddenError, LimitError, RequestError, ServerError

ALICE, BOB = ("users", "alice"), ("users", "bob")
TEA = {"text": "Alice drinks black tea at four.", "title": "Tea"}
OX = {"text": "Alice's ox is called Bruno."}
BOAT = {"text": "Bob's boat is green."}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MemoryServer]:
    made = MemoryServer(tmp_path)
    yield made
    made.close()


@pytest.fixture
def url(server: MemoryServer) -> Iterator[str]:
    with served(server.app) as address:
        yield address


@pytest.fixture
def store(url: str) -> MegaStore:
    return MegaStore(url)


@pytest.fixture
def full(store: MegaStore) -> MegaStore:
    """With one item after the other."""
    for path, key, value in ((ALICE, "tea", TEA), (BOB, "boat", BOAT), ((*ALICE, "farm"), "ox", OX)):
        store.put(path, key, value)
    return store


def keys(items: Any) -> list[str]:
    return [item.key for item in items]


def test_what_is_put_is_got(store: MegaStore, server: MemoryServer) -> None:
    store.put(ALICE, "tea", TEA)
    item = store.get(ALICE, "tea")
    assert item is not None
    assert (item.namespace, item.key, item.value) == (ALICE, "tea", TEA)
    assert datetime.now(UTC) - item.created_at < timedelta(minutes=1)
    store.put(ALICE, "tea", OX)
    again = store.get(ALICE, "tea")
    assert again is not None
    assert (again.value, again.created_at) == (OX, item.created_at), "a value is put in the place of another"
    assert again.updated_at > item.updated_at
    assert (store.get(ALICE, "ox"), store.get(("users",), "tea")) == (None, None)
    store.delete(ALICE, "tea")
    store.delete(ALICE, "tea")
    assert store.get(ALICE, "tea") is None


def test_a_memory_is_what_the_model_shall_read(store: MegaStore, url: str) -> None:
    store.put(ALICE, "tea", TEA)
    memory = httpx.get(f"{url}{MEMORIES}/lg.users.alice.tea").json()
    assert (memory["text"], memory["title"], memory["state"]) == (TEA["text"], "Tea", "pending")
    assert memory["tags"] == list(tags_of(ALICE))
    MegaStore(url, train=False).put(ALICE, "ox", OX)
    assert httpx.get(f"{url}/v1/mega/jobs/lg.users.alice.ox").json()["state"] == "none"


async def test_the_same_on_an_event_loop(store: MegaStore) -> None:
    await store.aput(ALICE, "tea", TEA)
    await store.aput((*ALICE, "farm"), "ox", OX)
    item = await store.aget(ALICE, "tea")
    assert item is not None
    assert item.value == TEA
    assert keys(await store.asearch(ALICE)) == ["ox", "tea"]
    assert (await store.asearch(ALICE, query="an ox called Bruno"))[0].key == "ox"
    assert await store.alist_namespaces() == [ALICE, (*ALICE, "farm")]
    await store.adelete(ALICE, "tea")
    assert await store.aget(ALICE, "tea") is None


def test_a_prefix_finds_what_is_below_it(full: MegaStore) -> None:
    assert keys(full.search(())) == ["ox", "boat", "tea"], "the latest first"
    assert keys(full.search(ALICE)) == ["ox", "tea"]
    assert keys(full.search(("alice",))) == keys(full.search(("users", "ali"))) == []
    assert keys(full.search((), limit=1, offset=1)) == ["boat"]
    assert [item.score for item in full.search(BOB)] == [None]


def test_a_label_at_another_level_is_another(store: MegaStore) -> None:
    store.put(("a", "b"), "one", TEA)
    store.put(("b", "b"), "two", OX)
    assert keys(store.search(("a", "b"))) == keys(store.search(("a",))) == ["one"]


def test_a_query_finds_the_nearest_first_with_scores(full: MegaStore) -> None:
    found = full.search((), query="what drinks Alice at four", limit=2)
    assert found[0].key == "tea"
    assert found[0].value == TEA
    first, second = (item.score or 0.0 for item in found)
    assert 1.0 >= first > second
    assert full.search(ALICE, query=BOAT["text"])[0].key != "boat"
    rest = full.search((), query="what drinks Alice at four", limit=5, offset=1)
    assert len(rest) == 2
    assert "tea" not in keys(rest)


def test_more_than_a_page(store: MegaStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_mega.clients.langgraph._PAGE", 2)
    for n in range(5):
        store.put((f"n{n}",), "x", {"text": f"Number {n}."})
    assert [item.namespace for item in store.search((), limit=3, offset=1)] == [("n3",), ("n2",), ("n1",)]
    assert store.list_namespaces() == [(f"n{n}",) for n in range(5)]


def test_namespaces_are_listed(full: MegaStore) -> None:
    farm = (*ALICE, "farm")
    assert full.list_namespaces() == [ALICE, farm, BOB]
    assert full.list_namespaces(prefix=ALICE) == [ALICE, farm]
    assert full.list_namespaces(prefix=("*", "bob")) == full.list_namespaces(suffix=("bob",)) == [BOB]
    assert full.list_namespaces(suffix=("users", "alice", "farm")) == [farm]
    assert full.list_namespaces(suffix=("x", *farm)) == []
    anywhere = ListNamespacesOp((MatchCondition("suffix", ()),))
    assert full.batch([anywhere]) == [full.list_namespaces()]
    assert full.list_namespaces(max_depth=1) == [("users",)]
    assert full.list_namespaces(limit=1, offset=1) == [farm]


def test_a_batch_is_done_in_its_order(store: MegaStore) -> None:
    ops: list[Op] = [
        GetOp(ALICE, "tea"),
        PutOp(ALICE, "tea", OX),
        PutOp(BOB, "boat", BOAT),
        PutOp(ALICE, "tea", TEA),
        GetOp(ALICE, "tea"),
        PutOp(ALICE, "tea", None),
        SearchOp(("users",)),
        ListNamespacesOp(),
    ]
    before, *nothing, tea, gone, left, paths = store.batch(ops)
    assert (before, nothing, tea.value, gone) == (None, [None] * 3, TEA, None)
    assert (keys(left), paths) == (["boat"], [BOB])
    assert store.batch([]) == []


def test_puts_together_are_all_done_or_none(store: MegaStore, server: MemoryServer) -> None:
    with pytest.raises(RequestError, match="memories"):
        store.batch([PutOp(ALICE, "tea", TEA), PutOp(ALICE, "blank", {"text": " "})])
    assert store.search(()) == []
    with pytest.raises(InvalidNamespaceError):
        store.batch([PutOp(ALICE, "tea", TEA), GetOp(("a.b",), "x")])
    assert store.search(()) == [], "nothing is sent of a batch with a namespace that is none"


def test_two_put_at_once(store: MegaStore) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda n: store.put(ALICE, f"k{n % 2}", {"text": f"Number {n}."}), range(8)))
    found = store.search(ALICE)
    assert sorted(keys(found)) == ["k0", "k1"]
    assert all(int(item.value["text"][7:-1]) % 2 == int(item.key[1]) for item in found)


async def test_a_store_serves_many_tasks_and_loops(store: MegaStore) -> None:
    await asyncio.gather(*(store.aput(ALICE, f"k{n}", {"text": f"Number {n}."}) for n in range(12)))
    assert len(await store.asearch(ALICE, limit=20)) == 12
    elsewhere = await asyncio.to_thread(lambda: asyncio.run(store.asearch(ALICE, limit=3)))
    assert keys(elsewhere) == keys(await store.asearch(ALICE, limit=3))


def test_memories_of_others_are_no_items(store: MegaStore, url: str) -> None:
    httpx.post(f"{url}{MEMORIES}", json={**FERRY, "tags": ["lg"]}).raise_for_status()
    store.put(ALICE, "tea", TEA)
    assert keys(store.search(())) == keys(store.search((), query=FERRY["text"])) == ["tea"]
    assert store.list_namespaces() == [ALICE]


def test_a_field_of_another_name_has_the_text(url: str) -> None:
    store = MegaStore(url, text_field="memory")
    store.put(ALICE, "tea", {"memory": TEA["text"]}, index=["memory"])
    item = store.get(ALICE, "tea")
    assert item is not None
    assert item.value == {"memory": TEA["text"]}
    with pytest.raises(ConfigError, match="text_field"):
        MegaStore(url, text_field="title")


@pytest.mark.parametrize(
    "value", [{}, {"text": ""}, {"text": 7}, {"title": "Tea"}, {**TEA, "cups": 2}, {"text": "x", "title": ""}]
)
def test_a_value_that_is_no_memory_is_refused(store: MegaStore, value: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="expected 'text' and at most 'title'"):
        store.put(ALICE, "tea", value)
    assert store.search(()) == []


def test_what_a_server_cannot_do_is_refused(full: MegaStore) -> None:
    with pytest.raises(NotImplementedError, match="TTL is not supported"):
        full.put(ALICE, "tea", TEA, ttl=5)
    with pytest.raises(RequestError, match="ttl is 5"):
        full.batch([PutOp(ALICE, "tea", TEA, ttl=5)])
    for index in (False, ["title"]):
        with pytest.raises(RequestError, match="every memory is found by its text"):
            full.put(ALICE, "tea", TEA, index=index)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="filter has"):
        full.search(ALICE, filter={"title": "Tea"})
    with pytest.raises(RequestError, match="offset and limit make 101"):
        full.search(ALICE, query="tea", limit=100, offset=1)
    with pytest.raises(RequestError, match="expected at least 1"):
        full.search(ALICE, limit=0)
    with pytest.raises(RequestError, match="expected at least 1 and at least 0"):
        full.list_namespaces(offset=-1)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[MemoryServer, str]]:
    """A server with keys, and its URL."""
    made = MemoryServer(tmp_path, keys=True)
    with served(made.app) as address:
        yield made, address
    made.close()


def key(server: MemoryServer, name: str, role: str, *namespaces: str) -> str:
    return server.key(name, role, *namespaces)["Authorization"].removeprefix("Bearer ")


def test_keys_open_their_namespaces_alone(guarded: tuple[MemoryServer, str]) -> None:
    server, url = guarded
    hers = MegaStore(f"{url}/v1", key(server, "alice", "write", "sea", "shore"))
    his = MegaStore(url, key(server, "bob", "write", "land"))
    hers.put(ALICE, "tea", TEA)
    assert (his.get(ALICE, "tea"), his.search(()), his.list_namespaces()) == (None, [], [])
    shore = MegaStore(url, key(server, "carol", "write", "sea", "shore"), namespace="shore")
    shore.put(ALICE, "ox", OX)
    assert (keys(shore.search(())), keys(hers.search(()))) == (["ox"], ["tea"])
    assert keys(shore.search((), query=TEA["text"])) == ["ox"]
    assert shore.get(ALICE, "tea") is None
    shore.delete(ALICE, "tea")
    assert keys(hers.search(())) == ["tea"]
    shore.delete(ALICE, "ox")
    assert shore.list_namespaces() == []
    with pytest.raises(ForbiddenError, match="not for the namespace 'land'"):
        MegaStore(url, key(server, "dora", "write", "sea"), namespace="land").search(())


async def test_refusals_are_told(guarded: tuple[MemoryServer, str]) -> None:
    server, url = guarded
    for wrong in (MegaStore(url), MegaStore(url, "sk-nobody")):
        with pytest.raises(ForbiddenError, match=f"{url}: this server needs a key"):
            await wrong.aget(ALICE, "tea")
    with pytest.raises(ForbiddenError, match="needs the role write"):
        await MegaStore(url, key(server, "rita", "read", "sea")).aput(ALICE, "tea", TEA)
    store = MegaStore(url, key(server, "alice", "write", "sea"))
    server.limit("sea", changes_per_minute=1)
    await store.aput(ALICE, "tea", TEA)
    with pytest.raises(LimitError) as limited:
        await store.aput(ALICE, "ox", OX)
    assert (limited.value.retry_after or 0) > 0


async def test_a_server_that_is_not_there(url: str) -> None:
    strange = "expected the JSON of a server with memory"
    with served(FastAPI()) as other, pytest.raises(ServerError, match=strange):
        MegaStore(other).get(ALICE, "tea")
    with pytest.raises(ServerError, match="is `vllm-mega serve` running there"):
        MegaStore(other).put(ALICE, "tea", TEA)
    with pytest.raises(ServerError, match="cannot be asked"):
        await MegaStore(other).aget(ALICE, "tea")
    for bad in ("127.0.0.1:8000", "http://", "ftp://127.0.0.1"):
        with pytest.raises(ConfigError, match="expected that of a server"):
            MegaStore(bad)
    with pytest.raises(ConfigError, match="give the key alone") as refused:
        MegaStore(other, "sk-secret\n")
    assert "secret" not in str(refused.value)
