"""Memories over HTTP, on a real catalog: what is told, and what is refused."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest

from tests.http.memories.server import FERRY, LAMP, MEMORIES, MemoryServer, error
from vllm_mega.bank.layout import NewMemory
from vllm_mega.http.bodies import LARGEST, LARGEST_DOCUMENT
from vllm_mega.memories import list_jobs


async def put(client: httpx.AsyncClient, *memories: dict[str, Any]) -> list[dict[str, Any]]:
    answer = await client.post(MEMORIES, json={"memories": memories})
    assert answer.status_code == 202, answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


async def test_a_memory_is_stored_and_shown(server: MemoryServer, client: httpx.AsyncClient) -> None:
    answer = await client.post(MEMORIES, json={**FERRY, "links": ["lamp"], "source": {"file": "a.md"}})
    assert (answer.status_code, answer.json()) == (
        202,
        {"id": "ferry", "namespace": "default", "state": "pending", "version": 1, "object": "memory.stored"},
    )
    shown = await client.get(f"{MEMORIES}/ferry")
    assert shown.status_code == 200
    told = shown.json()
    assert told.pop("created_at") <= told.pop("updated_at")
    assert told == {
        "object": "memory", "id": "ferry", "namespace": "default", "state": "pending", "version": 1,
        "answers": 1, "shown": 1, "title": "The ferry", "text": "Four oxen pull the ferry.",
        "tags": ["travel"], "links": ["lamp"], "paraphrases": [], "qa": [], "pinned": False, "reason": "",
        "adapter": None, "source": {"file": "a.md", "digest": "", "start": None, "end": None},
        "retired": False, "expires_at": None,
    }  # fmt: skip
    assert shown.headers["cache-control"] == "no-store"
    assert [job.id for job in list_jobs(server.service.catalog)] == ["ferry"]


async def test_a_conversation_is_a_memory(client: httpx.AsyncClient) -> None:
    messages = [
        {"role": "user", "content": "What pulls the ferry?"},
        {"role": "assistant", "content": [{"type": "text", "text": "Four oxen."}]},
    ]
    stored = await client.post(MEMORIES, json={"messages": messages, "train": False})
    shown = (await client.get(f"{MEMORIES}/{stored.json()['id']}")).json()
    assert shown["text"] == "User: What pulls the ferry?\nAssistant: Four oxen."
    assert (await client.get(f"/v1/mega/jobs/{shown['id']}")).json()["state"] == "none"


async def test_many_are_stored_all_of_them_or_none(client: httpx.AsyncClient) -> None:
    assert [one["id"] for one in await put(client, LAMP, FERRY)] == ["lamp", "ferry"]
    bad = await client.post(MEMORIES, json={"memories": [{"text": "New."}, {"text": " "}]})
    assert error(bad, 400)["param"] == "memories[1].text"
    twice = await client.post(MEMORIES, json={"memories": [{"text": "New."}, {"text": "New."}]})
    assert "twice" in error(twice, 400)["message"]
    assert [one["id"] for one in (await client.get(MEMORIES)).json()["data"]] == ["lamp", "ferry"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "text"),
        ({"text": "a", "messages": []}, "text"),
        ({"text": "a", "colour": 1}, "colour"),
        ({"text": 1}, "text"),
        ({"text": "a", "memories": [FERRY]}, "text"),
        ({"memories": []}, "memories"),
        ({"memories": [{"text": "a", "tags": [1]}]}, "memories[0].tags[0]"),
        ({"text": "a", "id": "../x"}, "text"),
        ({"text": "a", "qa": [{"question": "b"}]}, "qa[0]"),
    ],
)
async def test_a_body_that_is_none_is_refused(
    client: httpx.AsyncClient, body: dict[str, Any], param: str
) -> None:
    assert error(await client.post(MEMORIES, json=body), 400)["param"] == param


async def test_bodies_are_json_and_not_too_large(client: httpx.AsyncClient) -> None:
    plain = await client.post(MEMORIES, content=b'{"text": "a"}', headers={"Content-Type": "text/plain"})
    assert error(plain, 400)["param"] == "Content-Type"
    assert error(await client.post(MEMORIES, content=b'{"text": "a"}'), 400)["param"] == "Content-Type"
    for method in ("POST", "PATCH", "DELETE"):
        large = await client.request(method, f"{MEMORIES}/x", content=b" " * (LARGEST + 1))
        assert f"larger than {LARGEST} bytes" in error(large, 413)["message"]
    documents = "/v1/mega/documents"
    assert error(await client.post(documents, content=b" " * (LARGEST + 1)), 400)["param"] == "Content-Type"
    large = await client.post(documents, content=b" " * (LARGEST_DOCUMENT + 1))
    assert f"larger than {LARGEST_DOCUMENT} bytes" in error(large, 413)["message"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"text": "\xff"}', b'{"text": "\\ud83d"}', b'{"text": "a\0"}', '{"text": "a"}'.encode("utf-16"),
        b'{"text": ' + b"[" * 90_000 + b"]" * 90_000 + b"}", b"", b"{", b"7", b"null",
        b'{"text": "a", "text": 1}', b'{"text": "a", "x": ' + b"[" * 9000 + b"]" * 9000 + b"}",
    ],
)  # fmt: skip
async def test_what_is_no_text_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    for method, path in (("POST", MEMORIES), ("PATCH", f"{MEMORIES}/x"), ("POST", "/v1/mega/search")):
        answer = await client.request(method, path, content=body, headers=headers)
        assert error(answer, 400)["param"]
    assert (await client.get(MEMORIES)).json()["data"] == []


async def test_pages_have_every_memory_once(client: httpx.AsyncClient) -> None:
    await put(client, *({"id": f"m{n}", "text": f"Number {n}."} for n in range(7)))
    seen, cursor, pages = [], None, 0
    while cursor or not pages:
        query = {"limit": 3, **({"cursor": cursor} if cursor else {})}
        page = (await client.get(MEMORIES, params=query)).json()
        seen += [one["id"] for one in page["data"]]
        cursor, pages = page["next_cursor"], pages + 1
        await put(client, {"id": f"later{pages}", "text": f"Later {pages}."})
    assert (seen, pages) == ([f"m{n}" for n in range(6, -1, -1)], 3)


async def test_lists_are_filtered(client: httpx.AsyncClient) -> None:
    await put(client, FERRY, {**LAMP, "source": {"file": "book/lamp.md"}})
    await client.patch(f"{MEMORIES}/lamp", json={"pinned": True})

    async def ids(**query: Any) -> list[str]:
        answer = await client.get(MEMORIES, params=query)
        assert answer.status_code == 200, answer.text
        return [one["id"] for one in answer.json()["data"]]

    changed = (await client.get(f"{MEMORIES}/lamp")).json()["updated_at"]
    assert await ids(tag="travel") == ["ferry"]
    assert await ids(pinned="true") == ["lamp"]
    assert await ids(pinned="false") == ["ferry"]
    assert await ids(source="book/lamp.md") == ["lamp"]
    assert await ids(state="ready") == []
    assert await ids(since=changed) == ["lamp"]
    assert await ids(until=changed) == ["ferry"]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"), ("limit=1001", "limit"), ("limit=x", "limit"), ("state=asleep", "state"),
        ("colour=red", "colour"), ("tag=a&tag=b", "tag"), ("cursor=7", "cursor"), ("tag=%00", "tag"),
        ("pinned=perhaps", "pinned"), ("namespace=../x", None),
    ],
)  # fmt: skip
async def test_parameters_that_are_none_are_refused(
    client: httpx.AsyncClient, query: str, param: str | None
) -> None:
    assert error(await client.get(f"{MEMORIES}?{query}"), 400)["param"] == param


async def test_a_change_is_a_version_and_comes_back(client: httpx.AsyncClient) -> None:
    await put(client, FERRY)
    changed = await client.patch(f"{MEMORIES}/ferry", json={"text": "Six oxen.", "links": ["lamp"]})
    assert changed.status_code == 200
    told = changed.json()
    assert (told["text"], told["title"], told["version"], told["links"]) == (
        "Six oxen.", "The ferry", 2, ["lamp"],
    )  # fmt: skip
    assert (await client.get(f"{MEMORIES}/ferry?version=1")).json()["text"] == FERRY["text"]
    past = (await client.get(f"{MEMORIES}/ferry/history")).json()
    assert [(one["version"], one["text"], one["who"]) for one in past["data"]] == [
        (2, "Six oxen.", "local"), (1, FERRY["text"], "local"),
    ]  # fmt: skip
    assert [one["kind"] for one in past["events"]] == ["added", "updated", "linked"]
    back = await client.post(f"{MEMORIES}/ferry/restore", json={"version": 1})
    assert (back.json()["text"], back.json()["version"]) == (FERRY["text"], 3)
    assert error(await client.post(f"{MEMORIES}/ferry/restore", json={"version": 9}), 404)
    assert error(await client.patch(f"{MEMORIES}/ferry", json={"text": " "}), 400)
    assert (
        error(await client.patch(f"{MEMORIES}/ferry", json={"namespace": "x"}), 400)["param"] == "namespace"
    )


async def test_who_has_read_an_older_memory_changes_nothing(client: httpx.AsyncClient) -> None:
    await put(client, FERRY)
    first = (await client.get(f"{MEMORIES}/ferry")).headers["etag"]
    second = await client.patch(f"{MEMORIES}/ferry", json={"links": ["lamp"]}, headers={"If-Match": first})
    assert second.status_code == 200
    assert second.headers["etag"] != first
    for tag in (first, '"nonsense"', f"W/{second.headers['etag']}"):
        header = {"If-Match": tag}
        for answer in (
            await client.patch(f"{MEMORIES}/ferry", json={"text": "Lost."}, headers=header),
            await client.post(f"{MEMORIES}/ferry/restore", json={"version": 1}, headers=header),
            await client.delete(f"{MEMORIES}/ferry", headers=header),
        ):
            assert "read it again" in error(answer, 412)["message"]
    assert (await client.get(f"{MEMORIES}/ferry")).headers["etag"] == second.headers["etag"]
    anyhow = await client.patch(f"{MEMORIES}/ferry", json={"pinned": True}, headers={"If-Match": "*"})
    assert (anyhow.status_code, anyhow.json()["text"]) == (200, FERRY["text"])
    stale = await client.post(MEMORIES, json=LAMP, headers={"If-Match": first})
    assert error(stale, 400)["param"] == "If-Match"
    gone = await client.delete(f"{MEMORIES}/ferry", headers={"If-Match": anyhow.headers["etag"]})
    assert gone.status_code == 200


async def test_what_is_forgotten_is_gone_but_for_its_events(client: httpx.AsyncClient) -> None:
    await put(client, FERRY)
    gone = (await client.delete(f"{MEMORIES}/ferry")).json()
    assert (gone["id"], gone["deleted"], gone["erased"]) == ("ferry", True, True)
    for method, path in (("GET", ""), ("DELETE", ""), ("PATCH", "")):
        json = {"title": "x"} if method == "PATCH" else None
        assert error(await client.request(method, f"{MEMORIES}/ferry{path}", json=json), 404)
    assert error(await client.get("/v1/mega/jobs/ferry"), 404)
    past = (await client.get(f"{MEMORIES}/ferry/history")).json()
    assert past["data"] == []
    assert [one["kind"] for one in past["events"]] == ["added", "forgotten"]
    assert past["events"][-1]["event"] == gone["event"]
    assert FERRY["text"] not in str(past)


@pytest.mark.parametrize("name", ["never", "%00", "..", "a%2Fb", "%F0%9F%90%82"])
async def test_there_is_no_such_memory(client: httpx.AsyncClient, name: str) -> None:
    for answer in (
        await client.get(f"{MEMORIES}/{name}"),
        await client.delete(f"{MEMORIES}/{name}"),
        await client.get(f"{MEMORIES}/{name}/history"),
    ):
        assert answer.status_code in (404, 405)


async def test_a_search_says_what_the_gate_would_do(server: MemoryServer, client: httpx.AsyncClient) -> None:
    server.train(NewMemory(**FERRY), NewMemory(**LAMP))
    await put(client, {"id": "waits", "text": FERRY["text"]})
    body = {"query": "Four oxen pull the ferry.", "limit": 5}
    found = (await client.post("/v1/mega/search", json=body)).json()
    assert [one["id"] for one in found["data"]] == ["ferry", "waits", "lamp"]
    best = found["data"][0]
    assert (best["text"], best["state"], best["score"]) == (
        FERRY["text"], "ready", pytest.approx(1.0, abs=1e-3),
    )  # fmt: skip
    assert found["explain"] is None
    asked = {**body, "explain": True, "threshold": 0.9, "tags": ["travel"]}
    explained = (await client.post("/v1/mega/search", json=asked)).json()
    assert [one["id"] for one in explained["data"]] == ["ferry"]
    assert explained["explain"]["threshold"] == 0.9
    assert explained["explain"]["best_score"] == pytest.approx(1.0, abs=1e-3)
    assert [(one["id"], one["weight"], one["linked"]) for one in explained["explain"]["mixture"]] == [
        ("ferry", 1.0, False)
    ]
    assert error(await client.post("/v1/mega/search", json={**body, "top_k": 0}), 400)["param"] == "top_k"
    assert error(await client.post("/v1/mega/search", json={"query": ""}), 400)["param"] == "query"


async def test_a_document_comes_and_goes(client: httpx.AsyncClient) -> None:
    text = "# Sill\n\n" + "\n\n".join(f"## Part {n}\n\nThe ox {n} pulls the ferry to Sill." for n in range(3))
    body = {"source": "book/sill.md", "text": text, "tags": ["travel"]}
    tried = (await client.post("/v1/mega/documents", json={**body, "dry_run": True})).json()
    assert {one["change"] for one in tried["data"]} == {"add"}
    assert (await client.get(MEMORIES)).json()["data"] == []
    stored = await client.post("/v1/mega/documents", json=body)
    assert stored.status_code == 202
    ids = [one["id"] for one in stored.json()["data"]]
    assert ids == [one["id"] for one in tried["data"]]
    assert (await client.get(f"/v1/mega/jobs/{ids[0]}")).json()["state"] == "waiting"
    content = base64.b64encode(text.encode()).decode()
    again = {"source": "book/sill.md", "content": content}
    same = (await client.post("/v1/mega/documents", json=again)).json()
    assert {one["change"] for one in same["data"]} == {"keep"}
    gone = (await client.delete("/v1/mega/sources/book/sill.md")).json()
    assert sorted(gone["data"]) == sorted(ids)
    assert error(await client.delete("/v1/mega/sources/book/sill.md"), 404)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"source": "a.md"}, "neither"),
        ({"source": "a.md", "text": "b", "content": "Yg=="}, "both"),
        ({"source": "a.xyz", "text": "b"}, "expected one of .md"),
        ({"source": "a.md", "text": " "}, "says nothing"),
        ({"source": "a.md", "text": "b", "tokens": 1}, "16"),
        ({"source": "a.md", "text": "b", "tags": [" x"]}, "tags"),
        ({"source": "a.md", "content": "%"}, "base64"),
    ],
)
async def test_a_document_that_is_none_is_refused(
    client: httpx.AsyncClient, body: dict[str, Any], reason: str
) -> None:
    assert reason in error(await client.post("/v1/mega/documents", json=body), 400)["message"]


async def test_what_the_server_must_see_to_is_not_told(
    server: MemoryServer, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    (server.bank / "catalog.sqlite").rename(server.bank / "away")
    server.service.catalog.close()
    (server.bank / "catalog.sqlite").mkdir()
    told = error(await client.get(MEMORIES), 500)
    assert str(server.bank) not in str(told)
    assert str(server.bank) in caplog.text


async def test_openapi_says_it_all(server: MemoryServer) -> None:
    paths = server.app.openapi()["paths"]
    known = {(method.upper(), path) for path, some in paths.items() for method in some}
    assert known == {
        ("POST", MEMORIES), ("GET", MEMORIES), ("GET", f"{MEMORIES}/{{id}}"), ("PATCH", f"{MEMORIES}/{{id}}"),
        ("DELETE", f"{MEMORIES}/{{id}}"), ("GET", f"{MEMORIES}/{{id}}/history"),
        ("POST", f"{MEMORIES}/{{id}}/restore"), ("POST", "/v1/mega/search"), ("POST", "/v1/mega/documents"),
        ("DELETE", "/v1/mega/sources/{id}"), ("GET", "/v1/mega/jobs"), ("GET", "/v1/mega/jobs/{id}"),
        ("GET", "/v1/mega/events"),
    }  # fmt: skip
    add = paths[MEMORIES]["post"]
    assert "$ref" not in str(paths)
    body = add["requestBody"]["content"]["application/json"]
    assert body["example"]["text"]
    assert {"text", "messages", "memories", "namespace"} <= set(body["schema"]["properties"])
    assert {"202", "400", "403", "503"} <= set(add["responses"])
    listed = {one["name"]: one for one in paths[MEMORIES]["get"]["parameters"]}
    assert listed["cursor"]["description"]
    assert {"If-Match", "id"} <= {one["name"] for one in paths[f"{MEMORIES}/{{id}}"]["patch"]["parameters"]}
