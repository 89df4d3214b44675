"""Requests that are refused cost nobody else."""

from __future__ import annotations

import concurrent.futures
import json
from typing import Any

import httpx
import openai
import pytest

from tests.http.asking import BASE, MEGA, ask, refused, text
from tests.http.live_bank import ASKED, UNRELATED

pytestmark = pytest.mark.engine


@pytest.mark.parametrize(
    ("mega", "status", "param", "reason"),
    [
        ({"mood": "good"}, 400, "mega", "mood"),
        ({"mode": "dream"}, 400, "mega.mode", "dream"),
        ({"top_k": 0}, 400, "mega.top_k", "1..64"),
        ({"memories": [{"id": "bakery", "weight": 99}]}, 400, "mega.memories[0]", "weight"),
        ({"memories": [{"id": "unheard-of"}]}, 404, "mega.memories", "unheard-of"),
        ({"memories": [{"id": "submarine"}]}, 404, "mega.memories", "submarine"),
        (
            {"memories": [{"id": i} for i in ("lighthouse", "bakery", "comet", "tortoise")]},
            400, "mega.memories", "3 slots",
        ),
        ({"tags": ["food", ""]}, 400, "mega.tags", "1 to 64"),
        ("on", 400, "mega", "object"),
    ],
)  # fmt: skip
def test_bad_requests_are_refused(
    client: openai.OpenAI, mega: Any, status: int, param: str, reason: str
) -> None:
    error = refused(lambda: ask(client, UNRELATED, mega=mega), status)
    assert error["param"] == param
    assert reason in error["message"]
    refused(lambda: ask(client, UNRELATED, mega=mega, stream=True), status)
    assert text(ask(client, UNRELATED, max_tokens=2)), "the server must go on"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"input": "hi", "max_output_tokens": 2}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}),
        ("/v1/chat/completions/batch", {"messages": [[{"role": "user", "content": "hi"}]], "max_tokens": 2}),
        ("/inference/v1/generate", {"token_ids": [1], "sampling_params": {"max_tokens": 1}}),
        ("/tokenize", {"prompt": "hi"}),
    ],
)
def test_other_endpoints_do_not_answer_without_memory(url: str, path: str, body: dict[str, Any]) -> None:
    answer = httpx.post(url + path, json={"model": MEGA, **body}, timeout=60)
    assert answer.status_code == 400, answer.text
    assert "/v1/chat/completions" in answer.text
    allowed = httpx.post(url + path, json={"model": BASE, **body}, timeout=60)
    assert allowed.status_code == 200, allowed.text


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    error = refused(lambda: ask(client, UNRELATED, "nobody-mega", mega={"mode": "irag"}), 404)
    assert error["param"] == "model"


def test_a_bad_text_costs_nobody_else(url: str) -> None:
    """Twelve good requests and six with half a character in them, at once: one embedding for all."""
    names = ["lighthouse", "bakery", "comet", "tortoise"]
    half = "a bell \ud83d rings"

    def body(n: int) -> dict[str, Any]:
        talk = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hm."}]
        question = half if n % 3 == 2 else ASKED[names[n % 4]]
        content: Any = [{"type": "text", "text": question}] if n % 2 else question
        return {"model": MEGA, "messages": [*talk, {"role": "user", "content": content}], "max_tokens": 2}

    def post(n: int) -> httpx.Response:
        data = json.dumps(body(n)).encode()
        headers = {"Content-Type": "application/json"}
        return httpx.post(f"{url}/v1/chat/completions", content=data, headers=headers, timeout=120)

    for _ in range(2):
        with concurrent.futures.ThreadPoolExecutor(18) as pool:
            answers = list(pool.map(post, range(18)))
        for n, answer in enumerate(answers):
            if n % 3 == 2:
                assert answer.status_code == 400, answer.text
                place = "messages[2].content" + ("[0].text" if n % 2 else "")
                assert answer.json()["error"]["param"] == place
                assert "surrogate" in answer.json()["error"]["message"]
            else:
                assert answer.status_code == 200, answer.text
                assert answer.json()["mega"]["memories"][0]["id"] == names[n % 4]


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ([{"type": "text", "text": None}], "messages[0].content"),
        ({"text": "hi"}, "messages[0].content"),
        ([3], "messages[0].content"),
        (3, "messages"),
    ],
)
def test_messages_of_another_shape_are_a_clients_fault(url: str, content: Any, place: str) -> None:
    body = {"model": MEGA, "messages": [{"role": "user", "content": content}], "max_tokens": 2}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 400, answer.text
    assert place in answer.json()["error"]["param"]
