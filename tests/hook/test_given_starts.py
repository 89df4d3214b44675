"""Where a mixture starts when a client says so: in chats, and in completions, which have no question."""

from __future__ import annotations

from typing import Any

import pytest
from vllm import SamplingParams
from vllm.entrypoints.serve.engine.protocol import ErrorResponse

from tests.hook.starts import chat, complete, parts, user
from tests.http.rendering import Handlers
from tests.requests.decisions import decision_of
from vllm_mega.engine.adapters import to_lora_request
from vllm_mega.engine.private import PRIVATE
from vllm_mega.hook.routed import Route, started

pytestmark = pytest.mark.filterwarnings("ignore:max_tokens is deprecated:DeprecationWarning")


@pytest.mark.parametrize(
    ("mode", "start", "reason"),
    [
        ("adapter", {"character": 3}, "give a token"),
        ("adapter", 10_000, "the prompt has 3"),
        ("off", 10_000, "the prompt has 3"),
        ("recall", 5, "mode recall rewrites the prompt"),
        ("irag", {"token": 5}, "mode irag rewrites the prompt"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_starts_that_a_chat_does_not_have(
    served: Handlers, mode: str, start: Any, reason: str, stream: bool
) -> None:
    answer, asked = await chat(served, [user("Who?")], {"mode": mode, "start": start}, stream=stream)
    assert isinstance(answer, ErrorResponse)
    assert (answer.error.code, answer.error.param, asked) == (400, "mega.start", [])
    assert reason in answer.error.message


@pytest.mark.parametrize(("start", "used"), [(0, 0), (5, 5), ({"token": 7}, 7)])
async def test_a_client_may_say_where(served: Handlers, start: Any, used: int) -> None:
    answer, (asked,) = await chat(served, [user("Who?")], {"start": start})
    assert (answer.mega["start"], asked.start) == (used, used)
    tokens = len(asked.prompt["prompt_token_ids"])
    answer, (asked,) = await chat(served, [user("Who?")], {"start": tokens})
    assert asked.start == tokens, "only what is generated"


@pytest.mark.parametrize(
    ("name", "value", "instead"), [("mega_start", 3, "mega.start"), ("mega_parts", ["a/b/1"], "leave it out")]
)
async def test_nobody_tells_the_engine_himself(served: Handlers, name: str, value: Any, instead: str) -> None:
    for ask in (
        chat(served, [user("Who?")], vllm_xargs={name: value}),
        complete(served, "Who?", vllm_xargs={name: value}),
    ):
        answer, asked = await ask
        assert isinstance(answer, ErrorResponse)
        assert (answer.error.code, answer.error.param, asked) == (400, f"vllm_xargs.{name}", [])
        assert instead in answer.error.message
    _, (asked,) = await chat(served, [user("Who?")], vllm_xargs={"other": 1})
    said = {name: value for name, value in asked.sampling_params.extra_args.items() if name != PRIVATE}
    assert said == {"other": 1, "mega_start": asked.start}


PROMPT = "The ferry of Tarn carries goats."
"""Tokens: The | ferry | of | T | arn | carries | goats | ."""


@pytest.mark.parametrize(
    ("prompt", "start", "used"),
    [
        (PROMPT, None, 0),
        (PROMPT, 0, 0),
        (PROMPT, 4, 4),
        (PROMPT, {"token": 8}, 8),
        (PROMPT, {"character": 0}, 0),
        (PROMPT, {"character": len("The ferry")}, 2),
        (PROMPT, {"character": len("The ferry ")}, 2),
        (PROMPT, {"character": len("The fer")}, 1),
        (PROMPT, {"character": len(PROMPT)}, 8),
        ([1, 2, 3], 2, 2),
    ],
)
async def test_completions(served: Handlers, prompt: Any, start: Any, used: int) -> None:
    answer, (asked,) = await complete(served, prompt, {"memories": [{"id": "a"}], "start": start})
    assert (answer.mega["start"], asked.start) == (used, used)


async def test_one_start_for_several_prompts(served: Handlers) -> None:
    prompts = [PROMPT, "Nothing, and then more of it.", "Goats of the ferry"]
    own = [PROMPT, "It is the night of goats.", "Goats of the ferry"]
    answer, asked = await complete(served, prompts, {"start": 3})
    assert [one["start"] for one in answer.mega] == [3, None, 3]
    assert [one.start for one in asked] == [3, None, 3]
    answer, asked = await complete(served, own, {"memories": [{"id": "a"}], "start": {"character": 5}})
    assert [one["start"] for one in answer.mega] == [one.start for one in asked]
    assert [parts(served, one)[0] for one in asked] == ["The", "It is", "Goats"]
    for start in ({"character": 19}, 6):
        answer, asked = await complete(served, prompts, {"start": start})
        assert (answer.error.code, answer.error.param, asked) == (400, "mega.start", [])


@pytest.mark.parametrize(
    ("prompt", "start", "more", "reason"),
    [
        (PROMPT, 9, {}, "the prompt has 8 tokens: give 0 to 8"),
        (PROMPT, {"character": 33}, {}, "a prompt has 32: give 0 to 32"),
        ([1, 2, 3], 4, {}, "the prompt has 3"),
        ([1, 2, 3], {"character": 1}, {}, "texts"),
        ([[1, 2], [3]], {"character": 0}, {}, "texts"),
        (PROMPT, {"character": 3}, {"truncate_prompt_tokens": 5}, "whole"),
    ],
)
async def test_starts_that_a_prompt_does_not_have(
    served: Handlers, prompt: Any, start: Any, more: Any, reason: str
) -> None:
    answer, asked = await complete(served, prompt, {"memories": [{"id": "a"}], "start": start}, **more)
    assert isinstance(answer, ErrorResponse)
    assert (answer.error.code, answer.error.param, asked) == (400, "mega.start", [])
    assert reason in answer.error.message


@pytest.mark.parametrize("memories", [None, [{"id": "a"}]])
async def test_beam_search_keeps_the_start(served: Handlers, memories: Any) -> None:
    mega = {"start": 4, "memories": memories}
    await complete(served, PROMPT, mega, use_beam_search=True, n=2, max_tokens=1)
    assert {one.start for one in served.client.asked} == {4}
    _, asked = await chat(served, [user("Who?")], {"memories": memories}, use_beam_search=True, n=2)
    assert {one.start for one in asked} == {(await chat(served, [user("Who?")]))[1][0].start}


def test_what_the_server_says_is_the_last_word() -> None:
    given = SamplingParams(extra_args={"mega_start": 9, "other": 1})
    mixture = to_lora_request(decision_of({"a": 1.0}).mixture)
    assert started(given, Route(mixture, 4)).extra_args == {"mega_start": 4, "other": 1}
    assert given.extra_args == {"mega_start": 9, "other": 1}
    assert started(given, Route(None, 4)) is given
    told = started(given, Route(mixture, 4, (2, "abc"))).extra_args
    assert told == {"mega_start": 4, PRIVATE: "2:abc", "other": 1}
    assert started(SamplingParams(), Route(None, 4, (2, "abc"))).extra_args == {PRIVATE: "2:abc"}
    told = started(given, Route(None, 4, None, ("default/ferry/1",))).extra_args
    assert told == {"mega_start": 9, "other": 1, "mega_parts": ["default/ferry/1"]}
