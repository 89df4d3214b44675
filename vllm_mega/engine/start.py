"""From which token of a request its mixture acts: where that is said, and how it is read. Pure.

Positions before start are computed by the base model, so their KV blocks are everybody's. Only mixtures have a
start: plain LoRA and base requests are what they are in stock vLLM, whatever they say here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_mega.errors import MixtureError

START = "mega_start"
"""`SamplingParams.extra_args["mega_start"]`: vLLM carries it to the scheduler and to the workers."""


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
        raise MixtureError(f"{START} must be a position in the prompt: an integer from 0 up, got {start!r}", START)
    return start


def check_start(sampling_params: Any, prompt_length: int) -> None:
    """Refuse a start that the prompt does not have. At its length, only what is generated uses the mixture.

    Raises:
        MixtureError: it is no position, or beyond the prompt.
    """
    start = start_of_request(sampling_params)
    if start > prompt_length:
        raise MixtureError(
            f"{START} is {start}, but the prompt has {prompt_length} tokens: "
            "ask for a position from 0 to that number",
            START,
        )
