"""What is refused before anything of a request is used, and where it says that the trouble is."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

from vllm_mega.errors import RequestError
from vllm_mega.requests.wellformed import DEEPEST, check_body, check_characters, depth, usual_messages

HALF = "\ud83d"
PAIR = "\U0001f512"


def refused(body: bytes) -> RequestError:
    with pytest.raises(RequestError) as error:
        check_body(body)
    str(error.value).encode()
    assert error.value.param
    error.value.param.encode()
    return error.value


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ({"messages": [{"role": "user", "content": "a"}, {"content": f"x{HALF}"}]}, "messages[1].content"),
        ({"messages": [{"content": [{"type": "text", "text": "\udc00"}]}]}, "messages[0].content[0].text"),
        ({"mega": {HALF: 1}}, "mega"),
        ({HALF: 1}, "body"),
        ({"prompt": ["a", HALF]}, "prompt[1]"),
        ({"a": "\udd12\ud83d"}, "a"),  # both halves, the wrong way round
        (HALF, "body"),
        ([[HALF]], "[0][0]"),
    ],
)
def test_half_a_pair_is_refused_with_its_place(value: Any, param: str) -> None:
    error = refused(json.dumps(value).encode())
    assert error.param == param
    assert "surrogate" in str(error)


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"a": PAIR}).encode(),
        json.dumps({PAIR: PAIR}, ensure_ascii=False).encode(),
        b'{"a": "\\\\ud83d"}',  # a backslash, and then letters
        b'{"a": "\\ud83d"',  # no JSON: who parses it says so
        b"",
        b"\xef\xbb\xbf{}",
        json.dumps(["[" * 500] * 500).encode(),
        json.dumps([[] for _ in range(500)]).encode(),
    ],
)
def test_the_rest_is_left_as_it_is(body: bytes) -> None:
    check_body(body)


@pytest.mark.parametrize(
    "body",
    ['{"a": "é"}'.encode("latin-1"), b'{"a": "\xed\xa0\xbd"}', json.dumps({"a": HALF}).encode("utf-16")],
)
def test_other_encodings_are_refused(body: bytes) -> None:
    error = refused(body)
    assert error.param == "body"
    assert "UTF-8" in str(error)


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":', '["]]]]",', '["\\"]]]]",'])
def test_deep_nesting_is_refused(opening: str) -> None:
    closing = {"[": "]", "{": "}"}
    inside = "".join(closing[c] for c in reversed(opening) if c in closing)
    for much in (DEEPEST, 5000, 100_000):
        assert "inside each other" in str(refused((opening * much + "[]" + inside * much).encode()))
    level = DEEPEST // 2 - 1
    check_body((opening * level + "1" + "]" * level).encode())


def test_it_takes_no_time_that_a_client_could_choose() -> None:
    """Ends of strings that never come, escapes, brackets, and long names of fields around many values."""
    size = 400_000
    bodies = [
        b'"' + b'\\"' * size, b'["' * size, b"[]" * size, b'"' * size, b"\\" * size,
        json.dumps({"k" * size: [[PAIR]] * (size // 8)}).encode(),
    ]  # fmt: skip
    started = time.process_time()
    for body in bodies:
        check_body(body) if depth(body) <= DEEPEST else refused(body)
    assert time.process_time() - started < 3


def test_a_value_may_be_deeper_than_python_calls() -> None:
    value: Any = HALF
    for _ in range(5000):
        value = [value]
    with pytest.raises(RequestError):
        check_characters(value)


def as_vllm_has_them(messages: list[Any]) -> list[Any]:
    return list(ChatCompletionRequest.model_validate({"model": "m", "messages": messages}).messages)


IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}


@pytest.mark.parametrize("through", [list, as_vllm_has_them])
@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, IMAGE]},
        {"role": "assistant", "content": None},
        {"role": "assistant"},
        {"role": "tool", "content": "a", "tool_call_id": "t"},
        {"role": "critic", "content": "a"},
    ],
)
def test_usual_messages_stay_as_they_are(message: Any, through: Any) -> None:
    assert usual_messages(through([message])) == [message]


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({"text": "a"}, ".content"),
        ([{"type": "text"}], ".content[0].text"),
        ([{"type": "text", "text": None}], ".content[0].text"),
        ([{"type": "text", "text": ["a"]}], ".content[0].text"),
        (["a", 3], ".content[1]"),
        (3, ".content"),
        ([[HALF]], ".content[0]"),
        (HALF, ".content"),
        ([{"type": "text", "text": HALF}], ".content[0].text"),
    ],
)
def test_unusual_contents_are_refused(content: Any, place: str) -> None:
    good = {"role": "user", "content": "a"}
    with pytest.raises(RequestError) as error:
        usual_messages([good, {"role": "user", "content": content}])
    assert error.value.param == f"messages[1]{place}"


@pytest.mark.parametrize(
    "content", [{"text": "a"}, [{"type": "text"}], [{"type": "text", "text": None}], [3], [["a"]]]
)
def test_what_pydantic_would_refuse_later_is_refused_now(content: Any) -> None:
    with pytest.raises(RequestError) as error:
        usual_messages(as_vllm_has_them([{"role": "user", "content": content}]))
    assert str(error.value.param).startswith("messages[0].content")


@pytest.mark.parametrize("message", ["a", None, 3, [], {"content": "a"}, {"role": 3, "content": "a"}])
def test_what_is_no_message_is_refused(message: Any) -> None:
    with pytest.raises(RequestError) as error:
        usual_messages([message])
    assert error.value.param == "messages[0]"
