"""The tools, as a table: what a model is told of each, what it may give, and which requests it becomes."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from vllm_mega.access.principals import Role
from vllm_mega.errors import ToolError
from vllm_mega.mcp import arguments as given
from vllm_mega.mcp.asking import ROOM, Asker, path_of

Act = Callable[[Asker, Any], Awaitable[dict[str, Any]]]
_MEMORY = ("id", "title", "text", "tags", "links", "pinned", "expires_at", "version", "shown", "state")
_LISTED = ("id", "title", "tags", "pinned", "version", "state")
_FOUND = ("id", "title", "text", "tags", "state", "score")
_USED = ("id", "title", "version", "state", "as", "weight", "score")


@dataclass(frozen=True)
class Tool:
    """One tool."""

    name: str
    about: str
    """For a model that has nothing else to decide by."""
    arguments: type[msgspec.Struct]
    act: Act
    role: Role = "read"
    """That a key needs for it. The routes ask for it, this only tells."""
    destroys: bool = False
    """What it takes away does not come back."""

    @property
    def schema(self) -> dict[str, Any]:
        """JSON Schema of the arguments; it refers to nothing."""
        _, found = msgspec.json.schema_components((self.arguments,))
        schema = found[self.arguments.__name__]
        return {name: value for name, value in schema.items() if name not in ("title", "description")}


@dataclass(frozen=True)
class Outcome:
    """What became of a call."""

    ok: bool
    value: dict[str, Any]
    """What it found or did; of a failure {"error": message}."""

    @property
    def text(self) -> str:
        """The same for a model."""
        return json.dumps(self.value, ensure_ascii=False) if self.ok else f"error: {self.value['error']}"


async def call(asker: Asker, name: str, arguments: Mapping[str, Any] | str | bytes) -> Outcome:
    """Call a tool; what it cannot do is an outcome, too.

    Args:
        asker: of whoever calls.
        name: of the tool.
        arguments: an object, or JSON that should be one.
    """
    try:
        tool = BY_NAME.get(name)
        if tool is None:
            raise ToolError(f"there is no tool {name[:64]!r}: call one of {', '.join(BY_NAME)}")
        return Outcome(True, await tool.act(asker, _read(tool, arguments)))
    except ToolError as error:
        return Outcome(False, {"error": str(error)})


def _read(tool: Tool, arguments: Mapping[str, Any] | str | bytes) -> Any:
    try:
        if isinstance(arguments, str | bytes):
            return msgspec.json.decode(arguments, type=tool.arguments)
        return msgspec.convert(arguments, tool.arguments)
    except (ValueError, RecursionError) as error:
        reason = str(error).replace("at `$.", "at `").replace(" - at `$`", "")
        raise ToolError(f"the arguments of {tool.name}: {reason}") from error


def _some(value: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value[name] for name in names if name in value}


def _fields(args: msgspec.Struct, *without: str) -> dict[str, Any]:
    """What was given, as JSON has it."""
    return {name: value for name, value in msgspec.to_builtins(args).items() if name not in without}


async def _remember(asker: Asker, args: given.Remember) -> dict[str, Any]:
    stored = await asker.ask("POST", f"{ROOM}memories", body={**_fields(args), **asker.where})
    return _some(stored.value, ("id", "version", "state"))


async def _search(asker: Asker, args: given.SearchMemories) -> dict[str, Any]:
    found = await asker.ask("POST", f"{ROOM}search", body={**_fields(args), **asker.where})
    return {"memories": [_some(one, _FOUND) for one in found.value["data"]]}


async def _recall(asker: Asker, args: given.Recall) -> dict[str, Any]:
    body = {
        "model": await asker.model(),
        "messages": [{"role": "user", "content": args.question}],
        "temperature": 0,
        "max_completion_tokens": args.max_tokens,
        "mega": {"mode": args.mode, **asker.where},
    }
    answer = (await asker.ask("POST", "/v1/chat/completions", body=body)).value
    used = [_some(one, _USED) for one in answer["mega"]["memories"]]
    return {"text": answer["choices"][0]["message"]["content"] or "", "memories": used}


async def _get(asker: Asker, args: given.GetMemory) -> dict[str, Any]:
    answer = await asker.ask("GET", path_of(args.id), query={**_fields(args, "id"), **asker.where})
    return {**_some(answer.value, _MEMORY), "etag": answer.etag}


async def _list(asker: Asker, args: given.ListMemories) -> dict[str, Any]:
    page = (await asker.ask("GET", f"{ROOM}memories", query={**_fields(args), **asker.where})).value
    return {
        "memories": [_some(one, _LISTED) for one in page["data"]],
        "next_cursor": page["next_cursor"],
    }


async def _update(asker: Asker, args: given.UpdateMemory) -> dict[str, Any]:
    body = _fields(args, "id", "etag")
    if not body:
        raise ToolError("the arguments of update_memory: nothing is new; give text, title, tags or pinned")
    answer = await asker.ask(
        "PATCH", path_of(args.id), query=asker.where, body=body, etag=_fields(args).get("etag")
    )
    return {**_some(answer.value, _MEMORY), "etag": answer.etag}


async def _forget(asker: Asker, args: given.Forget) -> dict[str, Any]:
    etag = _fields(args).get("etag")
    answer = await asker.ask("DELETE", path_of(args.id), query=asker.where, etag=etag)
    return {"id": answer.value["id"], "forgotten": answer.value["deleted"]}


async def _link(asker: Asker, args: given.LinkMemories) -> dict[str, Any]:
    """Nobody's link is lost: the memory must not have changed since its links were read."""
    path = path_of(args.id)
    now = await asker.ask("GET", path, query=asker.where)
    links = list(dict.fromkeys([*now.value["links"], *args.to]))
    answer = await asker.ask("PATCH", path, query=asker.where, body={"links": links}, etag=now.etag)
    return {**_some(answer.value, ("id", "links")), "etag": answer.etag}


TOOLS = (
    Tool(
        "remember",
        "Store something for later conversations: a fact, a preference, an event, a decision. Write one "
        "thing at a time, clear by itself: names in place of pronouns, dates in place of 'yesterday'. Search "
        "first whether it is known already; what has changed belongs into update_memory. Gives the id. The "
        "memory can be found at once.",
        given.Remember, _remember, role="write",
    ),
    Tool(
        "search_memories",
        "Find stored memories that are about something, the best first, with texts, ids and scores (1: the "
        "same, 0: unrelated). Use it before you say that you do not know, and to find the id of a memory.",
        given.SearchMemories, _search,
    ),
    Tool(
        "recall",
        "Ask the memory itself: the model answers from what it has learned by heart. Mode `recall` retells "
        "the memory that fits the question best; mode `text` answers the question from the texts. Says which "
        "memories were used; none, if it knows nothing of it.",
        given.Recall, _recall,
    ),
    Tool(
        "get_memory",
        "Read one memory by its id: text, title, tags, links, version, state, and the `etag` that protects a "
        "change from overwriting somebody else's.",
        given.GetMemory, _get,
    ),
    Tool(
        "list_memories",
        "List stored memories, the latest added first, without their texts, by pages.",
        given.ListMemories, _list,
    ),
    Tool(
        "update_memory",
        "Correct or extend one memory by its id. What you leave out stays as it is; a text replaces the "
        "whole text. The earlier version stays in its history.",
        given.UpdateMemory, _update, role="write",
    ),
    Tool(
        "forget",
        "Delete one memory by its id, with all its versions. It cannot be brought back: do it only when "
        "asked to, or when the memory is wrong and has nothing to correct.",
        given.Forget, _forget, role="write", destroys=True,
    ),
    Tool(
        "link_memories",
        "Say that memories belong together: when the one with this id comes to mind, those that it links to "
        "do, too. Links that are there stay.",
        given.LinkMemories, _link, role="write",
    ),
)  # fmt: skip
BY_NAME: Mapping[str, Tool] = {tool.name: tool for tool in TOOLS}
