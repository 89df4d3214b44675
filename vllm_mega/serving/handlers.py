"""vLLM's chat and completion handlers, with memory: each asks the hook, the stock does the work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.serve.engine.protocol import ErrorResponse, ModelCard, ModelList, ModelPermission
from vllm.exceptions import VLLMValidationError
from vllm.lora.request import LoRARequest

from vllm_mega.engine.adapters import to_lora_request
from vllm_mega.errors import BankChangedError, MegaError, MemoryNotFoundError, RequestError
from vllm_mega.gate.gate import Decision
from vllm_mega.mixture import Mixture
from vllm_mega.serving import conversation
from vllm_mega.serving.deciding import Ask, describe, reading, recitals
from vllm_mega.serving.hook import MemoryHook
from vllm_mega.serving.schemas import FIELD, Plan, make_plan
from vllm_mega.serving.sse import annotate

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
def _calling(call: Call) -> Iterator[None]:
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


class _WithMemory:
    """What both handlers share; stands before the stock class in the order of resolution."""

    mega: MemoryHook
    models: MegaModels

    def _maybe_get_adapters(
        self, request: Any, supports_default_mm_loras: bool = False
    ) -> LoRARequest | None:
        call = _call.get()
        if call is not None:
            return call.lora_request
        return super()._maybe_get_adapters(request, supports_default_mm_loras)  # type: ignore[misc]

    def _plan(self, request: Any) -> Plan | None:
        """What the request wants of memory; None: it asks for a model without."""
        value = (request.model_extra or {}).get(FIELD)
        plan = make_plan(value, self.mega.settings)
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

    @staticmethod
    def _annotated(answer: Any, value: dict[str, Any]) -> Any:
        if isinstance(answer, AsyncGenerator):
            return annotate(answer, value)
        if not isinstance(answer, ErrorResponse):
            setattr(answer, FIELD, value)
        return answer


class MegaChat(_WithMemory, OpenAIServingChat):  # type: ignore[misc]  # vLLM is untyped to mypy
    """/v1/chat/completions."""

    control: frozenset[str] = frozenset()
    """How the control tokens of the model are spelled: what is recalled must not become one."""

    async def create_chat_completion(self, request: Any, raw_request: Any = None) -> Any:
        """The stock answer, from the mixture that the gate or the client chose, with the field `mega`."""
        try:
            plan = self._plan(request)
            if plan is None:
                return await super().create_chat_completion(request, raw_request)
            ask = Ask.about(plan, request.messages, self.mega.settings)
            decision, lora_request = await self.mega.route(ask)
            with _calling(Call(request.model, lora_request)):
                return await self._answer(plan, decision, request, raw_request)
        except MegaError as error:
            return self._refusal(error)

    async def _answer(self, plan: Plan, decision: Decision, request: Any, raw_request: Any) -> Any:
        recalled = None
        if decision.mixture and plan.mode == "recall":
            request = _with_messages(request, conversation.recall_messages(request.messages))
        elif decision.mixture and plan.mode == "irag":
            mixtures = recitals(decision)
            # Each a request of its own; the engine runs them in one batch.
            recalls = [self._recite(self._recall_of(request, len(mixtures)), m) for m in mixtures]
            replies = await asyncio.gather(*recalls)
            if refusal := next((reply for reply in replies if isinstance(reply, ErrorResponse)), None):
                return refusal
            recalled = conversation.context_of(
                [r.choices[0].message.content or "" for r in replies], self.control
            )
            request = _with_messages(request, conversation.informed_messages(request.messages, recalled))
            with _calling(Call(request.model, to_lora_request(reading(decision)))):
                answer = await super().create_chat_completion(request, raw_request)
            return self._annotated(answer, describe(plan, decision, recalled))
        answer = await super().create_chat_completion(request, raw_request)
        return self._annotated(answer, describe(plan, decision, recalled))

    async def _recite(self, recall: ChatCompletionRequest, mixture: Mixture) -> Any:
        with _calling(Call(recall.model, to_lora_request(mixture))):
            return await super().create_chat_completion(recall)

    def _recall_of(self, request: Any, recitals: int) -> ChatCompletionRequest:
        """The first step of irag: recite what a memory holds, greedily, as it was trained."""
        return ChatCompletionRequest(
            model=request.model,
            messages=conversation.recall_request(request.messages),
            temperature=0.0,
            max_completion_tokens=conversation.recall_tokens(self.model_config.max_model_len, recitals),
            priority=request.priority,
            cache_salt=request.cache_salt,
            chat_template=request.chat_template,
            chat_template_kwargs=request.chat_template_kwargs,
        )


def _with_messages(request: Any, messages: list[dict[str, Any]]) -> Any:
    return request.model_copy(update={"messages": messages})


class MegaCompletion(_WithMemory, OpenAIServingCompletion):  # type: ignore[misc]  # vLLM is untyped to mypy
    """/v1/completions: modes `adapter` and `off`, for there is no question to rewrite in a bare prompt."""

    async def create_completion(self, request: Any, raw_request: Any = None) -> Any:
        """The stock answer, from the mixture that the gate or the client chose, with the field `mega`."""
        try:
            plan = self._plan(request)
            if plan is None:
                return await super().create_completion(request, raw_request)
            if plan.mode not in ("adapter", "off"):
                raise RequestError(
                    f"/v1/completions has the modes 'adapter' and 'off', not {plan.mode!r}: "
                    f"set {FIELD}.mode, or ask at /v1/chat/completions",
                    f"{FIELD}.mode",
                )
            text = conversation.prompt_text(request.prompt) if plan.asks_gate else None
            decision, lora_request = await self.mega.route(Ask(plan, text))
            with _calling(Call(request.model, lora_request)):
                answer = await super().create_completion(request, raw_request)
            return self._annotated(answer, describe(plan, decision))
        except MegaError as error:
            return self._refusal(error)
