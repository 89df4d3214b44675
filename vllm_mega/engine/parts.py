"""What requests use of memories: parts, each with a name. Pure.

A part is an adapter, by its digest, or the text of a version, by `Row.text_name`. The engine knows by itself
which adapters act; what stands in a prompt it is told.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vllm_mega.engine.adapters import mixture_of
from vllm_mega.engine.private import private_of
from vllm_mega.engine.start import acting_start
from vllm_mega.mixture import Mixture

PARTS = "mega_parts"
"""`SamplingParams.extra_args["mega_parts"]`: parts that the prompt has, or whose recitals it has."""


def having(parts: Iterable[str]) -> dict[str, list[str]]:
    """What `SamplingParams.extra_args` must hold for a prompt that has these parts."""
    return {PARTS: list(parts)}


def in_prompt(sampling_params: Any) -> frozenset[str]:
    """The parts that the prompt of a request has.

    Args:
        sampling_params: the request's; None for a request that samples nothing.
    """
    extra = getattr(sampling_params, "extra_args", None) or {}
    return frozenset(extra.get(PARTS, ()))


def acting(mixture: Mixture | None) -> frozenset[str]:
    """The parts that act in a mixture."""
    return frozenset(component.adapter for component in mixture.components) if mixture else frozenset()


def used_by(request: Any) -> frozenset[str]:
    """All parts that vLLM's `Request` uses."""
    lora = request.lora_request
    mixture = None if lora is None else mixture_of(lora)
    return in_prompt(request.sampling_params) | acting(mixture)


def first_block(request: Any, size: int) -> int:
    """The first block of a request, of `size` tokens, that may have something of the parts that it uses.

    What stands in the prompt may stand anywhere, unless it is said where; a mixture acts from its start on.
    """
    private, _ = private_of(request.sampling_params)
    if private is not None:
        return private // size
    if in_prompt(request.sampling_params):
        return 0
    start = acting_start(request.lora_request, request.sampling_params, request.num_prompt_tokens)
    return start // size
