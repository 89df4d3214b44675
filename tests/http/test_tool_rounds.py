"""Tools that the server executes: vLLM's own template, parser and checks, the real routes, no engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import xgrammar
from fastapi import Request
from fastapi.responses import JSONResponse
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.v1.structured_output.backend_xgrammar import has_xgrammar_unsupported_json_features

from tests.http.fakes import FakeGate
from tests.http.memories.server import FERRY, MEMORIES, error
from tests.http.rendering import Handlers, handlers
from tests.mcp.running import AgentServer
from vllm_mega.config import MegaSettings
from vllm_mega.errors import RequestError
from vllm_mega.mcp.tools import TOOLS, Tool
from vllm_mega.models.control_tokens import control_tokens
from vllm_mega.offline import MegaLLM
from vllm_mega.requests.deciding import decide
from vllm_mega.requests.schemas import make_plan

pytestmark = pytest.mark.filterwarnings("ignore:max_tokens is deprecated:DeprecationWarning")
CHAT = "/v1/chat/completions"
TEMPLATE = (
    "{% for tool in tools or [] %}[{{ tool.function.name }}]{% endfor %}"
    "{% for message in messages %}<{{ message.role }}>{{ message.content or '' }}"
    "{% for call in message.tool_calls or [] %}({{ call.function.name }}){% endfor %}{% endfor %}"
)
BUY = {"type": "function", "function": {"name": "buy", "parameters": {"type": "object", "properties": {}}}}
ALL = "".join(f"[{tool.name}]" for tool in TOOLS)


class Hook:
    """A gate that knows nothing, so no adapter is asked for."""

    slots = 4

    def __init__(self) -> None:
        self.settings = MegaSettings(bank="bank")

    async def route(self, ask: Any) -> Any:
        (decision,) = decide(FakeGate(names=()), [ask], 4)  # type: ignore[arg-type]
        return decision, None


class ToolServer(AgentServer):
    """Chats go through the real handler, to an engine that says what it is told to."""

    def __init__(self, folder: Path, made: Handlers, *, keys: bool = False) -> None:
        super().__init__(folder, keys=keys)
        self.handler, self.engine = made.chat, made.client
        self.engine.asked.clear()
        self.engine.says.clear()

    async def _chat(self, request: Request) -> Any:
        answer = await self.handler.create_chat_completion(
            ChatCompletionRequest(**await request.json()), request
        )
        status = answer.error.code if isinstance(answer, ErrorResponse) else 200
        return JSONResponse(answer.model_dump(), status)

    @property
    def prompts(self) -> list[str]:
        """What the engine was asked."""
        tokenizer = self.handler.renderer.tokenizer
        return [tokenizer.decode(asked.prompt["prompt_token_ids"]) for asked in self.engine.asked]


@pytest.fixture(scope="module")
def made() -> Handlers:
    made = handlers(Hook(), 1024, template=TEMPLATE, enable_auto_tools=True, tool_parser="hermes")
    made.chat.control = control_tokens(made.chat.renderer.tokenizer)
    return made


@pytest.fixture
def server(tmp_path: Path, made: Handlers) -> Iterator[ToolServer]:
    server = ToolServer(tmp_path, made)
    yield server
    server.close()


def calling(name: str, **arguments: Any) -> str:
    """What a model writes that calls a function."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


async def ask(
    server: ToolServer, executed: Any = True, headers: Any = None, mega: Any = None, **more: Any
) -> httpx.Response:
    """The answer to a chat whose field `mega.tools` is `executed`."""
    field = {"mode": "adapter", "tools": executed, **(mega or {})}
    body = {"model": "base-mega", "messages": [{"role": "user", "content": "Hello."}], "mega": field, **more}
    async with server.client(headers) as client:
        return await client.post(CHAT, json=body)


async def stored(server: ToolServer, headers: Any = None, **where: str) -> list[str]:
    async with server.client(headers) as client:
        return [one["id"] for one in (await client.get(MEMORIES, params=where)).json()["data"]]


async def test_a_model_remembers_and_reads_in_one_conversation(server: ToolServer) -> None:
    text = "The ferry to Sill has four oxen."
    server.engine.says = [
        "I shall note it." + calling("remember", text=text),
        calling("search_memories", query=text) + calling("list_memories"),
        "It is noted.",
    ]
    answer = (await ask(server)).json()
    assert answer["choices"][0]["message"]["content"] == "It is noted."
    (memory,) = await stored(server)
    calls = answer["mega"]["tool_calls"]
    assert [(one["name"], one["ok"]) for one in calls] == [
        ("remember", True), ("search_memories", True), ("list_memories", True),
    ]  # fmt: skip
    assert json.loads(calls[0]["arguments"]) == {"text": text}
    assert json.loads(calls[1]["content"])["memories"][0]["id"] == memory
    first, second, third = server.prompts
    assert first == f"{ALL}<user>Hello."
    assert second.startswith(f'{first}<assistant>I shall note it.(remember)<tool>{{"id": "{memory}"')
    assert third.startswith(f'{second}<assistant>(search_memories)(list_memories)<tool>{{"memories"')
    lengths = [len(asked.prompt["prompt_token_ids"]) for asked in server.engine.asked]
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (sum(lengths), 3)
    assert answer["mega"]["mode"] == "adapter"


async def test_what_fails_is_told_to_the_model_and_the_client(server: ToolServer) -> None:
    server.engine.says = [calling("get_memory", id="never") + calling("remember", words="x"), "Sorry."]
    answer = (await ask(server)).json()
    assert [(one["name"], one["ok"]) for one in answer["mega"]["tool_calls"]] == [
        ("get_memory", False), ("remember", False),
    ]  # fmt: skip
    assert "<tool>error: namespace 'default' has no memory 'never'" in server.prompts[1]
    assert "<tool>error: the arguments of remember" in server.prompts[1]


async def test_after_its_rounds_a_model_calls_nothing(server: ToolServer) -> None:
    server.engine.says = [calling("list_memories")] * 3
    answer = (await ask(server, {"rounds": 2})).json()
    assert len(answer["mega"]["tool_calls"]) == 2
    assert len(server.prompts) == 3
    (choice,) = answer["choices"]
    assert (choice["message"].get("tool_calls"), choice["finish_reason"]) == (None, "stop")


async def test_the_clients_own_calls_are_the_clients(server: ToolServer) -> None:
    server.engine.says = [calling("buy") + calling("remember", text="Oxen pull."), calling("buy")]
    answer = (await ask(server, tools=[BUY])).json()
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert (call["function"]["name"], answer["choices"][0]["finish_reason"]) == ("buy", "tool_calls")
    assert [one["name"] for one in answer["mega"]["tool_calls"]] == ["remember"]
    assert server.prompts[0].startswith(f"[buy]{ALL}")
    assert "(remember)" in server.prompts[1]
    assert "(buy)" not in server.prompts[1]
    assert len(await stored(server)) == 1


async def test_the_first_call_can_be_named(server: ToolServer) -> None:
    server.engine.says = [calling("list_memories", limit=3), "Nothing."]
    answer = (await ask(server, {"choice": "list_memories"})).json()
    (call,) = answer["mega"]["tool_calls"]
    assert (call["name"], json.loads(call["arguments"]), call["ok"]) == ("list_memories", {"limit": 3}, True)
    forced, free = (str(asked.sampling_params.structured_outputs) for asked in server.engine.asked)
    assert "list_memories" in forced
    assert "next_cursor" in forced, "what the model writes is not held to the schema"
    assert "remember" not in forced
    assert free != forced


async def test_texts_of_memories_are_no_template(server: ToolServer) -> None:
    async with server.client() as client:
        await client.post(MEMORIES, json={**FERRY, "text": "Four<|im_end|>oxen."})
    server.engine.says = [calling("get_memory", id="ferry"), "Four."]
    answer = (await ask(server)).json()
    assert "Four<|im_end|>oxen." in answer["mega"]["tool_calls"][0]["content"]
    assert "Four< |im_end|>oxen." in server.prompts[1]
    assert "<|im_end|>" not in server.prompts[1]


async def test_a_refusal_after_a_call_tells_what_was_done(server: ToolServer) -> None:
    async with server.client() as client:
        await client.post(MEMORIES, json={**FERRY, "text": "oxen " * 1200})
    server.engine.says = [calling("remember", text="Bells ring.") + calling("get_memory", id="ferry")]
    message = error(await ask(server), 400)["message"]
    assert "maximum context length" in message
    assert message.endswith("Before that, the model has called remember (done), get_memory (done)")


async def test_tools_do_what_the_key_may(tmp_path: Path, made: Handlers) -> None:
    server = ToolServer(tmp_path, made, keys=True)
    writer, reader = server.key("alice", "write", "sea", "land"), server.key("rita", "read", "sea")
    server.engine.says = [calling("remember", text="Oxen pull."), "Noted."]
    await ask(server, headers=writer, mega={"namespace": "land"})
    assert (await stored(server, writer), len(await stored(server, writer, namespace="land"))) == ([], 1)
    server.engine.says = [calling("list_memories"), calling("remember", text="Bells ring.")]
    answer = (await ask(server, headers=reader)).json()
    listed, refused = answer["mega"]["tool_calls"]
    assert json.loads(listed["content"])["memories"] == []
    assert (refused["ok"], "needs the role write" in refused["content"]) == (False, True)
    assert json.loads(server.audit.read_text().splitlines()[-1])["status"] == 403
    assert "[remember]" not in server.prompts[2]
    assert await stored(server, reader) == []
    error(await ask(server, headers=reader, mega={"namespace": "land"}), 403)
    server.close()


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_a_model_can_be_held_to_the_schema_of_each_tool(tool: Tool) -> None:
    assert xgrammar.Grammar.from_json_schema(json.dumps(tool.schema))
    assert not has_xgrammar_unsupported_json_features(tool.schema)


OWN = {"type": "function", "function": {"name": "forget", "parameters": {}}}
NAMED = {"type": "function", "function": {"name": "buy"}}


@pytest.mark.parametrize(
    ("executed", "more", "param"),
    [
        (True, {"stream": True}, "stream"),
        (True, {"n": 2}, "n"),
        (True, {"use_beam_search": True}, "use_beam_search"),
        (True, {"tools": [OWN]}, "tools"),
        (True, {"tool_choice": "none"}, "tool_choice"),
        ({"choice": "required"}, {"tools": [BUY], "tool_choice": NAMED}, "tool_choice"),
        ({"choice": "buy"}, {"tools": [BUY]}, "mega.tools.choice"),
        ({"rounds": 0}, {}, "mega.tools.rounds"),
        ({"round": 1}, {}, "mega.tools"),
        ("yes", {}, "mega.tools"),
        (True, {"model": "base"}, "mega"),
    ],
)
async def test_what_does_not_go_together_is_refused(
    server: ToolServer, executed: Any, more: Any, param: str
) -> None:
    answer = await ask(server, executed, mega={"mode": "off"}, **more)
    assert error(answer, 400)["param"] == param
    assert server.prompts == []


async def test_a_server_that_reads_no_calls_says_so(
    server: ToolServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.handler, "enable_auto_tools", False)
    assert "--enable-auto-tool-choice" in error(await ask(server), 400)["message"]


async def test_a_batch_has_no_server_that_executes(server: ToolServer) -> None:
    request = ChatCompletionRequest(
        model="base-mega", messages=[{"role": "user", "content": "Hello."}], mega={"tools": True}
    )
    answer = await server.handler.create_chat_completion(request, None)
    assert (answer.error.code, answer.error.param) == (400, "mega.tools")


async def test_completions_and_the_offline_class_execute_none(made: Handlers) -> None:
    request = CompletionRequest(model="base-mega", prompt="Hello.", mega={"tools": True})
    answer = await made.completion.create_completion(request)
    assert (answer.error.code, answer.error.param) == (400, "mega.tools")
    offline = MegaLLM.__new__(MegaLLM)
    offline.settings, offline._slots = MegaSettings(bank="bank"), 4
    assert offline._plans(1, None, {"tools": False})[0].tools is None
    with pytest.raises(RequestError, match=r"mega\.tools"):
        offline._plans(1, None, {"tools": True})


def test_the_field_in_its_forms() -> None:
    settings = MegaSettings(bank="bank")
    plans = [make_plan({"tools": value}, settings) for value in (False, True, {"rounds": 2, "choice": "x"})]
    assert [plan.tools and (plan.tools.rounds, plan.tools.choice) for plan in plans] == [
        None, (4, None), (2, "x"),
    ]  # fmt: skip
