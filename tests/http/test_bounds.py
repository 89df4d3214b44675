"""What a client sends may have any size: it is bounded before it is looked at, and looked at in linear time.

Time is that of the processor in this thread, where every other request of a server would wait for it.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from tests.http.running_app import build
from vllm_mega.bank.layout import check_links
from vllm_mega.config import MegaSettings, repeated
from vllm_mega.engine.upstream.applying import apply_to_server
from vllm_mega.engine.upstream.patch import Patch
from vllm_mega.engine.upstream.patches import SERVER_PATCHES
from vllm_mega.engine.upstream.replacements import MESSAGE
from vllm_mega.http.chat import MegaChat
from vllm_mega.requests.schemas import make_plan, parse_mega
from vllm_mega.requests.wellformed import check_body

SETTINGS = MegaSettings(bank="bank")
IDS = [f"memory-{n}" for n in range(40_000)]
MANY = {"memories": [{"id": name} for name in IDS]}
SLOTS = 64


def refused(call: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(ValueError, match=r"more than once|slots"):
        call(*arguments)


def seconds(call: Callable[[], object]) -> float:
    """Of the processor, at best of three."""
    found = []
    for _ in range(3):
        begin = time.thread_time()
        call()
        found.append(time.thread_time() - begin)
    return min(found)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Any:
    """vLLM's app with our handler for chats; its engine is never asked."""
    app = build(monkeypatch, settings='{"mega": {"bank": "bank", "max_requests": 8}}')
    chat: Any = MegaChat.__new__(MegaChat)
    chat.mega = SimpleNamespace(settings=SETTINGS, slots=SLOTS)
    models = {"base": False, "base-mega": True}
    chat.models = SimpleNamespace(_has_memory=models.get, is_base_model=models.__contains__, lora_requests={})
    app.state.openai_serving_chat = chat
    return app


async def longest_hold(work: asyncio.Task[Any]) -> float:
    """Seconds of the processor that the event loop went without a turn, until `work` is done."""
    longest, last = 0.0, time.thread_time()
    while not work.done():
        await asyncio.sleep(0)
        now = time.thread_time()
        longest, last = max(longest, now - last), now
    return longest


async def post(app: Any, body: dict[str, Any]) -> tuple[httpx.Response, float, float]:
    """The answer, the seconds that it took, and the longest hold of the event loop."""
    data = json.dumps(body)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
        await client.get("/version")
        begin = time.thread_time()
        header = {"Content-Type": "application/json"}
        task = asyncio.create_task(client.post("/v1/chat/completions", content=data, headers=header))
        held = await longest_hold(task)
        return await task, time.thread_time() - begin, held


@pytest.mark.parametrize("model", ["base", "base-mega"])
async def test_40_000_ids_are_refused_at_once(app: Any, model: str) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "Who?"}]}
    # What vLLM itself needs to parse a body of this size is not ours.
    parsing = min([(await post(app, {**body, "mega": {"unknown": MANY}}))[2] for _ in range(3)])
    answers = [
        await post(app, {**body, "mega": MANY}) for _ in range(3)
    ]  # the garbage of others may be collected
    for answer, _, _ in answers:
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, "mega.memories")
        assert "40000 memories, but the engine has 64 slots" in error["message"]
    assert min(took for _, took, _ in answers) < 0.05
    assert min(held for _, _, held in answers) < 0.01 + parsing
    assert seconds(lambda: refused(make_plan, MANY, SETTINGS, SLOTS)) < 0.001


def test_a_body_is_looked_at_in_less_time_than_it_is_parsed() -> None:
    body = json.dumps({"mega": MANY}).encode()
    assert seconds(lambda: check_body(body)) < seconds(lambda: json.loads(body))


@pytest.mark.parametrize(
    "call",
    [
        lambda: parse_mega(MANY),
        lambda: refused(parse_mega, {"memories": [*MANY["memories"], {"id": IDS[0]}]}),
        lambda: check_links(IDS, "another"),
        lambda: refused(check_links, [*IDS, IDS[-1]], "another"),
    ],
    ids=["memories", "a memory twice", "links", "a link twice"],
)
def test_names_are_compared_in_linear_time(call: Callable[[], object]) -> None:
    assert seconds(call) < 0.5, "in quadratic time it takes 10 s"


def test_what_comes_twice() -> None:
    assert repeated(["b", "a", "c", "a", "b", "a"]) == ["a", "b"]
    assert repeated(IDS) == []


PATHS = "/a" * 20_000


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mega", {"mode": PATHS}),
        ("mega", {"namespace": PATHS}),
        ("mega", {PATHS: 1}),
        ("n", PATHS),
        ("messages", PATHS),
    ],
)
async def test_an_error_does_not_repeat_all_that_was_sent(app: Any, field: str, value: object) -> None:
    """vLLM cleans messages with patterns of cubic time, so the freeze is in what looks like a path."""
    body = {"model": "base-mega", "messages": [{"role": "user", "content": "Who?"}]}
    answer, _, held = await post(app, {**body, field: value})
    assert answer.status_code in (400, 404, 500)
    assert len(answer.text) < 2 * MESSAGE
    assert held < 0.3


@pytest.mark.parametrize("patch", SERVER_PATCHES, ids=lambda patch: patch.module)
def test_every_message_is_short_before_it_is_cleaned(patch: Patch) -> None:
    apply_to_server()
    clean = importlib.import_module(patch.module).sanitize_message
    assert clean("the file /home/me/x.py is a secret") == "the file <path> is a secret"
    assert seconds(lambda: clean(f"The model `{PATHS}` does not exist.")) < 0.3
