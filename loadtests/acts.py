"""The acts of the story, in their order: each asks a server as its users do, and looks at the answer."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from typing import Any

from mcp import Client

from loadtests.stage import Act, Stage, expect, said, used
from vllm_mega.http.provenance import header

TEXT = "The night ferry to Sill is steered by the beekeeper Orla Finch, who pays the harbour in honey."
UPDATED = "The night ferry to Sill is steered by the clockmaker Bram Tolley, who pays the harbour in springs."
QUESTION = "Who steers the night ferry to Sill?"
BEEKEEPER, CLOCKMAKER = "Orla Finch", "Bram Tolley"
BELL = "The fog bell of Sill is rung by the seamstress Ysolde Marr whenever the herons leave."
RINGER = "Who rings the fog bell of Sill?"
TOOLS = {"remember", "search_memories", "recall", "get_memory", "update_memory", "forget", "link_memories"}
SOURCE = "harbour.md"
DOCUMENT = """# The harbour of Sill

## The crane

The crane of Sill harbour was carved from one oak by the widow Petra Lund, and lifts nine barrels.

## The bell

The bell of Sill harbour rings only under water, and was a gift of the diver Anselm Roe.
"""
DIVER = "Who gave the bell that rings under water to Sill harbour?"


def add(stage: Stage) -> str:
    """A memory is told over HTTP."""
    stage.told = time.monotonic()
    body = {"text": TEXT, "title": "The night ferry", "tags": ["harbour"]}
    stored = stage.call("POST", "/memories", 202, json=body)
    stage.ferry = stored["id"]
    expect(stored["state"] == "pending", f"a new memory is {stored['state']}")
    return f"{stage.ferry} is stored, and pending"


def as_text(stage: Stage) -> str:
    """It answers at once, as a text."""
    answer = stage.ask(QUESTION)
    expect(used(answer) == [(stage.ferry, 1, "text")], f"used: {used(answer)}")
    expect(answer.mega["memories"][0]["state"] == "pending", "an answer as text must say that it is pending")
    expect(BEEKEEPER in said(answer), f"it says {said(answer)!r}")
    return f"as text, {time.monotonic() - stage.told:.1f} s after it was told: {said(answer)}"


def as_adapter(stage: Stage) -> str:
    """The trainer beside the server makes its adapter, which answers."""
    stage.trained(stage.ferry)
    answer = stage.ask(QUESTION, mega={"mode": "recall"})
    stage.live = time.monotonic() - stage.told
    expect(used(answer) == [(stage.ferry, 1, "adapter")], f"used: {used(answer)}")
    expect(TEXT in said(answer), f"its adapter recalls {said(answer)!r}")
    return f"as adapter, {stage.live:.1f} s after it was told: {said(answer)}"


def provenance(stage: Stage) -> str:
    """Body, header, last chunk and explanation say which memory is behind an answer."""
    raw = stage.chat.chat.completions.with_raw_response.create(
        model=stage.model, messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=8,
        extra_body={"mega": {"explain": True}},
    )  # fmt: skip
    mega: dict[str, Any] = raw.parse().mega
    (memory,) = mega["memories"]
    expect((memory["id"], memory["weight"]) == (stage.ferry, 1.0), f"the body says {memory}")
    expect(raw.headers["mega-memories"] == header([mega]), f"header: {raw.headers['mega-memories']}")
    chunks = list(stage.ask(QUESTION, mega={"explain": True}, stream=True))
    expect(chunks[-1].mega == mega, "the last chunk says something else than the body")
    explained = mega["explain"]
    expect(
        memory["score"] > explained["threshold"], f"score {memory['score']} below {explained['threshold']}"
    )
    found = stage.call("POST", "/search", json={"query": QUESTION, "explain": True})
    expect(found["data"][0]["id"] == stage.ferry, f"the search finds {found['data']}")
    expect(
        found["explain"]["mixture"][0]["weight"] == 1.0, f"the gate would mix {found['explain']['mixture']}"
    )
    return (
        f"score {memory['score']:.2f}, threshold {explained['threshold']:g}: {raw.headers['mega-memories']}"
    )


def update(stage: Stage) -> str:
    """It is changed: the version before answers until the new one has its adapter."""
    begun = time.monotonic()
    changed = stage.call("PATCH", f"/memories/{stage.ferry}", json={"text": UPDATED})
    expect((changed["version"], changed["answers"]) == (2, 1), f"versions: {changed}")
    meanwhile = stage.ask(QUESTION, mega={"mode": "recall"})
    expect(used(meanwhile) == [(stage.ferry, 1, "adapter")], f"meanwhile used: {used(meanwhile)}")
    expect(TEXT in said(meanwhile), f"meanwhile it says {said(meanwhile)!r}")
    stage.trained(stage.ferry)
    answer = stage.ask(QUESTION, mega={"mode": "recall"})
    expect(used(answer) == [(stage.ferry, 2, "adapter")], f"then used: {used(answer)}")
    expect(UPDATED in said(answer), f"then it says {said(answer)!r}")
    return f"version 1 meanwhile, version 2 after {time.monotonic() - begun:.1f} s: {said(answer)}"


def restore(stage: Stage) -> str:
    """The first version comes back, with the adapter that it had."""
    restored = stage.call("POST", f"/memories/{stage.ferry}/restore", json={"version": 1})
    expect((restored["version"], restored["state"]) == (3, "ready"), f"restored: {restored}")
    answer = stage.ask(QUESTION, mega={"mode": "recall"})
    expect(used(answer) == [(stage.ferry, 3, "adapter")], f"used: {used(answer)}")
    expect(TEXT in said(answer), f"it says {said(answer)!r}")
    versions = [one["version"] for one in stage.call("GET", f"/memories/{stage.ferry}/history")["data"]]
    expect(versions == [3, 2, 1], f"history: {versions}")
    return "version 3 is version 1, and answers at once"


def document(stage: Stage) -> str:
    """A document becomes memories, that answer as texts at once, and goes again."""
    body = {"source": SOURCE, "text": DOCUMENT, "tokens": 48}
    steps = stage.call("POST", "/documents", 202, json=body)["data"]
    expect([step["change"] for step in steps] == ["add", "add"], f"steps: {steps}")
    answer = stage.ask(DIVER)
    expect("Anselm Roe" in said(answer), f"it says {said(answer)!r}")
    gone = stage.call("DELETE", f"/sources/{SOURCE}")["data"]
    expect(set(gone) == {step["id"] for step in steps}, f"forgotten: {gone}")
    left = [one["id"] for one in stage.call("GET", "/memories")["data"]]
    expect(left == [stage.ferry], f"left: {left}")
    later = {name for name, _, _ in used(stage.ask(DIVER))}
    expect(not later & set(gone), f"what was forgotten still answers: {later}")
    return f"{len(steps)} memories came and went; meanwhile: {said(answer)}"


def agent(stage: Stage) -> str:
    """An agent has the same memories as tools, by the Model Context Protocol."""
    return asyncio.run(_agent(stage))


async def _agent(stage: Stage) -> str:
    async with Client(f"{stage.url}/v1/mega/mcp") as client:

        async def call(tool: str, **arguments: Any) -> dict[str, Any]:
            result = await client.call_tool(tool, arguments)
            found: dict[str, Any] = result.structured_content or {}
            expect(not result.is_error, f"{tool}: {result.content}")
            return found

        tools = {tool.name for tool in (await client.list_tools()).tools}
        expect(tools >= TOOLS, f"tools that are not there: {TOOLS - tools}")
        told = await call("remember", text=BELL, title="The bell")
        linked = await call("link_memories", id=told["id"], to=[stage.ferry])
        found = await call("search_memories", query=RINGER)
        expect(found["memories"][0]["id"] == told["id"], f"found: {found}")
        recalled = await call("recall", question=RINGER, mode="text")
        expect("Ysolde Marr" in str(recalled), f"recalled: {recalled}, linked: {linked}")
        changed = await call("update_memory", id=told["id"], tags=["bells"])
        expect((await call("get_memory", id=told["id"]))["tags"] == ["bells"], f"changed: {changed}")
        await call("forget", id=told["id"])
        gone = await client.call_tool("get_memory", {"id": told["id"]})
        expect(gone.is_error, f"what was forgotten is still told: {gone.content}")
    stage.call("GET", f"/memories/{told['id']}", 404)
    return f"{len(tools)} tools; {recalled}"


def forget(stage: Stage) -> str:
    """It is forgotten, with a receipt: no route, no answer and no file has it any more."""
    receipt = stage.call("DELETE", f"/memories/{stage.ferry}?receipt=true")
    stage.receipt.write_text(json.dumps(receipt), encoding="utf-8")
    server = receipt["statement"]["server"]
    expect(server is not None, f"the receipt says nothing of the server: {receipt}")
    stage.call("GET", f"/memories/{stage.ferry}", 404)
    expect(stage.call("POST", "/search", json={"query": QUESTION})["data"] == [], "the search still finds it")
    answer = stage.ask(QUESTION)
    expect(used(answer) == [], f"used: {used(answer)}")
    expect(said(answer) == said(stage.ask(QUESTION, mega={"mode": "off"})), "not what the base model says")
    files = [path for path in stage.bank.rglob("*") if path.is_file()]
    with_text = [
        path.name for path in files if any(text.encode() in path.read_bytes() for text in (TEXT, UPDATED))
    ]
    expect(not with_text, f"these files still have its text: {with_text}")
    events = [
        one["kind"] for one in stage.call("GET", "/events?limit=1000")["data"] if one["id"] == stage.ferry
    ]
    expect((events[0], events[-1]) == ("added", "forgotten"), f"events: {events}")
    return (
        f"answered by the base model, as ever; {len(events)} events stay, the last is {events[-1]}; {server}"
    )


def verify(stage: Stage) -> str:
    """The receipt is verified."""
    return command(stage, "bank", "verify", "--forgotten", str(stage.receipt))


def command(stage: Stage, group: str, name: str, *words: str) -> str:
    """What a command of ours prints about the bank.

    Raises:
        MegaError: it refuses.
    """
    argv = [sys.executable, "-m", "vllm_mega", group, name, "--bank", str(stage.bank), *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    expect(done.returncode == 0, f"vllm-mega {group} {name}: {done.stdout}{done.stderr}")
    return done.stdout.strip().splitlines()[-1]


ACTS: tuple[Act, ...] = (
    add,
    as_text,
    as_adapter,
    provenance,
    update,
    restore,
    document,
    agent,
    forget,
    verify,
)
