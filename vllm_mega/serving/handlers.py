"""vLLM's handlers with memory, and chat: each asks the hook, the stock does the work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.serve import create_error_response
from vllm.entrypoints.serve.engine.protocol import (
    ErrorResponse,
    ModelCard,
    ModelList,
    ModelPermission,
    UsageInfo,
)
from vllm.exceptions import GenerationError, VLLMValidationError
from vllm.lora.request import LoRARequest

from vllm_mega.config import MODES, Mode
from vllm_mega.engine.adapters import to_lora_request
from vllm_mega.errors import BankChangedError, BankError, MegaError, MemoryNotFoundError, RequestError
from vllm_mega.gate.gate import Decision
from vllm_mega.mixture import Mixture
from vllm_mega.serving import conversation, recital
from vllm_mega.serving.beforehand import chat_tokens
from vllm_mega.serving.deciding import Ask, describe, reading, recitals
from vllm_mega.serving.hook import MemoryHook
from vllm_mega.serving.plain_adapters import why_not
from vllm_mega.serving.schemas import FIELD, Plan, make_plan
from vllm_mega.serving.sse import annotate, explained
from vllm_mega.serving.usage import total, usage_of
from vllm_mega.serving.wellformed import usual_messages

logger = logging.getLogger(__name__)

SUFFIX = "-mega"
"""NAME is the base model, NAME-mega the same with memory."""


@dataclass(frozen=True)
class Call:
    """What the stock handler must use for the request that is being answered."""

    model: str
    lora_request: LoRARequest | None


_call: ContextVar[Call | None] = ContextVar("mega_call", default=None)


@contextmanager
def calling(call: Call) -> Iterator[None]:
    token = _call.set(call)
    try:
        yield
    finally:
        _call.reset(token)


class MegaModels(OpenAIServingModels):  # type: ignore[misc]  # vLLM is untyped to mypy
    """The models of a server: every base name once more with memory.

    All handlers ask this object whether a name is served. For a name with memory only ours may hear
    yes, so no endpoint without memory answers in its place.
    """

    bank: Path

    def _has_memory(self, name: str | None) -> bool:
        return any(name == path.name + SUFFIX for path in self.base_model_paths)

    def is_base_model(self, model_name: str) -> bool:
        if self._has_memory(model_name):
            if _call.get() is None:
                raise VLLMValidationError(
                    f"{model_name} answers at /v1/chat/completions and /v1/completions only; "
                    f"here ask for {model_name.removesuffix(SUFFIX)}, which has no memory",
                    parameter="model",
                )
            return True
        return bool(super().is_base_model(model_name))

    def model_name(self, lora_request: LoRARequest | None = None) -> str:
        call = _call.get()
        return call.model if call is not None else str(super().model_name(lora_request))

    async def _check_load_lora_adapter_request(self, request: Any) -> ErrorResponse | None:
        if reason := why_not(request.lora_name, request.lora_path, self.bank):
            return create_error_response(reason, param="lora_path")
        return await super()._check_load_lora_adapter_request(request)

    async def resolve_lora(self, lora_name: str) -> LoRARequest | ErrorResponse:
        found = await super().resolve_lora(lora_name)
        if isinstance(found, LoRARequest) and (reason := why_not(lora_name, found.lora_path, self.bank)):
            self.lora_requests.pop(lora_name, None)
            return create_error_response(reason, param="model")
        return found

    async def show_available_models(self) -> ModelList:
        models = await super().show_available_models()
        models.data[len(self.base_model_paths) : 0] = [
            ModelCard(
                id=path.name + SUFFIX,
                parent=path.name,
                root=path.model_path,
                max_model_len=self.model_config.max_model_len,
                permission=[ModelPermission()],
            )
            for path in self.base_model_paths
        ]
        return models


class WithMemory:
    """What all handlers share; stands before the stock class in the order of resolution."""

    mega: MemoryHook
    models: MegaModels

    def _maybe_get_adapters(
        self, request: Any, supports_default_mm_loras: bool = False
    ) -> LoRARequest | None:
        call = _call.get()
        if call is not None:
            return call.lora_request
        return super()._maybe_get_adapters(request, supports_default_mm_loras)  # type: ignore[misc]

    def _plan(self, request: Any, modes: Sequence[Mode] = MODES) -> Plan | None:
        """What the request wants of memory, in one of `modes`; None: it asks for a model without."""
        value = (request.model_extra or {}).get(FIELD)
        plan = make_plan(value, self.mega.settings, self.mega.slots, modes=modes)
        if self.models._has_memory(request.model):
            return plan
        if value is not None and plan.mode != "off" and self._serves(request.model):
            raise RequestError(
                f"{request.model or 'the base model'} has no memory: "
                f"ask for {request.model or 'its name'}{SUFFIX}, or leave the field {FIELD} out",
                FIELD,
            )
        return None

    def _serves(self, name: str | None) -> bool:
        return not name or name in self.models.lora_requests or self.models.is_base_model(name)

    def _refusal(self, error: MegaError) -> ErrorResponse:
        message = str(error)
        if isinstance(error, RequestError):
            return self.create_error_response(message, param=error.param)  # type: ignore[attr-defined]
        if isinstance(error, MemoryNotFoundError):
            kind, status = "NotFoundError", HTTPStatus.NOT_FOUND
        elif isinstance(error, BankChangedError):
            kind, status = "ServiceUnavailableError", HTTPStatus.SERVICE_UNAVAILABLE
        else:
            logger.error("a request was refused: %s", error)
            kind, status = "InternalServerError", HTTPStatus.INTERNAL_SERVER_ERROR
        return self.create_error_response(message, kind, status, f"{FIELD}.memories")  # type: ignore[attr-defined]

    async def _told(self, decisions: Sequence[Decision], answer: Awaitable[Any]) -> Any:
        """`answer`; where the engine ends the request for the sake of an adapter, its client hears why."""

        async def why() -> str | None:
            wrong = await self.mega.wrong(decisions)
            return self._refusal(BankError(wrong)).model_dump_json() if wrong else None

        try:
            answered = await answer
        except GenerationError as error:
            if wrong := await self.mega.wrong(decisions):
                raise BankError(wrong) from error
            raise
        return explained(answered, why) if isinstance(answered, AsyncGenerator) else answered

    @staticmethod
    def _annotated(answer: Any, value: Any, used: Mapping[str, Any] = MappingProxyType({})) -> Any:
        """`answer` with the field `mega`, and with what earlier passes have `used`."""
        if isinstance(answer, AsyncGenerator):
            return annotate(answer, value, used)
        if not isinstance(answer, ErrorResponse):
            setattr(answer, FIELD, value)
            if used:
                answer.usage = UsageInfo.model_validate(total(answer.usage.model_dump(), used))
        return answer


class MegaChat(WithMemory, OpenAIServingChat):  # type: ignore[misc]  # vLLM is untyped to mypy
    """/v1/chat/completions."""

    control: frozenset[str] = frozenset()
    """How the control tokens of the model are spelled: what is recalled must not become one."""

    async def create_chat_completion(self, request: Any, raw_request: Any = None) -> Any:
        """The stock answer, from the mixture that the gate or the client chose, with the field `mega`."""
        try:
            plan = self._plan(request)
            if plan is None:
                return await super().create_chat_completion(request, raw_request)
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
            return await self._told([decision], self._answer(plan, decision, request, raw_request, room))
        except MegaError as error:
            return self._refusal(error)

    async def _answer(self, plan: Plan, decision: Decision, request: Any, raw_request: Any, room: int) -> Any:
        """The answer from the mixture; `room`: tokens that the prompt leaves of the context."""
        recalled, used = None, {}
        lora_request = to_lora_request(decision.mixture)
        if decision.mixture and plan.mode == "recall":
            request = _with_messages(request, conversation.recall_messages(request.messages))
            request = recital.unpenalised(request)
        elif decision.mixture and plan.mode == "irag":
            replies = await self._recite(recitals(decision), request, raw_request, room)
            if refusal := next((reply for reply in replies if isinstance(reply, ErrorResponse)), None):
                return refusal
            recalled = conversation.context_of(
                [r.choices[0].message.content or "" for r in replies], self.control
            )
            request = _with_messages(request, conversation.informed_messages(request.messages, recalled))
            lora_request, used = to_lora_request(reading(decision)), usage_of(replies)
        with calling(Call(request.model, lora_request)):
            answer = await super().create_chat_completion(request, raw_request)
        return self._annotated(answer, describe(plan, decision, recalled), used)

    async def _recite(
        self, mixtures: Sequence[Mixture], request: Any, raw_request: Any, room: int
    ) -> list[Any]:
        """The recital of each, in a request of its own; the engine runs them in one batch."""

        async def recite(number: int, mixture: Mixture) -> Any:
            passed = recital.recital_of(request, raw_request, number, len(mixtures), room)
            with calling(Call(request.model, to_lora_request(mixture))):
                return await super(MegaChat, self).create_chat_completion(*passed)

        tasks = [asyncio.create_task(recite(n, mixture)) for n, mixture in enumerate(mixtures)]
        try:
            return await asyncio.gather(*tasks)
        finally:  # when one fails, nobody waits for the others
            for task in tasks:
                task.cancel()


def _with_messages(request: Any, messages: list[dict[str, Any]]) -> Any:
    return request.model_copy(update={"messages": messages})
