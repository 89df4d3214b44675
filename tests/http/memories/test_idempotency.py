"""Requests with an Idempotency-Key are done once, and tell the same again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.http.memories.server import FERRY, LAMP, MEMORIES, MemoryServer, error
from vllm_mega.bank.catalog.catalog import CATALOG_FILE
from vllm_mega.bank.catalog.events import events_after
from vllm_mega.memories import forget

DOCUMENT = {
    "source": "book/sill.md",
    "text": "# Sill\n\n## Oxen\n\nFour oxen pull the ferry.\n\n## Bell\n\nThe bell rings at noon.",
}


def key(value: str = "k-1") -> dict[str, str]:
    return {"Idempotency-Key": value}


def count(server: MemoryServer) -> int:
    return len(events_after(server.service.catalog, 0))


def told(answer: httpx.Response) -> tuple[int, Any, str | None]:
    assert answer.status_code < 300, answer.text
    return answer.status_code, answer.json(), answer.headers.get("etag")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", MEMORIES, FERRY),
        ("POST", MEMORIES, {"memories": [FERRY, {"text": "Bells ring."}]}),
        ("PATCH", f"{MEMORIES}/lamp", {"text": "The lamp burns ten nights."}),
        (
            "PATCH",
            f"{MEMORIES}/lamp",
            {"retired": True, "expires_at": "2199-01-01T00:00:00Z"},
        ),
        ("POST", f"{MEMORIES}/lamp/restore", {"version": 1}),
        ("DELETE", f"{MEMORIES}/lamp", None),
        ("DELETE", "/v1/mega/sources/lamp.md", None),
        ("POST", "/v1/mega/documents", DOCUMENT),
    ],
)
async def test_what_comes_twice_is_done_once(
    server: MemoryServer, client: httpx.AsyncClient, method: str, path: str, body: Any
) -> None:
    await client.post(MEMORIES, json={**LAMP, "source": {"file": "lamp.md"}})
    await client.patch(f"{MEMORIES}/lamp", json={"title": "A lamp"})
    first = await client.request(method, path, json=body, headers=key())
    assert "idempotency-replayed" not in first.headers
    before = count(server)
    for _ in range(2):
        again = await client.request(method, path, json=body, headers=key())
        assert again.headers["idempotency-replayed"] == "true"
        assert told(again) == told(first)
    assert count(server) == before > 2


async def test_it_is_known_again_by_all_that_it_asks(client: httpx.AsyncClient) -> None:
    assert told(await client.post(MEMORIES, json=FERRY, headers=key()))
    tag = (await client.get(f"{MEMORIES}/ferry")).headers["etag"]
    for answer in (
        await client.post(MEMORIES, json={**FERRY, "title": "Oxen"}, headers=key()),
        await client.patch(f"{MEMORIES}/ferry", json=FERRY | {"id": "ferry"}, headers=key()),
        await client.delete(f"{MEMORIES}/ferry", headers=key()),
        await client.delete(f"{MEMORIES}/ferry", headers={**key(), "If-Match": tag}),
    ):
        assert answer.status_code in (400, 422)
        if answer.status_code == 422:
            assert "give each request its own" in error(answer, 422)["message"]
    assert told(await client.delete(f"{MEMORIES}/ferry", headers={**key("k-2"), "If-Match": tag}))
    again = await client.delete(f"{MEMORIES}/ferry", headers={**key("k-2"), "If-Match": tag})
    assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true")
    assert error(await client.delete(f"{MEMORIES}/ferry", headers=key("k-2")), 422)


async def test_a_refusal_is_not_kept(client: httpx.AsyncClient) -> None:
    assert error(await client.delete(f"{MEMORIES}/ferry", headers=key()), 404)
    await client.post(MEMORIES, json=FERRY)
    assert told(await client.delete(f"{MEMORIES}/ferry", headers=key()))


async def test_of_many_at_once_one_acts(server: MemoryServer, client: httpx.AsyncClient) -> None:
    await client.post(MEMORIES, json=FERRY)
    before = count(server)
    asked = [client.delete(f"{MEMORIES}/ferry", headers=key()) for _ in range(8)]
    answers = await asyncio.gather(*asked)
    assert len({answer.json()["event"] for answer in answers}) == 1
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 7
    assert count(server) == before + 1


async def test_nothing_of_a_forgotten_memory_is_kept(server: MemoryServer, client: httpx.AsyncClient) -> None:
    patch = {"text": "Seven oxen pull it.", "title": "Oxen of Sill"}
    await client.post(MEMORIES, json=FERRY, headers=key("k-a"))
    await client.patch(f"{MEMORIES}/ferry", json=patch, headers=key("k-b"))
    await client.post("/v1/mega/documents", json=DOCUMENT, headers=key("k-c"))
    await client.delete("/v1/mega/sources/book/sill.md")
    await client.delete(f"{MEMORIES}/ferry")
    assert error(await client.patch(f"{MEMORIES}/ferry", json=patch, headers=key("k-b")), 404)
    again = await client.post("/v1/mega/documents", json=DOCUMENT, headers=key("k-c"))
    assert {step["title"] for step in again.json()["data"]} == {""}
    server.service.catalog.database.erase(rewrite=True)
    content = (server.bank / CATALOG_FILE).read_bytes()
    for said in ("oxen", "Oxen", "bell rings", "sill.md", "k-a", "k-b"):
        assert said.encode() not in content


@pytest.mark.parametrize("value", ["", "a b", "k\t", "k" * 256, "schl\u00fcssel"])
async def test_a_key_is_visible_ascii(client: httpx.AsyncClient, value: str) -> None:
    answer = await client.post(MEMORIES, json=FERRY, headers={"Idempotency-Key": value.encode()})
    assert error(answer, 400)["param"] == "Idempotency-Key"
    assert (await client.get(MEMORIES)).json()["data"] == []


async def test_where_nothing_is_changed_there_is_no_use_for_keys(client: httpx.AsyncClient) -> None:
    for answer in (
        await client.get(MEMORIES, headers=key()),
        await client.post("/v1/mega/search", json={"query": "oxen"}, headers=key()),
    ):
        assert error(answer, 400)["param"] == "Idempotency-Key"


async def test_a_namespace_hears_nothing_of_another_s_keys(tmp_path: Path) -> None:
    server = MemoryServer(tmp_path, keys=True)
    ann, ben = server.key("ann", "write", "sea"), server.key("ben", "write", "land")
    async with server.client() as client:
        for headers in (ann, ben):
            answer = await client.post(MEMORIES, json=FERRY, headers={**headers, **key()})
            assert "idempotency-replayed" not in answer.headers
        other = await client.post(MEMORIES, json=LAMP, headers={**ben, **key("k-2")})
        assert (other.status_code, other.json()["namespace"]) == (202, "land")
        forget(server.service.catalog, [("land", "ferry")], "ben")
        again = await client.post(MEMORIES, json=FERRY, headers={**ann, **key()})
        assert (again.headers["idempotency-replayed"], again.json()["namespace"]) == ("true", "sea")
        assert error(await client.post(MEMORIES, json=LAMP, headers={**ann, **key()}), 422)
    lines = server.audit.read_text().splitlines()
    assert len(lines) == 3, "what was not done again is not noted again"
    server.close()


def test_openapi_tells_of_keys(server: MemoryServer) -> None:
    paths = server.app.openapi()["paths"]
    heeding = {
        (method, path)
        for path, some in paths.items()
        for method, one in some.items()
        if "Idempotency-Key" in {parameter["name"] for parameter in one["parameters"]}
    }
    assert heeding == {
        ("post", MEMORIES), ("patch", f"{MEMORIES}/{{id}}"), ("delete", f"{MEMORIES}/{{id}}"),
        ("post", f"{MEMORIES}/{{id}}/restore"), ("post", "/v1/mega/documents"),
        ("delete", "/v1/mega/sources/{id}"),
    }  # fmt: skip
    assert "422" in paths[MEMORIES]["post"]["responses"]
    assert "422" not in paths[MEMORIES]["get"]["responses"]
