"""From which token of a prompt its mixture acts: where the client says, or where the question begins.

A question is the content of the last user message, without the texts that were put before it: these are
the same whoever asks, so the base model computes them, and the prefix cache has them for all of their
namespace. A template is a program, so the prompt is rendered once more with another question, by vLLM's own
renderer: where the two part, the question begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import VLLMValidationError

from vllm_mega.engine.parts import PARTS
from vllm_mega.engine.private import PRIVATE
from vllm_mega.engine.start import START
from vllm_mega.errors import RequestError
from vllm_mega.models.start import start_of
from vllm_mega.requests.conversation import other_messages, prompts_of
from vllm_mega.requests.schemas import Start
from vllm_mega.requests.start import PARAM, token_of


def check_arguments(arguments: Mapping[str, Any] | None, name: str) -> None:
    """Refuse a request that tells the engine itself where to start, or what of memories its prompt has.

    Args:
        arguments: what goes to the engine as it is.
        name: of the field that they stand in.

    Raises:
        RequestError: they hold a name of ours.
    """
    reasons = {START: f"give {PARAM} instead", PRIVATE: "give cache_salt instead", PARTS: "leave it out"}
    for ours, instead in reasons.items():
        if ours in (arguments or {}):
            place = f"{name}.{ours}"
            raise RequestError(f"{place} is how the server tells the engine: {instead}", place)


async def chat_start(chat: Any, request: Any, prompt: Any, context: str | None = None) -> int:
    """The token of `prompt` at which the question of the last user message begins; 0 if there is none.

    0, the whole prompt, also where that is not to be known: the prompt has no tokens, or the template takes
    no other question. A prompt that has lost its beginning (`truncate_prompt_tokens`) begins like none: 0.

    Args:
        chat: vLLM's handler of chats.
        request: that was rendered.
        prompt: what vLLM made of it.
        context: what stands before the question; None: nothing does.
    """
    ids = chat._extract_prompt_components(prompt).token_ids
    varied = other_messages(request.messages, context)
    if varied is None or not ids:
        return 0
    try:
        rendered = await chat.online_renderer.render_chat(_probe(chat, request, varied), skip_mm_cache=True)
    except VLLMValidationError:
        return 0
    if isinstance(rendered, ErrorResponse):
        return 0
    return start_of(ids, chat._extract_prompt_components(rendered[1][0]).token_ids or ())


async def completion_starts(
    completion: Any, request: Any, inputs: Sequence[Any], start: Start | None
) -> list[int]:
    """From which token the mixture of each prompt acts: as the client says, by default from the first.

    Args:
        completion: vLLM's handler of completions.
        request: that was rendered.
        inputs: what vLLM made of its prompts.
        start: the client's.

    Raises:
        RequestError: a prompt does not have this position.
    """
    if start is None:
        return [0] * len(inputs)
    if start.token is not None:
        return [token_of(start, completion._extract_prompt_len(prompt)) for prompt in inputs]
    begins = cut_prompts(request, start.character or 0)
    if not start.character:
        return [0] * len(inputs)
    cut = {"prompt": begins, "kv_transfer_params": None, "echo": False}
    rendered = await completion.online_renderer.render_completion(request.model_copy(update=cut))
    assert not isinstance(rendered, ErrorResponse), "the whole prompts were none"
    ids = [completion._extract_prompt_components(prompt).token_ids for prompt in (*inputs, *rendered)]
    return list(map(start_of, ids[: len(inputs)], ids[len(inputs) :]))


def cut_prompts(request: Any, character: int) -> list[str]:
    """The prompts of a completion request, up to `character`.

    Raises:
        RequestError: one is shorter, or none has characters that could be counted.
    """
    prompts = [] if request.prompt_embeds is not None else prompts_of(request.prompt)
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    if not texts or len(texts) < len(prompts) or request.truncate_prompt_tokens is not None:
        raise RequestError(
            f"{PARAM} counts characters, which needs prompts that are texts, and whole: give a token", PARAM
        )
    if (shortest := min(map(len, texts))) < character:
        raise RequestError(
            f"{PARAM} is character {character}, but a prompt has {shortest}: give 0 to {shortest}",
            PARAM,
        )
    return [text[:character] for text in texts]


def _probe(chat: Any, request: Any, messages: list[dict[str, Any]]) -> Any:
    """The same request with these messages; as long as may be, for none of it is computed."""
    changed = {
        "messages": messages,
        "truncate_prompt_tokens": chat.model_config.max_model_len,
        "truncation_side": "right",
        "kv_transfer_params": None,
        "echo": False,
        "return_token_offsets": False,
    }
    return request.model_copy(update=changed)
