"""Two keys, and every route of the app: what one is told is the same, whether the other has memories or not.

A route that is added later fails here until it is said what is asked of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.http.memories.server import FERRY, LAMP, MEMORIES
from tests.http.rendering import Handlers, handlers
from tests.http.running_app import routes
from tests.http.two_worlds import Asked, Heard, TwoKeysServer
from vllm_mega.bank.layout import NewMemory
from vllm_mega.config import MODES
from vllm_mega.http.entrance import FOR_EVERYBODY, ROOM
from vllm_mega.http.mcp import PATH as MCP
from vllm_mega.http.memories import streaming

pytestmark = pytest.mark.filterwarnings("ignore:max_tokens is deprecated:DeprecationWarning")
CONTEXT = 512
CHAT = "/v1/chat/completions"
MEMORY = MEMORIES + "/{id}"
OAR: dict[str, Any] = {"id": "oar", "text": "The oar of Sill is older than the ferry.", "tags": ["travel"]}
SOURCE = {"source": "harbour.md", "text": "# Sill\n\nThe harbour of Sill has nine steps and a bell."}
QUESTION = FERRY["text"]
TOKEN = "A" * 22


def chat(path: str, model: str = "base-mega", **mega: Any) -> Asked:
    messages = [{"role": "user", "content": QUESTION}]
    body = {"model": model, "messages": messages, "max_tokens": 4, "temperature": 0, "mega": mega or None}
    return Asked("POST", path, body)


def complete(model: str = "base-mega", **mega: Any) -> Asked:
    body = {"model": model, "prompt": QUESTION, "max_tokens": 4, "mega": mega or None}
    return Asked("POST", "/v1/completions", body)


def tool(name: str, query: str = "", **arguments: Any) -> Asked:
    """A tool of MCP."""
    call = {"method": "tools/call", "params": {"name": name, "arguments": arguments}}
    accept = {"Accept": "application/json, text/event-stream"}
    return Asked("POST", MCP + query, {"jsonrpc": "2.0", "id": 1, **call}, accept)


BY_HEADER = {"X-Amzn-SageMaker-Adapter-Identifier": "base-mega"}
"""How /invocations names a model."""
NAMES = ("ferry", "base-mega-ferry", "mega:ferry", "mega", "sea", "sea/ferry")
"""Of models that there might be."""


def about(path: str, *names: str, method: str = "GET", body: Any = None) -> list[Asked]:
    """The same of several ids, in the key's namespace and in the other's."""
    every = [path.replace("{id}", name) for name in names or ("ferry", "oar", "lamp")]
    return [Asked(method, one + more, body) for one in every for more in ("", "?namespace=sea")]


EVERY: dict[tuple[str, str], list[Asked]] = {
    ("POST", MEMORIES): [
        Asked("POST", MEMORIES, LAMP),
        Asked("POST", MEMORIES, {**LAMP, "links": ["ferry"]}),
        Asked("POST", MEMORIES, {"text": "The tide is late.", "namespace": "sea"}),
        Asked("POST", MEMORIES, {"text": "The bell is new."}, {"Idempotency-Key": "first"}),
    ],
    ("GET", MEMORIES): [
        Asked("GET", f"{MEMORIES}?{query}")
        for query in ("", "tag=travel", "state=ready", "source=harbour.md", "namespace=sea", "limit=1",
                      "since=0", "pinned=true", f"cursor={TOKEN}")
    ],
    ("GET", MEMORY): [
        *about(MEMORY), *about(MEMORY, "no"), Asked("GET", f"{MEMORIES}/ferry?version=1"),
    ],
    ("GET", MEMORY + "/history"): about(MEMORY + "/history"),
    ("GET", "/v1/mega/jobs/{id}"): about("/v1/mega/jobs/{id}"),
    ("GET", "/v1/mega/jobs"): [
        Asked("GET", f"/v1/mega/jobs?{query}")
        for query in ("", "state=waiting", "limit=1", "namespace=sea", f"cursor={TOKEN}")
    ],
    ("GET", "/v1/mega/events"): [
        Asked("GET", f"/v1/mega/events{query}", None, headers)
        for query in ("", "?limit=1", f"?after={TOKEN}", "?namespace=sea")
        for headers in ({}, {"Accept": "text/event-stream"})
    ],
    ("POST", ROOM + "search"): [
        Asked("POST", ROOM + "search", {"query": QUESTION, "threshold": 0.0, "explain": True, **more})
        for more in ({}, {"tags": ["travel"]}, {"link_share": 1.0, "limit": 100}, {"namespace": "sea"})
    ],
    ("POST", ROOM + "documents"): [
        Asked("POST", ROOM + "documents", {**SOURCE, "dry_run": True}),
        Asked("POST", ROOM + "documents", {**SOURCE, "dry_run": True, "namespace": "sea"}),
    ],
    ("POST", MCP): [
        *(tool("get_memory", query, id=name) for name in ("ferry", "oar", "lamp", "no")
          for query in ("", "?namespace=sea")),
        tool("search_memories", query=QUESTION), tool("list_memories"), tool("recall", question=QUESTION),
        tool("update_memory", id="ferry", title="x"), tool("forget", id="oar"),
        tool("link_memories", id="lamp", to=["ferry"]),
    ],
    ("POST", CHAT): [
        *(chat(CHAT, mode=mode, explain=True) for mode in MODES),
        *(chat(CHAT, memories=[{"id": name}]) for name in ("ferry", "oar", "lamp", "no")),
        chat(CHAT, namespace="sea"),
        *(chat(CHAT, model) for model in NAMES),
    ],
    ("POST", "/invocations"): [
        chat("/invocations", explain=True)._replace(headers=BY_HEADER),
        chat("/invocations", namespace="sea"), chat("/invocations"),
    ],
    ("POST", "/v1/completions"): [
        complete(explain=True), complete(mode="text"), complete(namespace="sea"),
        complete(memories=[{"id": "ferry"}]),
        *map(complete, NAMES),
    ],
    ("POST", "/v1/messages"): [chat("/v1/messages")],
    ("GET", "/v1/models"): [Asked("GET", "/v1/models")],
    ("GET", "/version"): [Asked("GET", "/version")],
    ("POST", "/tokenize"): [Asked("POST", "/tokenize", {"model": n, "prompt": QUESTION}) for n in NAMES],
    ("POST", "/detokenize"): [Asked("POST", "/detokenize", {"model": n, "tokens": [1]}) for n in NAMES],
    ("PATCH", MEMORY): about(MEMORY, method="PATCH", body={"title": "x"}),
    ("POST", MEMORY + "/restore"): about(MEMORY + "/restore", method="POST", body={"version": 1}),
    ("DELETE", ROOM + "sources/{id:path}"): about(ROOM + "sources/{id}", "harbour.md", method="DELETE"),
    ("DELETE", MEMORY): about(MEMORY, method="DELETE"),
}  # fmt: skip
"""What is asked of the routes that keys open, in this order. Of all others, which are for admins or need no
key, the path alone."""


@pytest.fixture(scope="module")
def served() -> Handlers:
    return handlers(None, CONTEXT)


@contextmanager
def world(
    name: str, folder: Path, served: Handlers, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TwoKeysServer]:
    for variable in ("VLLM_API_KEY", "VLLM_MEGA_KEYS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")
    monkeypatch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")
    monkeypatch.setattr(streaming, "LIFE_SECONDS", 0.0)
    made = TwoKeysServer(folder / name, served, monkeypatch)
    yield made
    made.close()


def everything(app: Any, mixtures: Sequence[str]) -> list[Asked]:
    """A request of every route, at least; and of models with the names of `mixtures`."""
    paths = {(method, path) for method, path in routes(app)}
    listed = {(method, path.replace("{", "").replace("}", "")) for method, path in EVERY}
    opened = {(method, path) for method, path in paths if path.startswith(ROOM)} | FOR_EVERYBODY
    assert opened == listed, "a key opens these; say in EVERY what is asked of them"
    named = [one for name in mixtures for one in (chat(CHAT, name), complete(name))]
    others = [Asked(*route) for route in sorted(paths - listed)]
    return [*named, *(one for some in EVERY.values() for one in some), *others]


async def busy(server: TwoKeysServer, served: Handlers) -> list[str]:
    """What bob does before alice asks; the names of his mixtures."""
    served.client.asked.clear()
    server.memories.train(NewMemory(**FERRY, namespace="sea"))
    told = [
        Asked("POST", MEMORIES, {"memories": [OAR, {**LAMP, "text": "The lamp of the ferry is green."}]}),
        Asked("POST", MEMORIES, {"text": "The bell is new."}, {"Idempotency-Key": "first"}),
        Asked("PATCH", f"{MEMORIES}/ferry", {"links": ["oar"], "pinned": True}),
        Asked("POST", ROOM + "documents", SOURCE),
        *(chat(CHAT, mode=mode) for mode in ("adapter", "text", "both", "irag")),
    ]
    heard = await server.hear(server.bob, told)
    statuses = [one.status for one in heard if "Idempotency-Key" not in one.asked.headers]
    assert set(statuses) == {200, 202}, heard
    for one in heard[-4:]:
        assert b'"id":"ferry"' in one.body
    return sorted({one.mixture.lora_name for one in served.client.asked if one.mixture})


async def test_no_route_tells_a_key_of_anothers_memories(
    tmp_path: Path, served: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[list[Heard]] = []
    his: list[list[Heard]] = []
    mixtures: list[str] = []
    for name in ("busy", "empty"):
        with world(name, tmp_path, served, monkeypatch) as server:
            if name == "busy":
                mixtures = await busy(server, served)
            asked = everything(server.app, mixtures)
            told.append(await server.hear(server.alice, asked))
            his.append(await server.hear(server.bob, asked))
    assert mixtures
    for among, alone in zip(*told, strict=True):
        assert among == alone
    pairs = zip(*his, strict=True)
    differ = {(one.asked.method, one.asked.path.partition("?")[0]) for one, other in pairs if one != other}
    assert differ >= {
        ("GET", MEMORIES), ("GET", f"{MEMORIES}/ferry"), ("GET", f"{MEMORIES}/ferry/history"),
        ("GET", "/v1/mega/jobs/oar"), ("GET", "/v1/mega/jobs"), ("GET", "/v1/mega/events"),
        ("POST", ROOM + "search"),
        ("POST", MCP), ("POST", CHAT), ("POST", "/v1/completions"), ("POST", "/invocations"),
        ("DELETE", f"{MEMORIES}/ferry"), ("DELETE", ROOM + "sources/harbour.md"),
    }, "whoever may know, is told: the comparison sees it"  # fmt: skip
