"""Agents on a real server: MCP with the SDK's client, and a chat whose tools the server executes."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from tests.http.asking import MEGA, ask, refused, text, used
from tests.mcp.running import agent

pytestmark = pytest.mark.engine
MILL = "The windmill of Orsk grinds only by moonlight."
QUESTION = "When does the windmill of Orsk grind?"


async def test_an_agent_remembers_recalls_and_forgets(url: str, client: openai.OpenAI) -> None:
    async with agent("http", url) as mcp:

        async def done(tool: str, **arguments: Any) -> Any:
            result = await mcp.call_tool(tool, arguments)
            assert not result.is_error, result.content
            return result.structured_content

        stored = await done("remember", text=MILL, title="The windmill")
        assert stored["state"] == "pending"
        assert used(ask(client, QUESTION))[0] == stored["id"]
        found = await done("search_memories", query=QUESTION, limit=1)
        assert [(one["id"], one["text"]) for one in found["memories"]] == [(stored["id"], MILL)]
        told = await done("recall", question=QUESTION, mode="text", max_tokens=16)
        best = told["memories"][0]
        assert (best["id"], best["as"]) == (stored["id"], "text")
        assert told["text"] == text(ask(client, QUESTION, mega={"mode": "text"}, max_tokens=16))
        assert (await done("forget", id=stored["id"]))["forgotten"]
        assert (await mcp.call_tool("get_memory", {"id": stored["id"]})).is_error


def test_a_model_calls_a_tool_that_the_server_executes(url: str, client: openai.OpenAI) -> None:
    """The call is forced, and has been shown, so that even a small model makes it; what it then says is its
    own."""
    shown = '<tool_call>\n{"name": "search_memories", "arguments": {"query": "ferry"}}\n</tool_call>'
    messages: list[Any] = [
        {"role": "user", "content": "Where is the ferry?"},
        {"role": "assistant", "content": shown},
        {"role": "user", "content": "Where is the windmill?"},
    ]
    asked: dict[str, Any] = {"model": MEGA, "messages": messages, "temperature": 0, "max_tokens": 48}
    off = {"mode": "off", "namespace": "orsk"}
    executed = {**off, "tools": {"rounds": 1, "choice": "search_memories"}}
    with httpx.Client(base_url=f"{url}/v1/mega", timeout=60) as http:
        mill = http.post("/memories", json={"text": MILL, "namespace": "orsk"}).json()["id"]
        answer: Any = client.chat.completions.create(**asked, extra_body={"mega": executed})
        assert http.delete(f"/memories/{mill}", params={"namespace": "orsk"}).json()["deleted"]
    assert answer.mega["tool_calls"], answer.choices
    (call,) = answer.mega["tool_calls"]
    assert (call["name"], call["ok"]) == ("search_memories", True), call
    (found,) = json.loads(call["content"])["memories"]
    assert (found["id"], found["text"]) == (mill, MILL)
    alone: Any = client.chat.completions.create(**asked, extra_body={"mega": off})
    assert answer.usage.prompt_tokens > 2 * alone.usage.prompt_tokens
    assert answer.choices[0].message.content
    assert answer.choices[0].message.tool_calls in (None, [])
    error = refused(lambda: ask(client, "Hello.", mega={"tools": True}, stream=True), 400)
    assert error["param"] == "stream"
