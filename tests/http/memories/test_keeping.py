"""Memories that expire, and memories that are retired, over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import httpx
import pytest

from tests.clock import forward, in_seconds
from tests.http.memories.server import FERRY, LAMP, MEMORIES, MemoryServer, error
from vllm_mega.bank.catalog.jobs import lease
from vllm_mega.bank.layout import NewMemory

FAR = "2199-01-01T00:00:00Z"


async def found(client: httpx.AsyncClient, query: str = FERRY["text"]) -> list[str]:
    answer = await client.post("/v1/mega/search", json={"query": query})
    return [one["id"] for one in answer.json()["data"]]


async def listed(client: httpx.AsyncClient, **query: Any) -> list[str]:
    answer = await client.get(MEMORIES, params=query)
    assert answer.status_code == 200, answer.text
    return [one["id"] for one in answer.json()["data"]]


async def test_what_has_expired_is_not_there(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = in_seconds(60).astimezone(timezone(timedelta(hours=2))).isoformat()
    assert (await client.post(MEMORIES, json={**FERRY, "expires_at": moment})).status_code == 202
    await client.post(MEMORIES, json=LAMP)
    shown = (await client.get(f"{MEMORIES}/ferry")).json()["expires_at"]
    assert datetime.fromisoformat(shown) == datetime.fromisoformat(moment)
    assert shown.endswith("Z")
    assert set(await found(client)) == {"ferry", "lamp"}
    forward(monkeypatch)(61)
    assert await found(client) == ["lamp"]
    assert (await listed(client), await listed(client, expired="true")) == (["lamp"], ["ferry"])
    for method, path in (("GET", ""), ("DELETE", ""), ("PATCH", ""), ("POST", "/restore")):
        json = {"PATCH": {"expires_at": None}, "POST": {"version": 1}}.get(method)
        assert error(await client.request(method, f"{MEMORIES}/ferry{path}", json=json), 404)
    assert error(await client.get("/v1/mega/jobs/ferry"), 404)
    past = (await client.get(f"{MEMORIES}/ferry/history")).json()
    assert (past["data"], [one["kind"] for one in past["events"]]) == ([], ["added"])
    again = await client.post(MEMORIES, json={**FERRY, "title": "Another"})
    assert again.json()["version"] == 2
    kinds = [one["kind"] for one in (await client.get(f"{MEMORIES}/ferry/history")).json()["events"]]
    assert kinds == ["added", "expired", "added"]


async def test_when_it_expires_can_be_changed_and_taken_away(client: httpx.AsyncClient) -> None:
    await client.post(MEMORIES, json={**FERRY, "expires_at": FAR})
    tag = (await client.get(f"{MEMORIES}/ferry")).headers["etag"]
    for body, expected in (
        ({"title": "Oxen"}, FAR),
        ({"expires_at": "2198-01-01T00:00:00+00:00"}, "2198-01-01T00:00:00Z"),
        ({"expires_at": None}, None),
    ):
        changed = await client.patch(f"{MEMORIES}/ferry", json=body)
        assert (changed.status_code, changed.json()["expires_at"]) == (200, expected)
        assert changed.headers["etag"] != tag
        tag = changed.headers["etag"]
    assert (await client.get(f"{MEMORIES}/ferry")).json()["version"] == 2, "only the title made a version"


@pytest.mark.parametrize("value", ["2199-01-01T00:00:00", "tomorrow", 7258118400, "2199-01-01", ""])
async def test_a_time_is_rfc_3339_with_its_zone(client: httpx.AsyncClient, value: object) -> None:
    body = {"expires_at": value}
    added = await client.post(MEMORIES, json={"memories": [{**FERRY, **body}]})
    assert error(added, 400)["param"] == "memories[0].expires_at"
    assert error(await client.patch(f"{MEMORIES}/ferry", json=body), 400)["param"] == "expires_at"


async def test_a_time_that_is_over_is_refused(client: httpx.AsyncClient) -> None:
    await client.post(MEMORIES, json=FERRY)
    body = {"expires_at": datetime(2001, 1, 1, tzinfo=UTC).isoformat()}
    for answer in (
        await client.post(MEMORIES, json={"memories": [LAMP, {**FERRY, **body}]}),
        await client.patch(f"{MEMORIES}/ferry", json=body),
    ):
        assert "must be later than now, found 2001-01-01" in error(answer, 400)["message"]
    assert await listed(client) == ["ferry"]


async def test_retired_memories_are_kept_and_not_found(
    server: MemoryServer, client: httpx.AsyncClient
) -> None:
    server.train(NewMemory(**FERRY), NewMemory(**LAMP))
    await client.patch(f"{MEMORIES}/lamp", json={"links": ["ferry"]})
    body = {"query": LAMP["text"], "explain": True, "threshold": 0.9, "link_share": 1.0}
    with_link = (await client.post("/v1/mega/search", json=body)).json()["explain"]["mixture"]
    assert {one["id"] for one in with_link} == {"lamp", "ferry"}
    assert (await client.patch(f"{MEMORIES}/ferry", json={"retired": True})).json()["retired"]
    assert await found(client) == ["lamp"]
    without = (await client.post("/v1/mega/search", json=body)).json()["explain"]["mixture"]
    assert [one["id"] for one in without] == ["lamp"], "no link leads to it"
    assert set(await listed(client)) == {"ferry", "lamp"}
    assert (await listed(client, retired="true"), await listed(client, retired="false")) == (
        ["ferry"], ["lamp"],
    )  # fmt: skip
    assert (await client.get(f"{MEMORIES}/ferry")).json()["text"] == FERRY["text"]
    await client.patch(f"{MEMORIES}/ferry", json={"text": "Six oxen pull the ferry."})
    assert lease(server.service.catalog, "trainer", 60) == []
    assert not (await client.patch(f"{MEMORIES}/ferry", json={"retired": False})).json()["retired"]
    assert set(await found(client)) == {"ferry", "lamp"}
    assert [job.id for job in lease(server.service.catalog, "trainer", 60)] == ["ferry"]
    kinds = [one["kind"] for one in (await client.get(f"{MEMORIES}/ferry/history")).json()["events"]]
    assert [kind for kind in kinds if "retired" in kind] == ["retired", "unretired"]
