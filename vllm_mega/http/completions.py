"""/v1/completions with memory: one mixture a prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.lora.request import LoRARequest

from vllm_mega.config import Mode
from vllm_mega.errors import MegaError, RequestError
from vllm_mega.gate.gate import Decision
from vllm_mega.hook.starting import completion_starts
from vllm_mega.http.beforehand import completion_refusal
from vllm_mega.http.handlers import Call, Wanted, WithMemory, calling
from vllm_mega.requests import conversation
from vllm_mega.requests.deciding import Ask
from vllm_mega.requests.passes import describe
from vllm_mega.requests.schemas import Plan

MODES: tuple[Mode, ...] = ("adapter", "off")
"""There is no question to rewrite in a bare prompt."""

Found = tuple[Decision, LoRARequest | None]
"""What the hook finds for a prompt."""


class MegaCompletion(WithMemory, OpenAIServingCompletion):  # type: ignore[misc]  # vLLM is untyped to mypy
    """/v1/completions."""

    async def create_completion(self, request: Any, raw_request: Any = None) -> Any:
        """The stock answer, from the mixtures that the gate or the client chose, with the field `mega`.

        It is a list where something was decided for each of several prompts.
        """
        try:
            plan = self._plan(request, MODES)
            if plan is None:
                return await super().create_completion(request, raw_request)
            texts = await self._texts(request) if _decides_for_each(plan) else [None]
            asks = [Ask(plan, text) for text in texts]
            if any(ask.is_long for ask in asks):
                with calling(Call(request.model, None)):
                    refusal = await completion_refusal(self, request)
                if refusal is not None:
                    return refusal
            routed = await asyncio.gather(*map(self.mega.route, asks))
            answer = self._answer(plan, request, raw_request, routed)
            return await self._told([decision for decision, _ in routed], answer)
        except MegaError as error:
            return self._refusal(error)

    async def _answer(self, plan: Plan, request: Any, raw_request: Any, routed: Sequence[Found]) -> Any:
        if len(routed) > 1 and request.use_beam_search:
            raise RequestError("beam search with memory takes one prompt a request", "use_beam_search")
        handler = self._for(Wanted([mixture for _, mixture in routed], plan.start))
        with calling(Call(request.model, routed[0][1])):
            answer = await super(MegaCompletion, handler).create_completion(request, raw_request)
        if isinstance(answer, ErrorResponse):
            return answer
        pairs = zip(routed, handler.routes, strict=False)  # prompts that have one mixture have one answer
        value = [describe(plan, decision, route.used) for (decision, _), route in pairs]
        return self._annotated(answer, value if len(value) > 1 else value[0])

    async def render_completion_request(self, request: Any) -> Any:
        """The inputs of the engine, a prompt each; from here on they have their mixtures and starts."""
        inputs = await super().render_completion_request(request)
        if self.wanted is not None and not isinstance(inputs, ErrorResponse):
            self._route(inputs, await completion_starts(self, request, inputs, self.wanted.start))
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


def _decides_for_each(plan: Plan) -> bool:
    """Whether something is decided for each prompt: its mixture, or the token that a character is in."""
    by_character = plan.start is not None and plan.start.character is not None
    return plan.asks_gate or by_character
