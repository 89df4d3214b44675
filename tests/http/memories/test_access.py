"""Whose memories: keys cannot learn of each other's by any route about memories, and without keys only this
machine is heard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.http.memories.server import FERRY, LAMP, MEMORIES, MemoryServer, error
from vllm_mega.bank.layout import NewMemory

DOCUMENT = {"source": "a.md", "text": "The ox sleeps."}
ROUTES: list[tuple[str, str, Any, bool]] = [
    ("POST", MEMORIES, FERRY, True),
    ("GET", MEMORIES, None, False),
    ("GET", f"{MEMORIES}/ferry", None, False),
    ("PATCH", f"{MEMORIES}/ferry", {"title": "x"}, True),
    ("GET", f"{MEMORIES}/ferry/history", None, False),
    ("POST", f"{MEMORIES}/ferry/restore", {"version": 1}, True),
    ("POST", "/v1/mega/search", {"query": "oxen"}, False),
    ("POST", "/v1/mega/documents", DOCUMENT, True),
    ("GET", "/v1/mega/jobs/ferry", None, False),
    ("GET", "/v1/mega/jobs", None, False),
    ("GET", "/v1/mega/events", None, False),
    ("DELETE", "/v1/mega/sources/a.md", None, True),
    ("DELETE", f"{MEMORIES}/ferry", None, True),
]
"""Method, path, body, and whether it changes something."""
IN_BODY = {MEMORIES, "/v1/mega/search", "/v1/mega/documents"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MemoryServer]:
    made = MemoryServer(tmp_path, keys=True)
    yield made
    made.close()


async def ask(
    client: httpx.AsyncClient, method: str, path: str, body: Any, namespace: str | None = None
) -> httpx.Response:
    """A request that names a namespace where the route takes it."""
    if namespace is None:
        return await client.request(method, path, json=body)
    if method == "POST" and path in IN_BODY:
        return await client.request(method, path, json={**body, "namespace": namespace})
    return await client.request(method, path, json=body, params={"namespace": namespace})


async def test_a_key_is_for_its_namespaces_and_its_role(server: MemoryServer) -> None:
    alice, reader = server.key("alice", "write", "sea"), server.key("rita", "read", "sea")
    ops = server.key("ops", "admin")
    async with server.client(alice) as hers, server.client(reader) as theirs, server.client(ops) as all_:
        for method, path, body, changes in ROUTES:
            for namespace in ("land", "nowhere"):
                refused = error(await ask(hers, method, path, body, namespace), 403)
                assert refused["message"].replace(namespace, "N") == (
                    "this key is not for the namespace 'N': name one that it is for"
                )
            if changes:
                told = error(await ask(theirs, method, path, body), 403)["message"]
                assert "needs the role write" in told
            assert (await ask(hers, method, path, body)).status_code < 300, (method, path)
            assert (await ask(all_, method, path, body, "sea")).status_code != 403
    async with server.client() as nobody:
        for method, path, body, _ in ROUTES:
            error(await ask(nobody, method, path, body), 401)


async def test_a_foreign_id_is_the_same_as_none(server: MemoryServer) -> None:
    alice, bob = server.key("alice", "write", "sea"), server.key("bob", "write", "land")
    async with server.client(alice) as hers, server.client(bob) as his:
        assert (await hers.post(MEMORIES, json=FERRY)).status_code == 202
        assert (await his.post(MEMORIES, json=LAMP)).json()["namespace"] == "land"
        for method, path, body, _ in ROUTES[2:]:
            if "ferry" not in path:
                continue
            foreign = await ask(his, method, path, body)
            none = await ask(his, method, path.replace("ferry", "never"), body)
            assert foreign.status_code == none.status_code == 404, (method, path)
            assert foreign.text.replace("ferry", "never") == none.text
            assert set(foreign.headers.items()) - set(none.headers.items()) in (
                set(), {("content-length", foreign.headers["content-length"])},
            )  # fmt: skip
        server.train(NewMemory(**FERRY, namespace="sea"), NewMemory(**LAMP, namespace="land"))
        found = await his.post("/v1/mega/search", json={"query": FERRY["text"], "explain": True})
        assert [one["id"] for one in found.json()["data"]] == ["lamp"]
        assert FERRY["text"] not in found.text
        assert (await hers.get(f"{MEMORIES}/ferry")).status_code == 200


async def test_nothing_counts_what_others_do(server: MemoryServer) -> None:
    """The same requests, once alone and once among others: every answer has the same form, and no number."""
    alice, bob = server.key("alice", "write", "sea"), server.key("bob", "write", "land")
    async with server.client(alice) as hers, server.client(bob) as his:
        await hers.post(MEMORIES, json=FERRY)
        for n in range(40):
            await his.post(MEMORIES, json={"text": f"Number {n}."})
        await hers.post(MEMORIES, json=LAMP)
        events = (await hers.get("/v1/mega/events")).json()
        assert [(one["id"], one["kind"]) for one in events["data"]] == [("ferry", "added"), ("lamp", "added")]
        assert "43" not in {str(value) for one in events["data"] for value in one.values()}
        page = (await hers.get(MEMORIES, params={"limit": 1})).json()
        assert [one["id"] for one in page["data"]] == ["lamp"]
        rest = (await hers.get(MEMORIES, params={"limit": 1, "cursor": page["next_cursor"]})).json()
        assert ([one["id"] for one in rest["data"]], rest["next_cursor"]) == (["ferry"], None)
        error(await his.get(MEMORIES, params={"cursor": page["next_cursor"]}), 400)
        error(await his.get("/v1/mega/events", params={"after": events["next"]}), 400)
        tag = (await hers.get(f"{MEMORIES}/ferry")).headers["etag"]
        await his.post(MEMORIES, json=FERRY)
        error(await his.patch(f"{MEMORIES}/ferry", json={"title": "x"}, headers={"If-Match": tag}), 412)


async def test_changes_have_a_line_in_the_log_and_texts_have_none(server: MemoryServer) -> None:
    alice = server.key("alice", "write", "sea")
    async with server.client(alice) as client:
        await client.post(MEMORIES, json={"memories": [FERRY, LAMP]})
        await client.get(MEMORIES)
        await client.patch(f"{MEMORIES}/ferry", json={"title": "x"})
        error(await client.patch(f"{MEMORIES}/never", json={"title": "x"}), 404)
        await client.delete(f"{MEMORIES}/lamp")
        error(await client.get(MEMORIES, params={"namespace": "land"}), 403)
    lines = [json.loads(line) for line in server.audit.read_text().splitlines()]
    assert [(line["who"], line["status"], line.get("did"), line.get("ids")) for line in lines] == [
        ("alice", 202, "remember", ["ferry", "lamp"]),
        ("alice", 200, "update_memory", ["ferry"]),
        ("alice", 200, "forget", ["lamp"]),
        ("alice", 403, None, None),
    ]
    assert {line.get("namespace", "sea") for line in lines} == {"sea"}
    assert FERRY["text"] not in server.audit.read_text()


async def test_a_namespace_has_so_many_memories_and_no_more(server: MemoryServer) -> None:
    server.limit("sea", memories=2)
    ops = server.key("ops", "admin")
    text = "# Sill\n\n" + "\n\n".join(f"## Part {n}\n\nThe ox {n} pulls the ferry." for n in range(3))
    async with server.client(ops) as client:
        both = {"memories": [FERRY, LAMP], "namespace": "sea"}
        assert (await client.post(MEMORIES, json=both)).status_code == 202
        one_more = await client.post(MEMORIES, json={"text": "Bells ring.", "namespace": "sea"})
        assert "may have 2 memories, and would have 3" in error(one_more, 403)["message"]
        document = {"source": "a.md", "text": text, "tokens": 16, "namespace": "sea"}
        error(await client.post("/v1/mega/documents", json=document), 403)
        assert len((await client.get(MEMORIES, params={"namespace": "sea"})).json()["data"]) == 2
        assert (await client.post(MEMORIES, json=both)).status_code == 202
        elsewhere = {"text": "Bells ring.", "namespace": "land"}
        assert (await client.post(MEMORIES, json=elsewhere)).status_code == 202
        await client.delete(f"{MEMORIES}/lamp", params={"namespace": "sea"})
        assert (await client.post(MEMORIES, json={**elsewhere, "namespace": "sea"})).status_code == 202


async def test_texts_have_a_greatest_size_and_changes_a_rate(server: MemoryServer) -> None:
    server.limit("sea", text_bytes=40, changes_per_minute=3)
    alice = server.key("alice", "write", "sea")
    async with server.client(alice) as client:
        long = await client.post(MEMORIES, json={"text": "x" * 30, "paraphrases": ["y" * 11]})
        assert error(long, 400)["param"] == "text"
        assert (await client.post(MEMORIES, json={"memories": [FERRY, LAMP]})).status_code == 202
        error(await client.patch(f"{MEMORIES}/ferry", json={"text": "\u00e4" * 21}), 400)
        assert (await client.patch(f"{MEMORIES}/ferry", json={"title": "x"})).status_code == 200
        for method, path, body in (
            ("PATCH", f"{MEMORIES}/ferry", {"title": "y"}), ("DELETE", f"{MEMORIES}/ferry", None),
            ("POST", MEMORIES, LAMP), ("POST", f"{MEMORIES}/ferry/restore", {"version": 1}),
            ("DELETE", "/v1/mega/sources/a.md", None),
        ):  # fmt: skip
            late = await client.request(method, path, json=body)
            assert error(late, 429)["type"] == "RateLimitError"
            assert 1 <= int(late.headers["retry-after"]) <= 20
        assert (await client.get(f"{MEMORIES}/ferry")).json()["title"] == "x"


async def test_without_keys_only_this_machine_is_heard(tmp_path: Path) -> None:
    server = MemoryServer(tmp_path)
    try:
        strange = [
            ("10.0.0.7", {}),
            ("127.0.0.1", {"X-Forwarded-For": "10.0.0.7"}),
            ("127.0.0.1", {"Host": "evil.example"}),
            ("127.0.0.1", {"Origin": "https://evil.example"}),
            ("127.0.0.1", {"Origin": "null"}),
        ]
        for address, headers in strange:
            async with server.client(headers, address) as client:
                for method, path, body, _ in ROUTES:
                    assert "without keys" in error(await ask(client, method, path, body), 403)["message"]
        near = [
            ("127.0.0.1", {}),
            ("::1", {"Host": "[::1]:8000"}),
            ("127.0.0.1", {"Origin": "http://localhost:3"}),
        ]
        for address, headers in near:
            async with server.client(headers, address) as client:
                assert (await client.post(MEMORIES, json=FERRY)).status_code == 202
    finally:
        server.close()
