"""vLLM's handlers with its own renderer and checks, without an engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from vllm import CompletionOutput, RequestOutput
from vllm.engine.arg_utils import EngineArgs
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.entrypoints.openai.models.protocol import BaseModelPath
from vllm.renderers.online_renderer import OnlineRenderer
from vllm.v1.engine.input_processor import InputProcessor

from vllm_mega.http.chat import MegaChat
from vllm_mega.http.completions import MegaCompletion
from vllm_mega.http.handlers import MegaModels
from vllm_mega.models import resolve_model


class Asked(NamedTuple):
    """What came to the engine."""

    prompt: Any
    sampling_params: Any
    mixture: Any

    @property
    def start(self) -> int | None:
        return (self.sampling_params.extra_args or {}).get("mega_start")


class Client:
    """An engine that answers with one word, or with what it is given to say."""

    errored = False
    dead_error = None

    def __init__(self, config: Any) -> None:
        self.vllm_config, self.model_config = config, config.model_config
        self.input_processor = InputProcessor(config)
        self.renderer = self.input_processor.renderer
        self.asked: list[Asked] = []
        self.says: list[str] = []
        """Its next answers."""

    def check_admission(self, n: int) -> None:
        pass

    async def is_tracing_enabled(self) -> bool:
        return False

    def generate(
        self, prompt: Any, sampling_params: Any, request_id: str, *, lora_request: Any, **_: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        self.asked.append(Asked(prompt, sampling_params, lora_request))
        return self._answer(prompt["prompt_token_ids"], request_id)

    async def _answer(self, ids: list[int], request_id: str) -> AsyncGenerator[RequestOutput, None]:
        said = CompletionOutput(
            0, self.says.pop(0) if self.says else "Yes.", [9], None, None, finish_reason="stop"
        )
        yield RequestOutput(request_id, None, ids, None, [said], finished=True)


class Handlers(NamedTuple):
    """Of one server."""

    chat: Any
    completion: Any
    client: Client
    renders: list[str]
    """What was rendered: the models that were asked for."""


def handlers(
    hook: Any, context: int, model: Path | None = None, template: str | None = None, **more: Any
) -> Handlers:
    """Both handlers, with vLLM's own ways to the engine.

    Args:
        hook: decides about mixtures.
        context: tokens that the model holds.
        model: its folder; None: the default model.
        template: Jinja, in place of the model's own; clients may send their own, too.
        more: options of vLLM's renderer and of its handler of chats.
    """
    path = str(model or resolve_model())
    client = Client(
        EngineArgs(path, max_model_len=context, max_num_batched_tokens=context).create_engine_config()
    )
    models: Any = MegaModels.__new__(MegaModels)
    models.registry = SimpleNamespace(is_base_model=lambda name: name == "base")
    models.base_model_paths, models.lora_requests = [BaseModelPath("base", path)], {}
    models.model_name = lambda lora_request=None: "base-mega"
    options: dict[str, Any] = {
        "chat_template": template,
        "chat_template_content_format": "auto",
        "trust_request_chat_template": True,
    }
    renderer: Any = OnlineRenderer(
        client.model_config, client.renderer, request_logger=None, **options, **more
    )
    renders: list[str] = []
    render = renderer.render_chat

    async def counted(request: Any, **more: Any) -> Any:
        renders.append(request.model)
        return await render(request, **more)

    renderer.render_chat = counted
    both: dict[str, Any] = {"online_renderer": renderer, "request_logger": None}
    made = [
        OpenAIServingChat(client, models, "assistant", **both, **options, **more),
        OpenAIServingCompletion(client, models, **both),
    ]
    for handler, ours in zip(made, (MegaChat, MegaCompletion), strict=True):
        handler.__class__, handler.mega = ours, hook
    return Handlers(*made, client, renders)
