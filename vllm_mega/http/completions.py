"""/v1/completions with memory: one mixture a prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.entrypoints.serve.engine.protocol import ErrorResponse

from vllm_mega.config import Mode
from vllm_mega.engine.adapters import to_lora_request
from vllm_mega.errors import MegaError, RequestError
from vllm_mega.gate.gate import Decision
from vllm_mega.hook.inserting import check_known, with_texts
from vllm_mega.hook.starting import completion_starts
from vllm_mega.http.beforehand import completion_refusal
from vllm_mega.http.handlers import Call, Wanted, WithMemory, calling, for_each
from vllm_mega.requests import conversation
from vllm_mega.requests.deciding import Ask
from vllm_mega.requests.describing import describe
from vllm_mega.requests.passes import answering, recalled
from vllm_mega.requests.reading import used
from vllm_mega.requests.schemas import Plan, refuse_tools

MODES: tuple[Mode, ...] = ("adapter", "text", "both", "off")
"""There is no question in a bare prompt that a recital could be asked for instead."""


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
            return await self._traced(raw_request, self._remembering(plan, request, raw_request))
        except MegaError as error:
            return self._refusal(error)

    async def _remembering(self, plan: Plan, request: Any, raw_request: Any) -> Any:
        refuse_tools(plan)
        texts = await self._texts(request) if _decides_for_each(plan) else [None]
        asks = [Ask(plan, text) for text in texts]
        if any(ask.is_long for ask in asks):
            with calling(Call(request.model, None)):
                refusal = await completion_refusal(self, request)
            if refusal is not None:
                return refusal
        routed = await asyncio.gather(*map(self.mega.route, asks))
        decisions = [decision for decision, _ in routed]
        return await self._told(decisions, self._answer(plan, request, raw_request, decisions))

    async def _answer(self, plan: Plan, request: Any, raw_request: Any, decisions: Sequence[Decision]) -> Any:
        if len(decisions) > 1 and request.use_beam_search:
            raise RequestError("beam search with memory takes one prompt a request", "use_beam_search")
        contexts = [recalled(decision, (), self.control) for decision in decisions]
        if any(contexts):
            check_known(request)
        mixtures = [to_lora_request(answering(plan, decision)) for decision in decisions]
        pairs = zip(decisions, contexts, strict=True)
        parts = [() if context is None else used(decision) for decision, context in pairs]
        handler = self._for(Wanted(mixtures, plan.start, plan.namespace, contexts, parts))
        with calling(Call(request.model, mixtures[0])):
            stock = super(MegaCompletion, handler).create_completion(request, raw_request)
            answer = await self.spans.run("mega.answer", stock)
        if isinstance(answer, ErrorResponse):
            return answer
        each = zip(decisions, handler.routes, contexts, strict=False)  # one decision for all has one answer
        value = [describe(plan, decision, route.used, context) for decision, route, context in each]
        return self._annotated(answer, value if len(value) > 1 else value[0], raw_request)

    async def render_completion_request(self, request: Any) -> Any:
        """The inputs of the engine, a prompt each; from here on they have their mixtures and starts."""
        inputs = await super().render_completion_request(request)
        if self.wanted is not None and not isinstance(inputs, ErrorResponse):
            starts = await completion_starts(self, request, inputs, self.wanted.start)
            texts = for_each(self.wanted.texts, len(inputs))
            inputs = await with_texts(self, request, inputs, starts, texts)
            self._route(inputs, starts, starts)
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
