"""What a LoRARequest asks for: its adapters, whether it is a mixture or a plain adapter."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from vllm.lora.request import LoRARequest

from vllm_mega.engine.ids import FIRST_ID
from vllm_mega.engine.start import check_start
from vllm_mega.errors import MixtureError
from vllm_mega.mixture import Mixture, is_mixture_path


def to_lora_request(mixture: Mixture) -> LoRARequest | None:
    """The LoRARequest that carries `mixture` to the engine; None for the empty mixture (base model).

    The id is a placeholder: the scheduler gives every distinct mixture its own. What `mixture` holds
    (`Holder.hold`) is held until the request is gone.
    """
    if not mixture:
        return None
    request = _MixtureRequest(mixture.name, FIRST_ID, mixture.path)
    request.mixture = mixture
    return request


class _MixtureRequest(LoRARequest, dict=True):  # type: ignore[misc, call-arg]  # vLLM is untyped to mypy
    """A LoRARequest that keeps its mixture alive; on its way to another process it is the plain one."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LoRARequest) and self.lora_name == other.lora_name

    def __hash__(self) -> int:
        return hash(self.lora_name)


@lru_cache(maxsize=8192)
def decode(path: str) -> Mixture:
    """`Mixture.from_path`, remembered: the same mixture is asked for again in every step."""
    return Mixture.from_path(path)


def mixture_of(request: LoRARequest) -> Mixture | None:
    """The mixture that the request carries; None for a plain adapter.

    Raises:
        MixtureError: the path is broken, or does not belong to the name.
    """
    if not is_mixture_path(request.lora_path):
        return None
    mixture = decode(request.lora_path)
    if mixture.name != request.lora_name:
        raise MixtureError(f"LoRARequest {request.lora_name!r} carries the mixture {mixture.name!r}")
    return mixture


def adapters_of(request: LoRARequest | None) -> frozenset[str]:
    """Names of the adapters that the request needs slots for."""
    if request is None:
        return frozenset()
    mixture = mixture_of(request)
    if mixture is None:
        return frozenset((f"plain:{request.lora_int_id}",))
    return frozenset(component.adapter for component in mixture.components)


def check_width(request: LoRARequest | None, slots: int) -> None:
    """Refuse a mixture that could never be scheduled.

    Raises:
        MixtureError: it has more adapters than there are slots.
    """
    width = len(adapters_of(request))
    if width > slots:
        raise MixtureError(
            f"the mixture has {width} adapters, but the engine has {slots} slots: "
            "ask for fewer memories (top_k), or start the engine with a larger max_loras",
            "mega.memories",
        )


def check_request(request: Any, slots: int) -> None:
    """Refuse a request for a mixture that the engine could not run.

    Args:
        request: an EngineCoreRequest.
        slots: of the engine.

    Raises:
        MixtureError: see `check_width`, `check_start`.
    """
    check_width(request.lora_request, slots)
    prompt = request.prompt_token_ids if request.prompt_token_ids is not None else request.prompt_embeds
    check_start(request, len(prompt))
