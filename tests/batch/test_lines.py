"""Lines of `vllm-mega query`: what is read, what is refused, what is written."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from vllm_mega.batch.lines import CHAT, COMPLETIONS, Job, Reply, detect, output_line, read_jobs
from vllm_mega.config import MegaSettings
from vllm_mega.errors import RequestError

SETTINGS = MegaSettings(bank="bank")
DEFAULTS = {"model": "m-mega", "temperature": 0.0}


def jsonl(*lines: object) -> str:
    return "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)


def batch(custom_id: str = "a", **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": {"messages": [], **body}}


def test_prompts_and_messages() -> None:
    talk = [{"role": "system", "content": "s"}, {"role": "user", "content": "why?"}]
    jobs = read_jobs(
        jsonl({"prompt": "who?"}, "", {"id": "x", "messages": talk, "mega": {"mode": "off"}}),
        DEFAULTS,
        SETTINGS,
    )
    assert jobs == [
        Job(1, CHAT, {**DEFAULTS, "messages": [{"role": "user", "content": "who?"}]}, "who?"),
        Job("x", CHAT, {**DEFAULTS, "messages": talk, "mega": {"mode": "off"}}, "why?"),
    ]


def test_only_newlines_end_lines() -> None:
    text = '{"prompt": "a\u2028b\x85c"}\r\n{"prompt": "d"}\r\n'
    assert [job.prompt for job in read_jobs(text, DEFAULTS, SETTINGS)] == ["a\u2028b\x85c", "d"]


def test_openai_lines_keep_their_body() -> None:
    line = {**batch("b", prompt="p", model="m", seed=1), "url": COMPLETIONS}
    jobs = read_jobs(jsonl(batch("a"), line), DEFAULTS, SETTINGS)
    assert jobs[0] == Job("a", CHAT, {"model": "m-mega", "messages": []}, None)
    assert jobs[1] == Job("b", COMPLETIONS, {"messages": [], "prompt": "p", "model": "m", "seed": 1}, None)


@pytest.mark.parametrize(
    ("line", "form"), [(batch(), "openai-batch"), ({"prompt": "a"}, "lines"), ("{", "lines")]
)
def test_detect(line: object, form: str) -> None:
    assert detect(jsonl(line)) == form


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "truncated"),
        ("[]", "Expected `object`"),
        ({}, "`prompt` or `messages`"),
        ({"prompt": "a", "messages": []}, "only one"),
        ({"prompt": 3}, "got `int` - at `$.prompt`"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]},
            "messages[0].content[0].text",
        ),
        ({"messages": [{"content": "a"}]}, "messages[0]"),
        ({"promt": "a"}, "unknown field `promt`"),
        ({"prompt": "a", "mega": {"mode": "x"}}, "mega.mode"),
        ({"prompt": "a", "mega": 1}, "mega"),
        ({"id": "first", "prompt": "a"}, "line 1 has the same id, 'first'"),
    ],
)
def test_bad_lines_are_refused_with_their_number(line: object, reason: str) -> None:
    with pytest.raises(RequestError) as refusal:
        read_jobs(jsonl({"id": "first", "prompt": "a"}, line), DEFAULTS, SETTINGS)
    assert "1 of 2 lines are wrong" in str(refusal.value)
    assert "line 2: " in str(refusal.value)
    assert reason in str(refusal.value)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({**batch("x"), "method": "GET"}, "'GET'"),
        ({**batch("x"), "method": None}, "None"),
        ({**batch("x"), "url": "/v1/embeddings"}, "/v1/embeddings"),
        ({**batch("x"), "url": ["/v1"]}, "/v1"),
        ({"custom_id": "x", "method": "POST"}, "url must be"),
        ({**batch("x"), "body": [1]}, "body must be an object"),
        (batch("x", stream=True), "streamed"),
        (batch("x", mega={"top_k": 0}), "top_k"),
        (batch("x", mega={"mode": "dream"}), "dream"),
    ],
)
def test_an_openai_line_that_is_no_request_is_answered_with_an_error(line: object, reason: str) -> None:
    good, bad, last = read_jobs(jsonl(batch("a"), line, batch("b")), DEFAULTS, SETTINGS, "openai-batch")
    assert (good.refusal, last.refusal) == (None, None)
    assert bad.refusal is not None
    assert reason in bad.refusal.message
    out = output_line(bad, bad.refusal)
    assert (out["custom_id"], out["response"]["status_code"]) == ("x", 400)
    assert reason in out["error"]["error"]["message"]
    assert bad.is_answered_by(out)
    with pytest.raises(RequestError, match=f"none of 1 lines is a request; the first: .*{re.escape(reason)}"):
        read_jobs(jsonl(line), DEFAULTS, SETTINGS, "openai-batch")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"prompt": "a"}, "custom_id"),
        ({**batch(), "custom_id": 3}, "custom_id"),
        ("[]", "Expected `object`"),
        (batch("a"), "same id"),
        ('{"custom_id": "\\ud83d"}', "line 2"),
        ('{"custom_id": "b", "body": ' + "[" * 5000, "nested too deeply"),
    ],
)
def test_an_openai_line_that_nothing_can_answer_is_refused(line: object, reason: str) -> None:
    with pytest.raises(RequestError, match=f"1 of 2 lines are wrong:\n.*{reason}"):
        read_jobs(jsonl(batch("a"), line), DEFAULTS, SETTINGS, "openai-batch")


def test_all_problems_at_once_but_not_endlessly() -> None:
    with pytest.raises(RequestError, match=r"30 of 30(.|\n)*line 20: (.|\n)*and 10 more"):
        read_jobs(jsonl(*["{"] * 30), DEFAULTS, SETTINGS)


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_input_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="no lines"):
        read_jobs(text, DEFAULTS, SETTINGS)


ERROR = Reply(404, {"error": {"message": "no such memory", "code": 404}})


def test_output_of_our_lines() -> None:
    job = Job("x", CHAT, {}, "who?")
    body = {
        "choices": [{"message": {"content": "me"}}],
        "mega": {"mode": "adapter"},
        "usage": {"completion_tokens": 7},
    }
    assert output_line(job, Reply(200, body)) == {
        "id": "x", "prompt": "who?", "answer": "me", "mega": {"mode": "adapter"},
    }  # fmt: skip
    assert Reply(200, body).tokens == 7
    failed = output_line(job, ERROR)
    assert failed == {"id": "x", "prompt": "who?", "answer": None, "mega": None, "error": "no such memory"}
    assert ERROR.tokens == 0


def test_output_of_openai_lines() -> None:
    job = Job("x", CHAT, {}, None)
    good = output_line(job, Reply(200, {"choices": []}))
    assert good["custom_id"] == "x"
    assert (good["response"]["status_code"], good["response"]["body"]) == (200, {"choices": []})
    assert good["error"] is None
    bad = output_line(job, ERROR)
    assert (bad["response"]["status_code"], bad["response"]["body"]) == (404, None)
    assert bad["error"] == ERROR.body


def test_which_output_answers_which_job() -> None:
    ours, theirs = Job("x", CHAT, {}, "who?"), Job("x", CHAT, {}, None)
    assert ours.is_answered_by(output_line(ours, ERROR))
    assert not ours.is_answered_by({"id": "x", "prompt": "why?"})
    assert not ours.is_answered_by({"id": "y", "prompt": "who?"})
    assert theirs.is_answered_by(output_line(theirs, ERROR))
    assert not theirs.is_answered_by(output_line(ours, ERROR))
