"""The engine's client for one request: its prompts run with their own mixtures, from their own starts."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, NamedTuple

from vllm.lora.request import LoRARequest

from vllm_mega.engine.parts import having
from vllm_mega.engine.private import private_from
from vllm_mega.engine.start import starting_at


class Route(NamedTuple):
    """What a prompt runs with."""

    mixture: LoRARequest | None
    """None: the base model."""
    start: int
    """The token from which the mixture acts."""
    private: tuple[int, str] | None = None
    """From which token blocks are a namespace's alone, and its salt; None: there is nothing of a memory."""
    parts: tuple[str, ...] = ()
    """Parts of memories that it has in its text, or that were recited for it; see `engine.parts`."""

    @property
    def used(self) -> int | None:
        """The start; None where there is no mixture."""
        return None if self.mixture is None else self.start


class Routed:
    """The engine's client, for a request whose prompts run each with its own mixture, from its own start.

    Args:
        client: the engine's.
        inputs: of the engine, a prompt each; kept, for they are told apart by identity.
        routes: of each.
    """

    def __init__(self, client: Any, inputs: Sequence[Any], routes: Sequence[Route]) -> None:
        self._client = client
        self._inputs = inputs
        self._only = routes[0] if len(set(routes)) == 1 else None
        self._routes = {id(prompt): route for prompt, route in zip(inputs, routes, strict=True)}

    def generate(self, prompt: Any, sampling_params: Any, *args: Any, **more: Any) -> Any:
        """See vLLM's `EngineClient.generate`; beam search asks for a prompt with what it has so far."""
        route = self._only or self._routes[id(prompt)]
        begun = started(sampling_params, route)
        return self._client.generate(prompt, begun, *args, **{**more, "lora_request": route.mixture})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def started(sampling_params: Any, route: Route) -> Any:
    """`sampling_params` that tell the engine where the mixture starts, from where blocks are private, and
    which parts of memories the prompt has.
    """
    said = {} if route.mixture is None else dict[str, Any](starting_at(route.start))
    if route.private is not None:
        said |= private_from(*route.private)
    if route.parts:
        said |= having(route.parts)
    if not said:
        return sampling_params
    told = copy(sampling_params)
    told.extra_args = {**(told.extra_args or {}), **said}
    return told
