"""/v1/chat/completions with memory: the passes of a request, each a request of vLLM's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import VLLMValidationError

from vllm_mega.engine.adapters import to_lora_request
from vllm_mega.errors import MegaError
from vllm_mega.gate.gate import Decision
from vllm_mega.hook.starting import chat_start
from vllm_mega.http import tool_rounds
from vllm_mega.http.beforehand import chat_tokens
from vllm_mega.http.handlers import Call, Wanted, WithMemory, calling
from vllm_mega.http.recital import recital_request, unpenalised
from vllm_mega.requests.conversation import Message
from vllm_mega.requests.deciding import Ask
from vllm_mega.requests.describing import describe
from vllm_mega.requests.passes import Recital, first_passes, last_pass, recalled
from vllm_mega.requests.reading import unfit, used
from vllm_mega.requests.schemas import Plan
from vllm_mega.requests.start import check_chat, check_texts, token_of
from vllm_mega.requests.usage import usage_of
from vllm_mega.requests.wellformed import usual_messages


class MegaChat(WithMemory, OpenAIServingChat):  # type: ignore[misc]  # vLLM is untyped to mypy
    """/v1/chat/completions."""

    async def create_chat_completion(self, request: Any, raw_request: Any = None) -> Any:
        """The stock answer, from the mixture that the gate or the client chose, with the field `mega`."""
        try:
            plan = self._plan(request)
            if plan is None:
                return await super().create_chat_completion(request, raw_request)
            return await self._traced(raw_request, self._remembering(plan, request, raw_request))
        except MegaError as error:
            return self._refusal(error)

    async def _remembering(self, plan: Plan, request: Any, raw_request: Any) -> Any:
        check_chat(plan)
        if plan.tools is not None:
            return await tool_rounds.answered(self, plan, request, raw_request)
        request = _with_messages(request, usual_messages(request.messages))
        ask = Ask.about(plan, request.messages, self.mega.settings)
        room = self.model_config.max_model_len
        if plan.mode == "irag" or ask.is_long:
            with calling(Call(request.model, None)):
                taken = await chat_tokens(self, request)
            if isinstance(taken, ErrorResponse):
                return taken
            room -= taken
        decision, _ = await self.mega.route(ask)
        check_texts(plan, decision)
        return await self._told([decision], self._answer(plan, decision, request, raw_request, room))

    async def _answer(self, plan: Plan, decision: Decision, request: Any, raw_request: Any, room: int) -> Any:
        """The answer from the mixture; `room`: tokens that the prompt leaves of the context."""
        recitals = first_passes(plan, decision, request.messages, room)
        replies = await self._recite(plan, recitals, request, raw_request)
        if refusal := next((reply for reply in replies if isinstance(reply, ErrorResponse)), None):
            return refusal
        said = [reply.choices[0].message.content or "" for reply in replies]
        context = recalled(decision, said, self.control)
        last = last_pass(plan, decision, request.messages, context)
        request = _with_messages(request, last.messages)
        if last.recites:
            request = unpenalised(request)
        try:
            parts = () if context is None else used(decision)
            mixtures = [to_lora_request(last.mixture)]
            wanted = Wanted(mixtures, plan.start, plan.namespace, [last.context], [parts])
            answer, start = await self._pass("mega.answer", wanted, request, raw_request)
        except VLLMValidationError as error:
            raise unfit(decision, error) from error
        value = describe(plan, decision, start, context)
        return self._annotated(answer, value, raw_request, usage_of(replies))

    async def _pass(
        self, span: str, wanted: Wanted, request: Any, raw_request: Any
    ) -> tuple[Any, int | None]:
        """The stock answer, and the token from which the mixture acted; None: it is empty."""
        handler, (lora_request,) = self._for(wanted), wanted.mixtures
        with calling(Call(request.model, lora_request)):
            stock = super(MegaChat, handler).create_chat_completion(request, raw_request)
            answer = await self.spans.run(span, stock)
        return answer, handler.routes[0].used if handler.routes else None

    async def render_chat_request(self, request: Any) -> Any:
        """The conversation and the input of the engine; from here on it has its mixture and start."""
        rendered = await super().render_chat_request(request)
        if self.wanted is not None and not isinstance(rendered, ErrorResponse):
            start, begin = await self._starts(request, *rendered[1])
            self._route(rendered[1], [start], [begin])
        return rendered

    async def _starts(self, request: Any, prompt: Any) -> tuple[int, int]:
        """The tokens from which the mixture acts, and from which the prompt has anything of a memory."""
        assert self.wanted is not None
        if self.wanted.start is not None:
            start = token_of(self.wanted.start, self._extract_prompt_len(prompt))
            return start, start
        mixture, read = self.wanted.mixtures[0], self.wanted.texts[0]
        if mixture is None and read is None:
            return 0, 0
        begin = await chat_start(self, request, prompt)
        both = mixture is not None and read is not None
        return await chat_start(self, request, prompt, read) if both else begin, begin

    async def _recite(
        self, plan: Plan, recitals: Sequence[Recital], request: Any, raw_request: Any
    ) -> list[Any]:
        """What each says, in a request of its own; the engine runs them in one batch."""

        async def recite(number: int, recital: Recital) -> Any:
            passed = recital_request(request, raw_request, number, recital)
            wanted = Wanted([to_lora_request(recital.mixture)], plan.start, plan.namespace)
            return (await self._pass("mega.recital", wanted, *passed))[0]

        tasks = [asyncio.create_task(recite(n, recital)) for n, recital in enumerate(recitals)]
        try:
            return await asyncio.gather(*tasks)
        finally:  # when one fails, nobody waits for the others
            for task in tasks:
                task.cancel()


def _with_messages(request: Any, messages: Sequence[Message]) -> Any:
    return request.model_copy(update={"messages": messages})
