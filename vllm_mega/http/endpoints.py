"""The endpoint plugin: gives the handlers of a vLLM server memory. No route is replaced, one is added."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path
from typing import Any

from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.entrypoints.openai.models.serving import OpenAIServingModels

from vllm_mega.access.audit import Audit
from vllm_mega.config import SUFFIX, MegaSettings
from vllm_mega.contract.checking import require
from vllm_mega.engine.checks import AdapterChecks
from vllm_mega.engine.configuration import WORKER_EXTENSION
from vllm_mega.engine.private import Salts
from vllm_mega.engine.settings import SETTINGS_KEY, settings_of
from vllm_mega.engine.upstream.applying import apply_to_server
from vllm_mega.engine.upstream.of_server import SERVER
from vllm_mega.errors import ConfigError, UpstreamError
from vllm_mega.home import RUN_FOLDER
from vllm_mega.hook.opening import gate_embedder, gate_over
from vllm_mega.http.bodies import CheckedBodies
from vllm_mega.http.chat import MegaChat
from vllm_mega.http.completions import MegaCompletion
from vllm_mega.http.console.routes import router as console
from vllm_mega.http.door import KeyCheck, keys_of
from vllm_mega.http.entrance import Entrance
from vllm_mega.http.expiring import keep_expiring
from vllm_mega.http.forgetting import Forgetting
from vllm_mega.http.handlers import MegaModels
from vllm_mega.http.keeper import READY
from vllm_mega.http.limit import RequestLimit
from vllm_mega.http.mcp import router as mcp
from vllm_mega.http.measures import MeasuredHook, count_uses
from vllm_mega.http.memories.routes import router as memories
from vllm_mega.http.memories.service import Service
from vllm_mega.http.metrics import router
from vllm_mega.http.plain_adapters import why_not
from vllm_mega.http.provenance import Provenance
from vllm_mega.http.ready import router as ready
from vllm_mega.http.server_keys import server_keys
from vllm_mega.http.tracing import spans_of
from vllm_mega.http.watch import Watch
from vllm_mega.models import resolve_model
from vllm_mega.models.control_tokens import control_tokens

logger = logging.getLogger(__name__)


class MegaEndpoints:
    """What vLLM loads from the group `vllm.endpoint_plugins`."""

    name = "vllm_mega"
    required_tasks = ("generate",)

    def attach_router(self, app: Any) -> None:
        """Guard and bound all routes, look at bodies before they are parsed, and add what can be watched.

        Without our settings the server is stock vLLM. The stock routes stay: they call the handlers that
        `init_state` changes.
        """
        args = app.state.args
        settings = settings_of(args)
        if settings is None:
            return
        apply_to_server()
        app.add_middleware(Provenance)
        app.add_middleware(CheckedBodies)  # what is added later is asked earlier
        app.add_middleware(RequestLimit, limit=settings.max_requests)
        _guard(app, args, settings)
        app.include_router(router)
        app.include_router(ready)
        app.include_router(memories)
        app.include_router(mcp)
        app.include_router(console)

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:  # noqa: ARG002
        """Give the server memory, if its configuration has our settings."""
        if folder := os.environ.get(RUN_FOLDER):
            state.mega_ready = asyncio.create_task(_tell_keeper(Path(folder)))
        settings = settings_of(engine_client.vllm_config)
        if settings is None:
            logger.warning("vllm_mega serves without memory: additional_config has no field %r", SETTINGS_KEY)
            return
        service = await attach(engine_client, state, settings)
        _open_routes(state, service)
        _follow(engine_client, state, service)


def _guard(app: Any, args: Any, settings: MegaSettings) -> None:
    """Let nobody in without a key, if there are keys.

    Raises:
        ConfigError: keys of two kinds, or a file that cannot be used.
    """
    api_keys = keys_of(args)
    keys = server_keys(settings, api_keys, os.environ)
    audit = None if settings.audit is None else Audit(Path(settings.audit))
    app.state.mega_guarded, app.state.mega_audit = bool(api_keys) or keys is not None, audit
    app.state.mega_keys = keys
    if api_keys:
        app.add_middleware(KeyCheck, tokens=api_keys)
    if keys is not None:
        app.add_middleware(Entrance, keys=keys, audit=audit)


async def _tell_keeper(folder: Path) -> None:
    """Say that this server hears signals, once vLLM has replaced the handler of its start-up."""
    starting = signal.getsignal(signal.SIGTERM)
    while signal.getsignal(signal.SIGTERM) is starting:
        await asyncio.sleep(0.05)
    (folder / READY).touch()


def _open_routes(state: Any, service: Service) -> None:
    """Give our own routes the bank, and what `_guard` has said of who may ask them."""
    service.audit = state.mega_audit
    if (keys := state.mega_keys) is not None:
        service.limits_of = lambda namespace: keys().limits_of(namespace)
    state.mega_memories = service
    state.mega_watch = Watch(service.gate.library)
    state.mega_expiring = asyncio.create_task(keep_expiring(service.catalog))


def _follow(engine_client: Any, state: Any, service: Service) -> None:
    """Have the engines let go of what is forgotten, from now on."""
    extension = engine_client.vllm_config.parallel_config.worker_extension_cls
    if extension != WORKER_EXTENSION:
        logger.warning(
            "the workers have the extension %s: forgotten memories stay in their memory until others need "
            "the room, and receipts tell nothing of this server", extension,
        )  # fmt: skip
        return
    ask = engine_client.engine_core.call_utility_all_async
    forgetting = Forgetting(service.gate.library, ask, end=service.settings.forget_running == "end")
    service.let_go = forgetting.let_go_now
    state.mega_forgetting = asyncio.create_task(forgetting.run())


async def attach(engine_client: Any, state: Any, settings: MegaSettings) -> Service:
    """Turn the ready handlers of `state` into ours; all there is between vLLM's handlers and memory.

    Returns:
        The bank as the handlers have it open.

    Raises:
        ConfigError, BankError, ModelError: the server cannot have the memory that is asked for.
        UpstreamError: vLLM is not the one that this was written for.
    """
    require(SERVER)
    lora_config = engine_client.vllm_config.lora_config
    if lora_config is None:
        raise ConfigError("memory needs LoRA: add --enable-lora (enable_lora: true)")
    if os.environ.get("VLLM_SKIP_MODEL_NAME_VALIDATION", "0") not in ("", "0"):
        raise ConfigError("VLLM_SKIP_MODEL_NAME_VALIDATION must be off: the model's name asks for memory")
    models = state.openai_serving_models
    taken = {path.name + SUFFIX for path in models.base_model_paths}
    taken &= {path.name for path in models.base_model_paths} | set(models.lora_requests)
    if taken:
        raise ConfigError(f"{', '.join(sorted(taken))} would be the name with memory: serve it under another")
    bank = Path(settings.bank)
    for name, plain in models.lora_requests.items():
        if reason := why_not(name, plain.lora_path, bank):
            raise ConfigError(f"the LoRA module {name}={plain.lora_path}: {reason}")
    slots = lora_config.max_loras
    model = engine_client.vllm_config.model_config
    trusted = model.trust_remote_code
    service = await asyncio.to_thread(_service, settings, model.model, slots, trust_remote_code=trusted)
    checks = AdapterChecks.of(engine_client.vllm_config)
    hook = MeasuredHook(service.gate, settings, slots, checks.begin)
    hook.spans = spans = spans_of(engine_client.vllm_config)
    become(models, OpenAIServingModels, MegaModels)
    models.bank = bank
    salts = Salts(service.catalog.secret)
    for handler, stock, ours in (
        (state.openai_serving_chat, OpenAIServingChat, MegaChat),
        (state.openai_serving_completion, OpenAIServingCompletion, MegaCompletion),
    ):
        become(handler, stock, ours)
        handler.mega, handler.salts, handler.spans = hook, salts, spans
        handler.control = control_tokens(handler.renderer.tokenizer)
    return service


def _service(settings: MegaSettings, model: str, slots: int, *, trust_remote_code: bool) -> Service:
    """What the routes about memories need; see `gate_embedder` and `gate_over`."""
    embedder = gate_embedder(settings, model, slots, trust_remote_code=trust_remote_code)
    gate = gate_over(settings, embedder, count_uses)
    return Service(gate, embedder, settings, resolve_model(model), trust_remote_code)


def become(handler: Any, stock: type, ours: type) -> None:
    """Make an instance of the class `stock` one of `ours`, which only adds methods.

    Raises:
        UpstreamError: vLLM built something else.
    """
    if type(handler) is not stock:
        raise UpstreamError(f"expected vLLM to build a {stock.__name__}, found {type(handler).__name__}")
    handler.__class__ = ours
