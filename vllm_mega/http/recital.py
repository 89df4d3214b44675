"""The requests of a recital: made of the client's own, and as plain as memories were trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

from vllm_mega.requests.passes import Recital

UNPENALISED: Mapping[str, float] = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""Said in so many words: what a request leaves out, vLLM takes from the model's generation_config.json."""

REQUEST_ID = "x-request-id"


def recital_request(
    request: ChatCompletionRequest, raw_request: Request | None, number: int, recital: Recital
) -> tuple[ChatCompletionRequest, Request | None]:
    """The request of a recital.

    It runs where, when and for whom the client's request runs: rank, priority, session and trace are those
    of the request. Its id is its own, and names the request's.

    Args:
        request: the client's.
        raw_request: the client's, with headers; None: there are none (a batch).
        number: of the recital, from 0.
        recital: what is asked, and how much may be said.
    """
    given = None if raw_request is None else raw_request.headers.get(REQUEST_ID)
    passed = ChatCompletionRequest(
        model=request.model,
        messages=recital.messages,
        temperature=0.0,
        **UNPENALISED,
        max_completion_tokens=recital.tokens,
        request_id=f"{given or request.request_id}-recital-{number}",
        session_id=request.session_id,
        priority=request.priority,
        cache_salt=request.cache_salt,
        chat_template=request.chat_template,
        chat_template_kwargs=request.chat_template_kwargs,
    )
    return passed, None if raw_request is None else _without_id(raw_request)


def unpenalised(request: Any) -> Any:
    """`request`, without the model's own penalties: they are against saying again what was memorized.

    What the client asks for is left. For mode `recall`, where the answer is the recital.
    """
    return request.model_copy(
        update={name: value for name, value in UNPENALISED.items() if getattr(request, name) is None}
    )


def _without_id(raw_request: Request) -> Request:
    """Another request with the same headers; vLLM notes in the state of a request what became of it."""
    scope = raw_request.scope
    headers = [(name, value) for name, value in scope["headers"] if name.lower() != REQUEST_ID.encode()]
    return Request({**scope, "headers": headers, "state": {}})
