"""/v1/completions with memory: one mixture a prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from copy import copy
from typing import Any

from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.lora.request import LoRARequest

from vllm_mega.config import Mode
from vllm_mega.errors import MegaError, RequestError
from vllm_mega.serving import conversation
from vllm_mega.serving.beforehand import completion_refusal
from vllm_mega.serving.deciding import Ask, describe
from vllm_mega.serving.handlers import Call, WithMemory, calling

MODES: tuple[Mode, ...] = ("adapter", "off")
"""There is no question to rewrite in a bare prompt."""


class MegaCompletion(WithMemory, OpenAIServingCompletion):  # type: ignore[misc]  # vLLM is untyped to mypy
    """/v1/completions."""

    engine_client: Any
    mixtures: Sequence[LoRARequest | None] | None = None
    """Of the prompts of the one request that a copy of the handler is for; None: all have the same."""

    async def create_completion(self, request: Any, raw_request: Any = None) -> Any:
        """The stock answer, from the mixtures that the gate or the client chose, with the field `mega`.

        It is a list where the gate has chosen for several prompts.
        """
        try:
            plan = self._plan(request, MODES)
            if plan is None:
                return await super().create_completion(request, raw_request)
            texts = await self._texts(request) if plan.asks_gate else [None]
            asks = [Ask(plan, text) for text in texts]
            if any(ask.is_long for ask in asks):
                with calling(Call(request.model, None)):
                    refusal = await completion_refusal(self, request)
                if refusal is not None:
                    return refusal
            routes = await asyncio.gather(*map(self.mega.route, asks))
            decisions = [decision for decision, _ in routes]
            value = [describe(plan, decision) for decision in decisions]
            answer = self._stock(request, raw_request, [lora for _, lora in routes])
            return self._annotated(await self._told(decisions, answer), value if len(value) > 1 else value[0])
        except MegaError as error:
            return self._refusal(error)

    async def _stock(self, request: Any, raw_request: Any, mixtures: Sequence[LoRARequest | None]) -> Any:
        handler = self
        if len(mixtures) > 1:
            if request.use_beam_search:
                raise RequestError("beam search with memory takes one prompt a request", "use_beam_search")
            handler = copy(self)
            handler.mixtures = mixtures
        with calling(Call(request.model, mixtures[0])):
            return await super(MegaCompletion, handler).create_completion(request, raw_request)

    async def render_completion_request(self, request: Any) -> Any:
        """The inputs of the engine, a prompt each; from here on they have their mixtures."""
        inputs = await super().render_completion_request(request)
        if self.mixtures is not None and not isinstance(inputs, ErrorResponse):
            self.engine_client = _EachItsOwn(self.engine_client, inputs, self.mixtures)
        return inputs

    async def _texts(self, request: Any) -> list[str]:
        """What the gate compares, for each prompt.

        Raises:
            RequestError: a prompt has no text.
            VLLMValidationError: a token id that the model does not have.
        """
        if request.prompt_embeds is not None:
            raise RequestError(f"prompt_embeds are no text: {conversation.NO_TEXT}", "prompt_embeds")
        prompts = conversation.prompts_of(request.prompt)
        return await asyncio.to_thread(lambda: [p if isinstance(p, str) else self._said(p) for p in prompts])

    def _said(self, ids: list[int]) -> str:
        self.renderer.validate_token_ids(ids, parameter="prompt")
        return str(self.renderer.tokenizer.decode(ids, skip_special_tokens=True))


class _EachItsOwn:
    """The engine's client for one request: every prompt runs with its own mixture."""

    def __init__(self, client: Any, inputs: Sequence[Any], mixtures: Sequence[LoRARequest | None]) -> None:
        self._client = client
        self._mixtures = {id(one): mixture for one, mixture in zip(inputs, mixtures, strict=True)}

    def generate(self, prompt: Any, *args: Any, **more: Any) -> Any:
        """See vLLM's `EngineClient.generate`."""
        return self._client.generate(prompt, *args, **{**more, "lora_request": self._mixtures[id(prompt)]})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)
