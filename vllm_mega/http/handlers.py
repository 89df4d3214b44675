"""What vLLM's handlers need to have memory: each asks the hook, the stock does the work."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, TypeVar

from msgspec.structs import replace
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

from vllm_mega.config import MODES, SUFFIX, MegaSettings, Mode
from vllm_mega.engine.private import Salts
from vllm_mega.errors import (
    BankChangedError,
    ForbiddenError,
    MegaError,
    MemoryNotFoundError,
    RequestError,
)
from vllm_mega.gate.gate import Decision
from vllm_mega.hook.hook import MemoryHook
from vllm_mega.hook.routed import Route, Routed
from vllm_mega.hook.starting import check_arguments
from vllm_mega.http.entrance import principal
from vllm_mega.http.plain_adapters import why_not
from vllm_mega.http.provenance import note
from vllm_mega.http.sse import annotate, explained
from vllm_mega.http.tracing import UNTRACED, Untraced
from vllm_mega.requests.schemas import FIELD, Plan, Start, make_plan
from vllm_mega.requests.usage import total

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """What the stock handler must use for the request that is being answered."""

    model: str
    lora_request: LoRARequest | None


@dataclass(frozen=True)
class Wanted:
    """What the prompts of one pass run with."""

    mixtures: Sequence[LoRARequest | None]
    """One each, or one for all."""
    start: Start | None
    """The client's; None: where the endpoint has it."""
    namespace: str
    """Whose memories."""
    texts: Sequence[str | None] = (None,)
    """What is read in each prompt: of a completion at its start, of a chat just before it. One each, or one
    for all; None: nothing."""
    parts: Sequence[tuple[str, ...]] = ((),)
    """Parts of memories that each prompt has, one each, or one for all."""


_call: ContextVar[Call | None] = ContextVar("mega_call", default=None)


def for_each(some: Sequence[T], prompts: int) -> Sequence[T]:
    """One for each prompt, where there is one each or one for all."""
    return some if len(some) > 1 else [*some] * prompts


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
        resolved = await super().resolve_lora(lora_name)
        if isinstance(resolved, LoRARequest) and (
            reason := why_not(lora_name, resolved.lora_path, self.bank)
        ):
            self.lora_requests.pop(lora_name, None)
            return create_error_response(reason, param="model")
        return resolved

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
    engine_client: Any
    control: frozenset[str] = frozenset()
    """How the control tokens of the model are spelled: what is recalled or read must not become one."""
    salts: Salts = Salts()
    """Of namespaces."""
    spans: Untraced = UNTRACED
    """What traces."""
    wanted: Wanted | None = None
    """Of the one pass that a copy of the handler is for."""
    routes: Sequence[Route] = ()
    """The same, once its prompts are known."""

    def _for(self, wanted: Wanted) -> Self:
        """A copy of the handler, for one pass."""
        handler = copy(self)
        handler.wanted = wanted
        return handler

    def _route(self, inputs: Sequence[Any], starts: Sequence[int], begins: Sequence[int]) -> None:
        """Let the prompts, inputs of the engine, run with what is wanted.

        Args:
            inputs: of the engine.
            starts: the tokens from which mixtures act.
            begins: the tokens from which there is anything of a memory: a mixture, or a text before it.
        """
        assert self.wanted is not None
        mixtures = for_each(self.wanted.mixtures, len(inputs))
        texts = for_each(self.wanted.texts, len(inputs))
        parts = for_each(self.wanted.parts, len(inputs))
        salt = self.salts.of(self.wanted.namespace)
        self.routes = [
            Route(mixture, start, (begin, salt) if mixture is not None or text is not None else None, has)
            for mixture, start, begin, text, has in zip(mixtures, starts, begins, texts, parts, strict=True)
        ]
        mixed = sum(mixture is not None for mixture in mixtures)
        self.spans.note(prompts=len(inputs), mixed=mixed, start=min(starts, default=0))
        self.engine_client = Routed(self.engine_client, inputs, self.routes)

    def _maybe_get_adapters(
        self, request: Any, supports_default_mm_loras: bool = False
    ) -> LoRARequest | None:
        call = _call.get()
        if call is not None:
            return call.lora_request
        return super()._maybe_get_adapters(request, supports_default_mm_loras)  # type: ignore[misc]

    async def _traced(self, raw_request: Any, work: Awaitable[T]) -> T:
        """`work`, in a span of the client's trace."""
        headers = None if raw_request is None else raw_request.headers
        return await self.spans.run("mega.request", work, headers)

    async def _get_trace_headers(self, headers: Mapping[str, str]) -> Any:
        return await super()._get_trace_headers(self.spans.naming(headers))  # type: ignore[misc]

    def _plan(self, request: Any, modes: Sequence[Mode] = MODES) -> Plan | None:
        """What the request wants of memory, in one of `modes`; None: it asks for a model without."""
        value = (request.model_extra or {}).get(FIELD)
        plan = make_plan(value, self._settings(), self.mega.slots, modes=modes)
        principal().check("read", plan.namespace)
        if self.models._has_memory(request.model):
            check_arguments(request.vllm_xargs, "vllm_xargs")
            return plan
        if value is not None and (plan.mode != "off" or plan.tools) and self._serves(request.model):
            raise RequestError(
                f"{request.model or 'the base model'} has no memory: "
                f"ask for {request.model or 'its name'}{SUFFIX}, or leave the field {FIELD} out",
                FIELD,
            )
        return None

    def _settings(self) -> MegaSettings:
        """The server's settings, with the namespace that this principal means when it names none."""
        settings = self.mega.settings
        home = principal().home(settings.namespace)
        return settings if home == settings.namespace else replace(settings, namespace=home)

    def _serves(self, name: str | None) -> bool:
        return not name or name in self.models.lora_requests or self.models.is_base_model(name)

    def _refusal(self, error: MegaError) -> ErrorResponse:
        message = str(error)
        if isinstance(error, RequestError):
            return self.create_error_response(message, param=error.param)  # type: ignore[attr-defined]
        if isinstance(error, ForbiddenError):
            return self.create_error_response(  # type: ignore[attr-defined]
                message, "PermissionDeniedError", HTTPStatus.FORBIDDEN, f"{FIELD}.namespace"
            )
        if isinstance(error, MemoryNotFoundError):
            kind, status = "NotFoundError", HTTPStatus.NOT_FOUND
        elif isinstance(error, BankChangedError):
            kind, status = "ServiceUnavailableError", HTTPStatus.SERVICE_UNAVAILABLE
        else:
            logger.error("a request was refused: %s", error)
            kind, status = "InternalServerError", HTTPStatus.INTERNAL_SERVER_ERROR
        return self.create_error_response(message, kind, status, f"{FIELD}.memories")  # type: ignore[attr-defined]

    async def _told(self, decisions: Sequence[Decision], answer: Awaitable[Any]) -> Any:
        """`answer`; where the engine ends the request for the sake of a memory, its client hears why."""

        async def why() -> str | None:
            reason = await self.mega.why_ended(decisions)
            return None if reason is None else self._refusal(reason).model_dump_json()

        try:
            answered = await answer
        except GenerationError as error:
            if (reason := await self.mega.why_ended(decisions)) is not None:
                raise reason from error
            raise
        return explained(answered, why) if isinstance(answered, AsyncGenerator) else answered

    @staticmethod
    def _annotated(
        answer: Any, value: Any, raw_request: Any, used: Mapping[str, Any] = MappingProxyType({})
    ) -> Any:
        """`answer` with the field `mega` and its header, and with what earlier passes have `used`."""
        if isinstance(answer, ErrorResponse):
            return answer
        note(raw_request, value)
        if isinstance(answer, AsyncGenerator):
            return annotate(answer, value, used)
        setattr(answer, FIELD, value)
        if used:
            answer.usage = UsageInfo.model_validate(total(answer.usage.model_dump(), used))
        return answer
