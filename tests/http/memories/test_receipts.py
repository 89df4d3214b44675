"""Receipts over HTTP: signed, verified as they were saved, and for those who may know the whole bank."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.http.memories.server import FERRY, LAMP, MEMORIES, MemoryServer, error
from vllm_mega.bank.catalog.catalog import open_catalog
from vllm_mega.commands._bank_forgetting import contradictions
from vllm_mega.memories.receipts.signing import Server, read_receipt

RECEIPT = {"receipt": "true"}
BY_ENGINES = Server(engines=1, adapters=1, slots=1, blocks=4, ended=0, running=0)


def problems(server: MemoryServer, body: bytes, tmp_path: Path) -> list[str]:
    """As `bank verify --forgotten` finds them in the saved body."""
    saved = tmp_path / "receipt.json"
    saved.write_bytes(body)
    with open_catalog(server.bank) as catalog:
        return [problem.problem for problem in contradictions(catalog, saved)]


async def test_the_answer_is_a_receipt_that_is_verified_as_it_was_saved(
    server: MemoryServer, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    told: list[frozenset[str]] = []

    def let_go(parts: frozenset[str]) -> Server:
        told.append(parts)
        return BY_ENGINES

    server.service.let_go = let_go
    await client.post(MEMORIES, json={"memories": [FERRY, LAMP]})
    await client.patch(f"{MEMORIES}/ferry", json={"text": "Six oxen pull the ferry."})
    answer = await client.delete(f"{MEMORIES}/ferry", params=RECEIPT)
    assert answer.status_code == 200, answer.text
    receipt = read_receipt(answer.content)
    (gone,) = receipt.statement.forgotten.memories
    assert (gone.event.id, len(gone.versions), receipt.statement.forgotten.erased) == ("ferry", 2, True)
    assert receipt.statement.server == BY_ENGINES
    assert told == [{"default/ferry/1", "default/ferry/2"}]
    assert problems(server, answer.content, tmp_path) == []
    changed = answer.content.replace(b'"blocks":4', b'"blocks":9')
    assert changed != answer.content
    assert "changed" in problems(server, changed, tmp_path)[0]
    assert error(await client.get(f"{MEMORIES}/ferry"), 404)


async def test_a_source_has_one_receipt_for_all(
    server: MemoryServer, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    source = {"source": {"file": "sill.md"}}
    await client.post(MEMORIES, json={"memories": [FERRY | source, LAMP | source]})
    answer = await client.delete("/v1/mega/sources/sill.md", params=RECEIPT)
    receipt = read_receipt(answer.content)
    assert sorted(event.id for event in receipt.statement.forgotten.events) == ["ferry", "lamp"]
    assert receipt.statement.server is None, "there are no engines here"
    assert problems(server, answer.content, tmp_path) == []


async def test_what_engines_cannot_say_is_left_out_and_the_memory_is_forgotten(
    server: MemoryServer, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(parts: frozenset[str]) -> Server:
        raise RuntimeError("a worker is away")

    server.service.let_go = fails
    await client.post(MEMORIES, json=FERRY)
    answer = await client.delete(f"{MEMORIES}/ferry", params=RECEIPT)
    assert (answer.status_code, read_receipt(answer.content).statement.server) == (200, None)
    assert "a worker is away" in caplog.text


async def test_without_the_parameter_the_answer_is_as_before(client: httpx.AsyncClient) -> None:
    await client.post(MEMORIES, json=FERRY)
    answer = await client.delete(f"{MEMORIES}/ferry", params={"receipt": "false"})
    assert answer.json()["object"] == "memory.deleted"
    assert error(await client.delete(f"{MEMORIES}/ferry", params={"receipt": "yes"}), 400)["param"]


async def test_a_receipt_is_not_kept_for_the_same_request_again(client: httpx.AsyncClient) -> None:
    await client.post(MEMORIES, json=FERRY)
    header = {"Idempotency-Key": "once"}
    refused = await client.delete(f"{MEMORIES}/ferry", params=RECEIPT, headers=header)
    assert error(refused, 400)["param"] == "Idempotency-Key"
    assert (await client.get(f"{MEMORIES}/ferry")).status_code == 200


async def test_a_receipt_is_for_those_who_may_know_the_whole_bank(tmp_path: Path) -> None:
    """It has numbers that count everybody's changes, and tells whether others have the same adapter."""
    server = MemoryServer(tmp_path, keys=True)
    sea, everywhere = server.key("alice", "write", "sea"), server.key("ops", "write")
    where = {"namespace": "sea"}
    async with server.client() as client:
        await client.post(MEMORIES, json=FERRY | where, headers=sea)
        refused = await client.delete(f"{MEMORIES}/ferry", params=RECEIPT | where, headers=sea)
        assert "all namespaces" in error(refused, 403)["message"]
        assert (await client.get(f"{MEMORIES}/ferry", params=where, headers=sea)).status_code == 200
        given = await client.delete(f"{MEMORIES}/ferry", params=RECEIPT | where, headers=everywhere)
        assert read_receipt(given.content).statement.forgotten.events[0].id == "ferry"
    server.close()
