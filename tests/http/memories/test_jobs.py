"""Jobs over HTTP: what waits for a trainer, what is trained, and what was given up."""

from __future__ import annotations

from typing import Any

import httpx

from tests.http.memories.server import FERRY, LAMP, MEMORIES, MemoryServer, error
from vllm_mega.bank.catalog.jobs import ATTEMPTS, fail, lease, progress

JOBS = "/v1/mega/jobs"
BELL = {"id": "bell", "text": "The bell of Sill is cracked."}


async def jobs(client: httpx.AsyncClient, **query: Any) -> list[tuple[str, str]]:
    return [(job["id"], job["state"]) for job in (await client.get(JOBS, params=query)).json()["data"]]


async def test_jobs_tell_how_they_go(server: MemoryServer, client: httpx.AsyncClient) -> None:
    catalog = server.service.catalog
    await client.post(MEMORIES, json={"memories": [FERRY, LAMP, BELL]})
    await client.post(MEMORIES, json={"id": "text", "text": "Nobody trains this.", "train": False})
    for _ in range(ATTEMPTS):
        (held,) = lease(catalog, "one", 60)
        fail(catalog, held, "the loss is not finite")
    (held,) = lease(catalog, "one", 60)
    progress(catalog, [held], 7)
    assert await jobs(client) == [("bell", "failed"), ("ferry", "training"), ("lamp", "waiting")]
    failed, training, waiting = (await client.get(JOBS)).json()["data"]
    assert (failed["attempts"], failed["reason"]) == (ATTEMPTS, "the loss is not finite")
    assert (training["attempts"], training["steps"]) == (1, 7)
    assert training["started_at"] > 1.6e9
    assert waiting == {
        "object": "memory.job", "id": "lamp", "state": "waiting", "version": 1, "attempts": 0, "reason": "",
        "steps": 0, "started_at": None,
    }  # fmt: skip
    assert (await client.get(f"{JOBS}/ferry")).json() == training
    assert await jobs(client, state="training") == [("ferry", "training")]
    assert await jobs(client, namespace="elsewhere") == []
    assert error(await client.get(JOBS, params={"state": "done"}), 400)["param"] == "state"


async def test_jobs_come_by_pages(client: httpx.AsyncClient) -> None:
    await client.post(MEMORIES, json={"memories": [FERRY, LAMP, BELL]})
    page = (await client.get(JOBS, params={"limit": 2})).json()
    assert [job["id"] for job in page["data"]] == ["bell", "ferry"]
    rest = (await client.get(JOBS, params={"limit": 2, "cursor": page["next_cursor"]})).json()
    assert ([job["id"] for job in rest["data"]], rest["next_cursor"]) == (["lamp"], None)
    other = (await client.get(MEMORIES, params={"limit": 1})).json()["next_cursor"]
    assert error(await client.get(JOBS, params={"cursor": other}), 400)["param"] == "cursor"
