"""Streams, recitals and tools."""

from __future__ import annotations

import json
import time
from typing import Any

import openai
import pytest

from tests.http.asking import MEGA, TOKENS, ask, refused, stream, text, used
from tests.http.live_bank import ASKED

pytestmark = pytest.mark.engine


def test_streaming_says_the_same_and_ends_with_mega(client: openai.OpenAI) -> None:
    whole = ask(client, ASKED["bakery"])
    said, chunks = stream(ask(client, ASKED["bakery"], stream=True))
    assert said == text(whole)
    assert {c.model for c in chunks} == {MEGA}
    assert ["mega" in c.model_extra for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].mega == whole.mega


def test_streaming_with_usage_and_several_choices(client: openai.OpenAI) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}, "n": 2, "temperature": 1.0}
    _, chunks = stream(ask(client, ASKED["bakery"], **options))
    assert chunks[-1].usage.completion_tokens > TOKENS
    assert chunks[-1].mega["memories"][0]["id"] == "bakery"
    assert not any("mega" in c.model_extra for c in chunks[:-1])
    assert {c.choices[0].index for c in chunks if c.choices} == {0, 1}


def test_recall_and_irag(client: openai.OpenAI) -> None:
    question = ASKED["comet"]
    plain, recall, irag = (ask(client, question, mega={"mode": m}) for m in ("adapter", "recall", "irag"))
    assert used(plain) == used(recall) == used(irag)
    assert max(plain.usage.prompt_tokens, recall.usage.prompt_tokens) < irag.usage.prompt_tokens
    assert irag.mega["recalled"]
    assert "recalled" not in recall.mega
    assert plain.usage.completion_tokens <= TOKENS < irag.usage.completion_tokens, "recitals count"
    usage = {"include_usage": True}
    said, chunks = stream(ask(client, question, mega={"mode": "irag"}, stream=True, stream_options=usage))
    assert (said, chunks[-1].mega) == (text(irag), irag.mega)
    assert chunks[-1].usage == irag.usage


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("mode", "more"),
    [
        ("irag", {"n": 0}),
        ("irag", {"max_tokens": 300}),
        ("irag", {"prompt": 40}),
        ("adapter", {"prompt": 10**6}),
    ],
)
def test_what_cannot_be_answered_costs_no_recital(
    client: openai.OpenAI, mode: str, more: dict[str, Any], stream: bool
) -> None:
    question = f"{ASKED['comet']} " * more.get("prompt", 1)
    more = {name: value for name, value in more.items() if name != "prompt"}
    begin = time.monotonic()
    refused(lambda: ask(client, question[:5_000_000], mega={"mode": mode}, stream=stream, **more), 400)
    assert time.monotonic() - begin < 5


def test_irag_recites_each_of_two_memories_alone(client: openai.OpenAI) -> None:
    def recalled(*ids: str) -> str:
        memories = [{"id": name, "weight": 1 / len(ids)} for name in ids]
        answer = ask(client, ASKED["comet"], mega={"mode": "irag", "memories": memories})
        assert set(used(answer)) == set(ids)
        return str(answer.mega["recalled"])

    # In bfloat16 the batch decides about later tokens; tests/test_offline.py compares all, in float32.
    both, bakery, comet = recalled("comet", "bakery"), recalled("bakery"), recalled("comet")
    assert both.startswith(bakery[:12])
    assert f"\n\n{comet[:12]}" in both
    assert bakery[:12] != comet[:12]


def test_a_named_tool_is_called_with_memories(client: openai.OpenAI) -> None:
    parameters = {
        "type": "object",
        "properties": {"metal": {"enum": ["copper", "silver"]}},
        "required": ["metal"],
        "additionalProperties": False,
    }
    tool = {"type": "function", "function": {"name": "buy_wire", "strict": True, "parameters": parameters}}
    choice = {"type": "function", "function": {"name": "buy_wire"}}
    answer = ask(client, ASKED["lighthouse"], tools=[tool], tool_choice=choice, max_tokens=64)
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "buy_wire"
    assert json.loads(call.function.arguments)["metal"] in {"copper", "silver"}
    assert used(answer) == ["lighthouse"]
