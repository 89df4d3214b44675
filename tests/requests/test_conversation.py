"""What the gate compares, and how the modes rewrite a conversation."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from vllm_mega import prompts
from vllm_mega.errors import RequestError
from vllm_mega.requests import conversation

IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Answer in rhyme."},
    {"role": "user", "content": "Who keeps the bees?"},
    {"role": "assistant", "content": "Old Marlow does."},
    {
        "role": "user",
        "content": [{"type": "text", "text": "And the"}, IMAGE, {"type": "text", "text": "goats?"}],
    },
    {"role": "tool", "tool_call_id": "t", "content": "42"},
]


def test_query_is_the_last_user_message() -> None:
    assert conversation.user_text(TALK) == "And the\ngoats?"
    assert conversation.user_text(TALK, 2) == "Who keeps the bees?\nAnd the\ngoats?"
    assert conversation.user_text(TALK, 64) == "Who keeps the bees?\nAnd the\ngoats?"


def test_dialogue_is_what_was_said_newest_first() -> None:
    said = ["And the\ngoats?", "Old Marlow does.", "Who keeps the bees?"]
    assert conversation.dialogue_text(TALK, 8) == "\n".join(said)
    assert conversation.dialogue_text(TALK, 2) == "\n".join(said[:2])
    assert conversation.dialogue_text(TALK, 1) is None
    assert conversation.dialogue_text(TALK, 0) is None
    assert conversation.dialogue_text(TALK[:2], 8) is None, "one message is no dialogue"
    assert conversation.dialogue_text([TALK[0], TALK[4]], 8) is None


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "system", "content": "You know all."}],
        [{"role": "user", "content": [IMAGE]}],
        [{"role": "user", "content": "  \n"}],
        [{"role": "user", "content": None}],
        [{"role": "user"}],
    ],
)
def test_no_user_text(messages: list[dict[str, Any]]) -> None:
    assert conversation.user_text(messages) is None
    with pytest.raises(RequestError) as refusal:
        conversation.recall_messages(messages)
    assert refusal.value.param == "messages"


def test_bare_strings_are_text_parts() -> None:
    assert conversation.user_text([{"role": "user", "content": ["one", "two"]}]) == "one\ntwo"


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("Once", ["Once"]),
        (["Once"], ["Once"]),
        (["Once", "Twice"], ["Once", "Twice"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        ([[]], [[]]),
    ],
)
def test_prompts(prompt: object, prompts: list[Any]) -> None:
    assert conversation.prompts_of(prompt) == prompts


@pytest.mark.parametrize(
    ("prompt", "param"), [(None, "prompt"), ([], "prompt"), (["a", "\ud83d"], "prompt[1]")]
)
def test_what_is_no_prompt_is_refused(prompt: object, param: str) -> None:
    with pytest.raises(RequestError) as refusal:
        conversation.prompts_of(prompt)
    assert refusal.value.param == param


def test_recall_rewrites_the_last_question_only() -> None:
    before = copy.deepcopy(TALK)
    after = conversation.recall_messages(TALK)
    assert before == TALK, "the input was changed"
    assert after[:3] == TALK[:3]
    assert after[4:] == TALK[4:]
    text = prompts.MEMORY_PROMPT
    assert after[3] == {"role": "user", "content": [{"type": "text", "text": text}, IMAGE]}


def test_recall_request_is_the_bare_trained_prompt() -> None:
    assert conversation.recall_request(TALK) == [{"role": "user", "content": prompts.MEMORY_PROMPT}]


def test_irag_puts_the_recital_into_the_context() -> None:
    talk = TALK[:2]
    after = conversation.informed_messages(talk, "Marlow keeps nine hives.")
    assert after == [TALK[0], *prompts.irag_messages("Who keeps the bees?", "Marlow keeps nine hives.")]
    assert "Marlow keeps nine hives." in str(after[-1]["content"])


def test_recitals_leave_half_of_the_room() -> None:
    assert conversation.recall_tokens(256) == 64
    assert [n * conversation.recall_tokens(256, n) for n in (1, 2, 4)] == [64, 128, 128]
    assert conversation.recall_tokens(8192, 4) == 256
    assert conversation.recall_tokens(64) == 16
    for room, recitals in ((63, 1), (100, 4), (0, 1)):
        with pytest.raises(RequestError, match=f"leave {room} tokens .* too few for {recitals}") as refusal:
            conversation.recall_tokens(room, recitals)
        assert refusal.value.param == "messages"
    assert conversation.context_of([], ["Once."], ()) == "Once."
    assert conversation.context_of([], ["Once.", "Twice."], ()) == "Once.\n\nTwice."


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("<think>\n\n</think>\n\nOnce.", "Once."),
        ("\n</think>\n\nOnce.", "Once."),  # the prompt has opened it
        (" Once.\n", "Once."),
        ("<think>\nHm.\n</think>\n\nOnce.", "<think>\nHm.\n</think>\n\nOnce."),
        ("Once </think> upon.", "Once </think> upon."),
    ],
)
def test_what_opens_a_recital_does_not_get_into_the_context(reply: str, said: str) -> None:
    assert conversation.context_of([], [reply, "Twice."], ()) == f"{said}\n\nTwice."
