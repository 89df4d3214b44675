"""From which token of a request its mixture acts: where that is said, and which blocks are whose. Pure.

Positions before start are computed by the base model, so their KV blocks are everybody's. Only mixtures have
a start: plain LoRA and base requests are what they are in stock vLLM, whatever they say here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_mega.errors import MixtureError
from vllm_mega.mixture import NAME_PREFIX, is_mixture_path

START = "mega_start"
"""`SamplingParams.extra_args["mega_start"]`: vLLM carries it to the scheduler and to the workers."""

Keys = tuple[Any, ...] | None
"""What a block's hash holds beside its tokens and its parent; None: nothing."""


def carries_mixture(lora: Any) -> bool:
    """Whether a LoRARequest is one of ours, by its name or by its path."""
    return lora.lora_name.startswith(NAME_PREFIX) or is_mixture_path(lora.lora_path)


def starting_at(start: int) -> dict[str, int]:
    """What `SamplingParams.extra_args` must hold for a mixture that acts from position `start` on."""
    return {START: start}


def start_of_request(sampling_params: Any) -> int:
    """The position, in tokens, from which the request's mixture acts; 0 where nothing is said.

    Args:
        sampling_params: the request's; None for a request that samples nothing.

    Raises:
        MixtureError: it is no position.
    """
    extra: Mapping[str, Any] = getattr(sampling_params, "extra_args", None) or {}
    start = extra.get(START, 0)
    if type(start) is not int or start < 0:  # a bool is no position, either
        raise MixtureError(
            f"{START} must be a position in the prompt: an integer from 0 up, got {start!r}", START
        )
    return start


def acting_start(lora: Any, sampling_params: Any, prompt_length: int) -> int:
    """The position before which no token of the request has an adapter by its start; 0 but for mixtures.

    What is generated always uses the mixture: then a step that only generates need not ask.

    Args:
        lora: the request's LoRARequest, or None.
        sampling_params: the request's, or None.
        prompt_length: tokens of its prompt.
    """
    if lora is None or not is_mixture_path(lora.lora_path):
        return 0
    return min(start_of_request(sampling_params), prompt_length)


def check_start(request: Any, prompt_length: int) -> None:
    """Refuse a start that a request for a mixture cannot have. At the prompt's end, the answer alone uses it.

    Args:
        request: an EngineCoreRequest.
        prompt_length: tokens of its prompt.

    Raises:
        MixtureError: it is no position, or beyond the prompt, or the prompt is still being sent.
    """
    if request.lora_request is None or not is_mixture_path(request.lora_request.lora_path):
        return
    start = start_of_request(request.sampling_params)
    if start > prompt_length:
        raise MixtureError(
            f"{START} is {start}, but the prompt has {prompt_length} tokens: "
            "ask for a position from 0 to that number",
            START,
        )
    if start and request.resumable:
        raise MixtureError(f"{START} is {start}, but a prompt that comes in parts can only have 0", START)


def block_keys(keys: Keys, request: Any, begin: int, end: int) -> Keys:
    """The keys of the block of tokens [begin, end): the mixture's only where it has computed some of them.

    Hashes are chained, so a block also stands for all that went before it. Only the block that start cuts
    has to say where. A mixture's name says all of what it computes, so the key has no path: equal mixtures
    share blocks, wherever their adapters are held.

    Args:
        keys: vLLM's own for this block.
        request: vLLM's `Request`.
        begin: position of the block's first token.
        end: behind its last.
    """
    lora = request.lora_request
    if lora is None or not is_mixture_path(lora.lora_path):
        return keys
    start = acting_start(lora, request.sampling_params, request.num_prompt_tokens)
    others = tuple(key for key in keys or () if key[0] != "lora")
    return (*_mixture_keys(lora.lora_name, start - begin, end - begin), *others) or None


def _mixture_keys(name: str, offset: int, length: int) -> tuple[tuple[str, str], ...]:
    if offset >= length:
        return ()
    own = ("lora", name)
    return (own, (START, f"{START}:{offset}")) if offset > 0 else (own,)
