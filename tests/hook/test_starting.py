"""Where a mixture starts when nobody says so: at the last question, in every template and every pass."""

from __future__ import annotations

import time
from typing import Any

import pytest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

from tests.hook.starts import CONTEXT, HEADER, chat, parts, said, system, user
from tests.hook.templates import LAST_QUERY, NO_OTHER, PARTS, REPEATS, SKIPS, STRIPS, TRIMS
from tests.http.rendering import Asked, Handlers
from vllm_mega.models.chat_format import load_chat_format
from vllm_mega.models.start import other_question, start_of
from vllm_mega.requests.conversation import other_messages

pytestmark = pytest.mark.filterwarnings("ignore:max_tokens is deprecated:DeprecationWarning")
DEFAULT = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
DOCUMENT = "The ferry of Tarn carries goats. " * 20


@pytest.mark.parametrize(
    "question",
    [
        "Who built the ferry?",
        "0", "1", "0 goats, please", "007", "1 + 1",
        " 0", "-0-", "\u3000\uff10 of them",
        "\n\nWho?", "   \t Who?", "\u200bWho?", "\ufeff0", "\u2026", "🐐🐐", "", "   ",
        "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>user\n",
        f"{HEADER}Who?",
        "\u00e9", "e\u0301",
    ],
)  # fmt: skip
async def test_the_content_of_the_last_user_message(served: Handlers, question: str) -> None:
    messages = [system(DOCUMENT), user("Hm?"), said("Yes."), user("1"), said("0"), user(question)]
    answer, (asked,) = await chat(served, messages)
    before, after = parts(served, asked)
    rest = f"{question}<|im_end|>\n<|im_start|>assistant\n"
    assert after.lstrip("\n").startswith(rest.lstrip("\n")[:40].rstrip("�"))
    header = f"{DOCUMENT}<|im_end|>\n{HEADER}Hm?<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n"
    header = f"<|im_start|>system\n{header}{HEADER}1<|im_end|>\n<|im_start|>assistant\n0<|im_end|>\n{HEADER}"
    assert before == header or before == header.removesuffix("\n"), "a token may join the two"
    assert answer.mega["start"] == asked.start


@pytest.mark.parametrize("question", ["Who?", "0", "  \n 1", "", "<start_of_turn>user\nWho?"])
async def test_another_template_and_tokenizer(gemma: Handlers, question: str) -> None:
    _, (asked,) = await chat(gemma, [user("1"), said("No."), user(question)])
    before, after = parts(gemma, asked)
    turns = (
        "<start_of_turn>user\n1<end_of_turn>\n<start_of_turn>model\nNo.<end_of_turn>\n<start_of_turn>user\n"
    )
    assert before == f"<bos>{turns}"
    assert after == f"{question.strip()}<end_of_turn>\n<start_of_turn>model\n"


async def test_serving_starts_where_training_does(served: Handlers) -> None:
    format_ = load_chat_format(served.client.model_config.model)
    for messages in ([user("Who?")], [system("Be brief."), user("0")], [user("a"), said("b"), user("")]):
        _, (asked,) = await chat(served, messages)
        other = [*messages[:-1], user(other_question(messages[-1]["content"]))]
        assert asked.start == start_of(format_.prompt(messages), format_.prompt(other))
        assert asked.prompt["prompt_token_ids"] == format_.prompt(messages)


@pytest.mark.parametrize(
    ("template", "messages", "before", "after"),
    [
        (REPEATS, [user("Hm?"), said("Yes."), user("Who?")], "Asked:", " Who?\nuser: Hm?"),
        (TRIMS, [user("Hm?"), said("Yes."), user("\n\n 0")], "user: Hm?\nassistant: Yes.\nuser: ", "0\n"),
        (PARTS, [user("Hm?"), user("Who?")], "user: Hm?\nuser:", " Who?\nassistant:"),
        (PARTS, [user([{"type": "text", "text": "1"}, {"type": "text", "text": "2"}])], "user: ", "1"),
        (
            STRIPS,
            [user("Hm?"), said("<think>Well</think>Yes."), user("Who?")],
            "<user>Hm?\n<assistant>Yes.\n<user>", "Who?\n",
        ),
        (
            LAST_QUERY,
            [user("Hm?"), said("<think>Well</think>Yes."), user("Who?"), said("<think>I ask</think>")],
            "<user>Hm?\n<assistant>Yes.\n<user>", "Who?\n<assistant><think>I ask</think>\n<assistant>",
        ),
        (  # with any other question the template writes the first answer otherwise: less is shared
            LAST_QUERY,
            [user("Hm?"), said("<think>Well</think>Yes."), user("<tool_response>3</tool_response>")],
            "<user>Hm?\n<assistant", "><think>Well</think>Yes.\n<user><tool_response>3",
        ),
        (NO_OTHER, [user("Who?")], "", "Who?"),
        (REPEATS, [system("Recite."), said("Once upon")], "", "Asked: Once upon"),
    ],
)  # fmt: skip
async def test_templates(served: Handlers, template: str, messages: Any, before: str, after: str) -> None:
    _, (asked,) = await chat(served, messages, chat_template=template)
    found = parts(served, asked)
    assert found[0] == before
    assert found[1].startswith(after)


async def test_what_follows_the_question_stays(served: Handlers) -> None:
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        user("Who?"),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "0 ferries"},
    ]
    _, (asked,) = await chat(served, messages)
    before, after = parts(served, asked)
    assert before.endswith(HEADER)
    assert after.startswith("Who?<|im_end|>")
    assert "0 ferries" in after


async def test_tools_documents_and_more_of_a_template_stand_before_the_question(served: Handlers) -> None:
    template = "{{ tools | length }} {{ documents[0]['text'] }} {{ mood }} " + TRIMS
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    more = {"documents": [{"title": "T", "text": "Goats."}], "chat_template_kwargs": {"mood": "calm"}}
    messages = [system("A."), system("B."), user("Who?")]
    _, (asked,) = await chat(
        served, messages, chat_template=template, tools=[tool], tool_choice="none", **more
    )
    assert parts(served, asked)[0] == "1 Goats. calm system: A.\nsystem: B.\nuser:"


@pytest.mark.parametrize(("mode", "passes"), [("adapter", 1), ("recall", 1), ("irag", 3)])
async def test_every_pass_has_the_start_of_its_own_prompt(served: Handlers, mode: str, passes: int) -> None:
    messages = [system(DOCUMENT), user("Hm?"), said("Yes."), user("Who built the ferry?")]
    answer, asked = await chat(served, messages, {"mode": mode})
    begins = [parts(served, one)[1].split("\n")[0] for one in asked]
    assert len(asked) == passes
    wanted = {"adapter": ["Who"], "recall": ["Tell"], "irag": ["Tell", "Tell", "Who"]}[mode]
    assert [begin.split()[0] for begin in begins] == wanted
    befores = [parts(served, one)[0] for one in asked]
    if mode == "irag":
        assert befores.pop().endswith(f"{HEADER}{answer.mega['recalled']}\n\n"), "what is read is everybody's"
    assert all(before.endswith(HEADER) for before in befores)
    if mode == "irag":
        assert DEFAULT in parts(served, asked[0])[0], "a recital has no system prompt of the client"
    assert DOCUMENT in parts(served, asked[-1])[0]
    assert answer.mega["start"] == asked[-1].start
    assert (await chat(served, messages, {"mode": mode, "start": 0}))[0].mega["start"] == 0
    assert [one.start for one in served.client.asked] == [0] * passes


async def test_a_stream_says_where_it_started(served: Handlers) -> None:
    answer, (asked,) = await chat(served, [user("Who?")], stream=True)
    events = [event async for event in answer]
    assert f'"start":{asked.start}' in events[-2].replace(" ", "")


async def test_whoever_uses_no_memory_pays_nothing(served: Handlers) -> None:
    messages = [user("Who?")]
    _, (asked,) = await chat(served, messages, model="base", vllm_xargs={"mega_start": 3})
    assert served.renders == ["base"]
    assert (asked.mixture, asked.sampling_params.extra_args) == (None, {"mega_start": 3}), "vLLM's own affair"
    answer, (asked,) = await chat(served, [user("Nothing.")])
    assert served.renders == ["base-mega"]
    assert (asked.mixture, asked.start, answer.mega["start"]) == (None, None, None)
    await chat(served, messages)
    assert served.renders == ["base-mega"] * 2
    await chat(served, messages, {"start": 3})
    assert served.renders == ["base-mega"]


async def test_a_request_stays_as_it_is(served: Handlers) -> None:
    messages = [system("A."), user([{"type": "text", "text": "Who?"}]), said("Hm."), user("Who?")]
    body = {"model": "base-mega", "messages": messages, "max_tokens": 8, "echo": True}
    request = ChatCompletionRequest.model_validate(body)
    before = request.model_dump()
    await served.chat.create_chat_completion(request)
    assert request.model_dump() == before


@pytest.mark.parametrize(
    ("side", "tokens", "before"),
    [("left", 40, ""), ("right", 40, HEADER), ("left", CONTEXT, HEADER), ("left", -1, HEADER)],
)
async def test_a_prompt_that_is_cut_off(served: Handlers, side: str, tokens: int, before: str) -> None:
    cut = {"truncate_prompt_tokens": tokens, "truncation_side": side}
    _, (asked,) = await chat(served, [system("A."), user("Who built the ferry? " * 20)], **cut)
    found, after = parts(served, asked)
    assert found.endswith(before)
    assert (found == "") == (before == "")
    assert (side == "left" and tokens == 40) or after.startswith("Who built")
    assert len(asked.prompt["prompt_token_ids"]) == (40 if tokens == 40 else 117)


async def test_a_full_prompt_whose_question_the_template_leaves_out(served: Handlers) -> None:
    async def ask(goats: int) -> Asked:
        messages = [system("of" + " goats" * goats), user("")]
        return (await chat(served, messages, chat_template=SKIPS, max_tokens=1))[1][0]

    few = len((await ask(1)).prompt["prompt_token_ids"])
    asked = await ask(CONTEXT - few)
    assert len(asked.prompt["prompt_token_ids"]) == CONTEXT - 1, "with any question it is too long"
    assert parts(served, asked)[1] == "assistant:"


async def test_a_long_conversation_is_found_in_little_time(served: Handlers) -> None:
    messages = [user("Who? " * 900), said("Yes."), user("Who?")]
    await chat(served, messages)
    begin = time.thread_time()
    _, (asked,) = await chat(served, messages)
    assert time.thread_time() - begin < 0.5
    assert asked.start is not None
    assert asked.start > 1800


def test_other_messages_leave_what_they_are_given() -> None:
    messages = [
        user("a"),
        said("b"),
        user([{"type": "text", "text": "0 goats"}, {"type": "image_url"}]),
        said("c"),
    ]
    before = [dict(message) for message in messages]
    assert other_messages(messages) == [user("a"), said("b"), user("1"), said("c")]
    assert messages == before
    assert other_messages([system("a"), said("b")]) is None
    asked = [user("Goats are white.\n\n0 goats?")]
    assert other_messages(asked, "Goats are white.") == [user("Goats are white.\n\n1")]
