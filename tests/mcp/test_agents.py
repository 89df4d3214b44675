"""Agents with the SDK's own client, over HTTP and over stdin and stdout, against the real routes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import Client

from tests.http.memories.server import FERRY, LAMP
from tests.mcp.running import CARRIERS, MODEL, AgentServer, Carrier, agent, listening
from vllm_mega.mcp.tools import TOOLS

both = pytest.mark.parametrize("carrier", CARRIERS)
HELLO = {
    "jsonrpc": "2.0", "id": 1, "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "a", "version": "1"},
    },
}  # fmt: skip
ACCEPT = {"Accept": "application/json, text/event-stream"}


@pytest.fixture
def server(tmp_path: Path) -> AgentServer:
    return AgentServer(tmp_path)


@pytest.fixture
def url(server: AgentServer) -> Iterator[str]:
    with listening(server) as root:
        yield root


@pytest.fixture
def guarded(tmp_path: Path) -> AgentServer:
    return AgentServer(tmp_path, keys=True)


@pytest.fixture
def guarded_url(guarded: AgentServer) -> Iterator[str]:
    with listening(guarded) as root:
        yield root


async def done(client: Client, tool: str, **arguments: Any) -> Any:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert json.loads(result.content[0].text) == result.structured_content
    return result.structured_content


async def failed(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error, result.content
    (content,) = result.content
    assert content.text == f"error: {result.structured_content['error']}"
    return str(result.structured_content["error"])


@both
async def test_an_agent_uses_every_tool(carrier: Carrier, url: str, server: AgentServer) -> None:
    async with agent(carrier, url) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert list(tools) == [tool.name for tool in TOOLS]
        assert [name for name, tool in tools.items() if tool.annotations.read_only_hint] == [
            "search_memories", "recall", "get_memory", "list_memories",
        ]  # fmt: skip
        text = "Orla keeps nine bees in the bell tower."
        first = {"text": text, "title": "Bees", "tags": ["tower"]}
        bees = (await done(client, "remember", **first))["id"]
        lamp = (await done(client, "remember", text=LAMP["text"]))["id"]
        assert await done(client, "remember", **first) == {"id": bees, "version": 1, "state": "pending"}

        found = await done(client, "search_memories", query=text, tags=["tower"], limit=1)
        assert [(one["id"], one["text"]) for one in found["memories"]] == [(bees, text)]
        page = await done(client, "list_memories", limit=1)
        assert [one["id"] for one in page["memories"]] == [lamp]
        rest = await done(client, "list_memories", cursor=page["next_cursor"])
        assert ([one["id"] for one in rest["memories"]], rest["next_cursor"]) == ([bees], None)

        read = await done(client, "get_memory", id=bees)
        assert (read["text"], read["tags"], read["version"]) == (text, ["tower"], 1)
        new = await done(client, "update_memory", id=bees, text="Orla keeps ten bees.", etag=read["etag"])
        assert (new["text"], new["title"], new["version"]) == ("Orla keeps ten bees.", "Bees", 2)
        assert (await done(client, "get_memory", id=bees, version=1))["text"] == text
        until = await done(client, "update_memory", id=bees, expires_at="2199-01-01T00:00:00Z")
        assert until["expires_at"] == "2199-01-01T00:00:00Z"
        assert "changed" in await failed(client, "update_memory", id=bees, title="x", etag=read["etag"])
        assert (await done(client, "link_memories", id=bees, to=[lamp]))["links"] == [lamp]
        third = (await done(client, "remember", text="The tower leans.", links=[lamp]))["id"]
        assert (await done(client, "link_memories", id=bees, to=[third, lamp]))["links"] == [lamp, third]

        told = await done(client, "recall", question="Who keeps bees?", mode="text", max_tokens=9)
        assert (told["text"], told["memories"][0]["id"]) == ("Told: Who keeps bees?", "ferry")
        asked = server.asked[0]
        assert (asked["model"], asked["max_completion_tokens"]) == (MODEL, 9)
        assert asked["mega"] == {"mode": "text"}
        assert (await done(client, "forget", id=lamp)) == {"id": lamp, "forgotten": True}
        assert "no memory" in await failed(client, "get_memory", id=lamp)


@both
async def test_what_is_wrong_is_told_to_the_model(carrier: Carrier, url: str) -> None:
    async with agent(carrier, url) as client:
        assert "`texts`" in await failed(client, "remember", texts="x")
        assert "`text`" in await failed(client, "remember")
        assert "`limit`" in await failed(client, "search_memories", query="x", limit=99)
        assert "`id`" in await failed(client, "get_memory", id="../events")
        assert "nothing is new" in await failed(client, "update_memory", id="a")
        assert "no tool 'remembr': call one of remember, " in await failed(client, "remembr", text="x")


@both
async def test_a_key_may_do_by_tools_what_it_may_do_by_routes(
    carrier: Carrier, guarded: AgentServer, guarded_url: str
) -> None:
    writer, reader = guarded.key("alice", "write", "sea"), guarded.key("rita", "read", "sea", "land")
    async with agent(carrier, guarded_url, writer) as client:
        ferry = (await done(client, "remember", text=FERRY["text"]))["id"]
    async with agent(carrier, guarded_url, reader) as client:
        assert [one["id"] for one in (await done(client, "list_memories"))["memories"]] == [ferry]
        for tool, arguments in (
            ("remember", {"text": "x"}), ("forget", {"id": ferry}),
            ("update_memory", {"id": ferry, "title": "x"}), ("link_memories", {"id": ferry, "to": ["a"]}),
        ):  # fmt: skip
            assert "needs the role write" in await failed(client, tool, **arguments)
        assert await done(client, "recall", question="Who?")
    async with agent(carrier, guarded_url, reader, "land") as client:
        assert (await done(client, "list_memories"))["memories"] == []
        for tool in ("get_memory", "update_memory", "forget", "link_memories"):
            more = {"update_memory": {"title": "x"}, "link_memories": {"to": ["a"]}}.get(tool, {})
            foreign = await failed(client, tool, id=ferry, **more)
            assert foreign.replace(ferry, "never") == await failed(client, tool, id="never", **more)
        await done(client, "recall", question="Who?")
    assert [body["mega"] for body in guarded.asked] == [
        {"mode": "recall"}, {"mode": "recall", "namespace": "land"},
    ]  # fmt: skip
    lines = [json.loads(line) for line in guarded.audit.read_text().splitlines()]
    assert [(line["who"], line["status"]) for line in lines][:2] == [("alice", 202), ("rita", 403)]
    assert (lines[0]["did"], lines[0]["ids"]) == ("remember", [ferry])


async def test_who_may_not_use_the_server_may_not_speak_to_it(guarded: AgentServer, guarded_url: str) -> None:
    alice = guarded.key("alice", "write", "sea")
    async with httpx.AsyncClient(base_url=guarded_url, headers=ACCEPT) as http:
        assert (await http.post("/v1/mega/mcp", json=HELLO)).status_code == 401
        strange = await http.post("/v1/mega/mcp", params={"namespace": "land"}, json=HELLO, headers=alice)
        assert strange.status_code == 403
        assert "'land'" in strange.json()["error"]["message"]
        unknown = await http.post("/v1/mega/mcp", params={"namespce": "sea"}, json=HELLO, headers=alice)
        assert unknown.json()["error"]["param"] == "namespce"
        hello = await http.post("/v1/mega/mcp", params={"namespace": "sea"}, json=HELLO, headers=alice)
        assert hello.json()["result"]["serverInfo"]["name"] == "vllm-mega"
        assert (await http.get("/v1/mega/mcp", headers=alice)).status_code == 405


async def test_without_keys_no_page_of_another_site_is_heard(url: str) -> None:
    call = {**HELLO, "method": "tools/call", "params": {"name": "remember", "arguments": {"text": "x"}}}
    async with httpx.AsyncClient(base_url=url, headers=ACCEPT) as http:
        for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Forwarded": "for=1"}):
            refused = await http.post("/v1/mega/mcp", json=call, headers=headers)
            assert refused.status_code == 403, headers
            assert "without keys" in refused.json()["error"]["message"]
        assert (await http.get("/v1/mega/memories")).json()["data"] == []
        heard = await http.post("/v1/mega/mcp", json=call)
        assert not heard.json()["result"]["isError"]


async def test_a_command_without_its_server_or_key_says_so(guarded: AgentServer, guarded_url: str) -> None:
    async with agent("stdio", guarded_url) as client:
        assert "needs a key" in await failed(client, "list_memories")
    async with agent("stdio", "http://127.0.0.1:9") as client:
        assert "http://127.0.0.1:9 does not answer" in await failed(client, "list_memories")
