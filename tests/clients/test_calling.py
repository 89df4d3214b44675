"""What a client makes of each answer of a server."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from vllm_mega.clients.calling import Ask, understood
from vllm_mega.errors import BusyError, ForbiddenError, LimitError, MegaError, RequestError, ServerError

URL = "http://sill:8000"
ONE, ALL = Ask("GET", "memories/tea"), Ask("GET", "memories")


def refusal(status: int, kind: str = "BadRequestError", **headers: str) -> httpx.Response:
    body = {"error": {"message": "no oxen", "type": kind, "param": "text", "code": status}}
    return httpx.Response(
        status, json=body, headers={name.replace("_", "-"): v for name, v in headers.items()}
    )


def test_a_memory_that_is_not_there_is_none() -> None:
    missing = refusal(404, "NotFoundError")
    assert understood(URL, ONE, missing) is None
    with pytest.raises(ServerError, match="answers 404"):
        understood(URL, ALL, missing)
    with pytest.raises(ServerError, match="answers 404"):
        understood(URL, ONE, refusal(404, "Not Found"))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, RequestError), (413, RequestError), (401, ForbiddenError), (403, ForbiddenError),
        (429, LimitError), (503, BusyError), (500, ServerError), (412, ServerError),
    ],
)  # fmt: skip
def test_a_refusal_is_told_in_the_server_s_words(status: int, kind: type[MegaError]) -> None:
    with pytest.raises(MegaError, match=f"^{URL}: no oxen") as refused:
        understood(URL, ALL, refusal(status))
    assert type(refused.value) is kind


def test_what_is_wrong_and_how_long_to_wait() -> None:
    with pytest.raises(RequestError) as wrong:
        understood(URL, ALL, refusal(400))
    assert wrong.value.param == "text"
    for sent, seconds in (("7", 7), ("soon", None)):
        with pytest.raises(LimitError) as limited:
            understood(URL, ALL, refusal(429, retry_after=sent))
        assert limited.value.retry_after == seconds


@pytest.mark.parametrize(
    ("status", "content"), [(200, "<html>"), (200, "[]"), (307, "{}"), (500, ""), (500, '{"error": "no"}')]
)
def test_an_answer_that_nobody_understands_is_shown(status: int, content: Any) -> None:
    with pytest.raises(ServerError, match=f"{URL} answers {status}"):
        understood(URL, ALL, httpx.Response(status, text=content))
