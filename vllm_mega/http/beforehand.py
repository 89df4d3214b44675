"""What vLLM says of a request, heard before memory costs anything: the gate, a recital.

vLLM looks at a request when it is its turn. With memory that comes late: the gate has then embedded a prompt
that no model holds, or a memory has been recited for an answer that may not be.
"""

from __future__ import annotations

from typing import Any

from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.utils.api_utils import get_max_tokens


async def chat_tokens(chat: Any, request: Any) -> int | ErrorResponse:
    """How many tokens the prompt of a chat request has, or vLLM's refusal of the request.

    All is asked that vLLM asks before a request runs. `request` stays as it is, and no cache learns of it.

    Args:
        chat: vLLM's handler of chats.
        request: the client's request.

    Raises:
        Exception: as vLLM raises for a request that cannot be right, or has no room.
    """
    trial = request.model_copy(deep=True)
    if refusal := await chat._check_model(trial):
        return refusal
    chat._preflight(trial.n or 1)
    rendered = await chat.online_renderer.render_chat(trial, skip_mm_cache=True)
    if isinstance(rendered, ErrorResponse):
        return rendered
    (prompt,) = rendered[1]
    tokens = int(chat._extract_prompt_len(prompt))
    defaults = chat.default_sampling_params
    wanted = trial.max_tokens if trial.max_completion_tokens is None else trial.max_completion_tokens
    most = get_max_tokens(
        chat.model_config.max_model_len,
        wanted,
        tokens,
        defaults,
        chat.override_max_tokens,
        truncate_prompt_tokens=trial.truncate_prompt_tokens,
    )
    if trial.use_beam_search:
        trial.to_beam_search_params(most, defaults)
    else:
        parameters = trial.to_sampling_params(most, defaults)
        chat.input_processor.process_inputs("trial", prompt, parameters, ("generate",))
    return tokens


async def completion_refusal(completion: Any, request: Any) -> ErrorResponse | None:
    """VLLM's refusal of a completion request for its prompts; None: it holds them.

    Raises:
        Exception: as `chat_tokens`.
    """
    rendered = await completion.render_completion_request(request.model_copy(deep=True))
    return rendered if isinstance(rendered, ErrorResponse) else None
