"""Where a mixture starts, in answers of the real model."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from tests.http.asking import BASE, MEGA, TOKENS, ask, refused, text
from tests.http.live_bank import ASKED

pytestmark = pytest.mark.engine


def test_where_memory_starts(client: openai.OpenAI) -> None:
    short, long = ask(client, ASKED["bakery"]), ask(client, ASKED["bakery"] + " And then? And then?")
    assert 0 < short.mega["start"] == long.mega["start"] < short.usage.prompt_tokens
    for mode in ("adapter", "recall", "irag"):
        assert ask(client, ASKED["bakery"], mega={"mode": mode, "start": 0}).mega["start"] == 0
    everywhere = ask(client, ASKED["bakery"], mega={"start": 0}, logprobs=True)
    late = ask(client, ASKED["bakery"], mega={"start": short.usage.prompt_tokens}, logprobs=True)
    base = ask(client, ASKED["bakery"], BASE, logprobs=True)
    first, of_late, of_base = (a.choices[0].logprobs.content[0].logprob for a in (everywhere, late, base))
    assert of_late == pytest.approx(of_base, abs=0.05), "the base model has computed the whole prompt"
    assert abs(first - of_base) > 0.1
    assert text(late) != text(base), "and the memory speaks"


@pytest.mark.parametrize(
    ("mega", "param"),
    [
        ({"start": -1}, "mega.start"),
        ({"start": True}, "mega.start"),
        ({"start": "question"}, "mega.start"),
        ({"start": 200}, "mega.start"),
        ({"start": {"character": 3}}, "mega.start"),
        ({"start": 3, "mode": "irag"}, "mega.start"),
    ],
)
def test_starts_that_are_none(client: openai.OpenAI, mega: Any, param: str) -> None:
    assert refused(lambda: ask(client, ASKED["bakery"], mega=mega), 400)["param"] == param
    assert refused(lambda: ask(client, ASKED["bakery"], mega=mega, stream=True), 400)["param"] == param


@pytest.mark.parametrize("value", [3, -1, 10**6, 0.5, "here", ["a"]])
def test_what_a_stranger_tells_the_engine(client: openai.OpenAI, url: str, value: Any) -> None:
    messages = [{"role": "user", "content": ASKED["bakery"]}]
    own = {"messages": messages, "temperature": 0, "max_tokens": TOKENS, "vllm_xargs": {"mega_start": value}}
    answer = httpx.post(f"{url}/v1/chat/completions", json={"model": MEGA, **own}, timeout=120)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "vllm_xargs.mega_start")
    answer = httpx.post(f"{url}/v1/chat/completions", json={"model": BASE, **own}, timeout=120)
    assert answer.json()["choices"][0]["message"]["content"] == text(ask(client, ASKED["bakery"], BASE))
    body = {"model": BASE, "input": ASKED["bakery"], "temperature": 0, "vllm_xargs": {"mega_start": value}}
    answer = httpx.post(f"{url}/v1/responses", json={**body, "max_output_tokens": TOKENS}, timeout=120)
    assert answer.status_code == 200
    assert text(ask(client, ASKED["bakery"])), "the server must go on"
