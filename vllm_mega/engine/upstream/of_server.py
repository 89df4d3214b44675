"""What we rely on in vLLM where requests are answered. Data."""

from __future__ import annotations

from vllm_mega.contract.use import Use
from vllm_mega.engine.upstream.of_releases import KEYS
from vllm_mega.engine.upstream.of_tool_calls import TOOL_CALLS

_HANDLERS = "vLLM lets a plugin stand before its handlers"
_ENDPOINT = "plugins are given the ready handlers"

SERVER = (
    Use(
        "vllm.plugins.endpoint_plugins.interface:EndpointPlugin",
        by="http.endpoints",
        why="MegaEndpoints is one.",
        overrides={
            "attach_router": "self app",
            "init_state": "async self engine_client state args",
        },
        reads="name required_tasks",
    ),
    Use(
        "vllm.entrypoints.launchers.api_server.app_state",
        by="http.endpoints http.limit http.metrics",
        why="Where the ready handlers are.",
        until=_ENDPOINT,
        says=("state.engine_client = ", "state.openai_serving_models = ", "state.vllm_config = "),
    ),
    Use(
        "vllm.entrypoints.generate.api_router",
        by="batch.engine http.endpoints",
        why="Where the ready handlers are.",
        until=_ENDPOINT,
        says=("state.openai_serving_chat = ", "state.openai_serving_completion = "),
    ),
    Use(
        "vllm.entrypoints.launchers.launcher",
        by="http.endpoints",
        why="From here on a server hears signals; the keeper is told.",
        until="a server that starts up ends when it is asked to",
        says=("loop.add_signal_handler(signal.SIGTERM",),
    ),
    Use(
        "vllm.entrypoints.launchers.launcher",
        by="http.memories.routes",
        why="A server that ends waits for its answers: streams of events look whether it does.",
        until="plugins hear that a server ends",
        says=("app.state.server = server", "server.should_exit = True"),
    ),
    Use(
        "vllm.entrypoints.openai.models.serving:OpenAIServingModels",
        by="http.endpoints http.handlers",
        why="MegaModels serves every base name once more, with memory.",
        until=_HANDLERS,
        swapped=True,
        overrides={
            "is_base_model": "self model_name",
            "model_name": "self lora_request=",
            "_check_load_lora_adapter_request": "async self request",
            "resolve_lora": "async self lora_name",
            "show_available_models": "async self",
        },
        reads="base_model_paths lora_requests model_config",
        adds="_has_memory bank",
    ),
    Use(
        "vllm.entrypoints.openai.models.protocol:BaseModelPath",
        by="http.endpoints http.handlers",
        why="Names under which the model is served.",
        until=_HANDLERS,
        reads="model_path name",
    ),
    Use(
        "vllm.entrypoints.openai.chat_completion.serving:OpenAIServingChat",
        by="http.beforehand http.chat http.endpoints http.handlers http.tool_rounds hook.starting",
        why="MegaChat answers in the passes of each mode.",
        until=_HANDLERS,
        swapped=True,
        overrides={
            "create_chat_completion": "async self request raw_request=",
            "render_chat_request": "async self request",
            "_get_trace_headers": "async self headers",
            "_maybe_get_adapters": "self request supports_default_mm_loras=",
        },
        calls={
            "_check_model": "async request",
            "_extract_prompt_components": "prompt",
            "_extract_prompt_len": "prompt",
            "_preflight": "n",
            "create_error_response": "message err_type status_code param",
        },
        reads="default_sampling_params enable_auto_tools engine_client input_processor model_config models "
        "online_renderer override_max_tokens parser_cls renderer",
        adds="_annotated _answer _for _pass _plan _recite _refusal _remembering _route _serves _settings "
        "_starts _told _traced control mega routes salts spans wanted",
    ),
    Use(
        "vllm.entrypoints.openai.completion.serving:OpenAIServingCompletion",
        by="http.completions http.endpoints http.handlers hook.inserting hook.starting",
        why="MegaCompletion gives every prompt its mixture.",
        until=_HANDLERS,
        swapped=True,
        overrides={
            "create_completion": "async self request raw_request=",
            "render_completion_request": "async self request",
            "_get_trace_headers": "async self headers",
            "_maybe_get_adapters": "self request supports_default_mm_loras=",
        },
        calls={
            "_extract_prompt_components": "prompt",
            "_extract_prompt_len": "prompt",
            "create_error_response": "message err_type status_code param",
        },
        reads="engine_client model_config models online_renderer renderer",
        adds="_annotated _answer _for _plan _refusal _remembering _route _said _serves _settings _texts "
        "_told _traced control mega routes salts spans wanted",
    ),
    Use(
        "vllm.renderers.online_renderer:OnlineRenderer",
        by="http.beforehand hook.inserting hook.starting",
        why="A prompt is rendered once more, to see where the question begins and how much room it leaves; "
        "so are texts that are put into it.",
        until="rendered prompts say which tokens each message has",
        calls={
            "render_chat": "async request skip_mm_cache=",
            "render_completion": "async request",
        },
    ),
    Use(
        "vllm.renderers.inputs.preprocess:PromptComponents",
        by="hook.inserting hook.starting",
        why="The tokens of a rendered prompt.",
        until="rendered prompts say which tokens each message has",
        reads="token_ids",
    ),
    Use(
        "vllm.renderers.base:BaseRenderer",
        by="hook.inserting http.completions http.endpoints offline_chat",
        why="Token ids are decoded for the gate; the control tokens of the model must not be recited.",
        calls={
            "render_chat": "conversations chat_params tok_params skip_mm_cache=",
            "validate_token_ids": "token_ids parameter=",
        },
        reads="default_chat_tok_params tokenizer",
    ),
    Use(
        "vllm.tokenizers.protocol:TokenizerLike",
        by="hook.inserting",
        why="The token that begins every prompt stays the first where a text is put before it.",
        reads="bos_token_id",
    ),
    Use(
        "vllm.engine.protocol:EngineClient",
        by="batch.engine http.endpoints http.metrics http.ready hook.routed",
        why="Routed stands in for it: the prompts of a request run each with its own mixture.",
        until=_HANDLERS,
        calls={"check_health": "async", "generate": "prompt sampling_params request_id lora_request="},
        reads="errored vllm_config",
    ),
    Use(
        "vllm.v1.engine.exceptions",
        by="http.forgetting http.ready",
        why="An engine that is dead answers nobody: the server is not ready, and there is nothing to forget.",
        reads="EngineDeadError",
    ),
    Use(
        "vllm.v1.engine.async_llm:AsyncLLM",
        by="batch.engine http.endpoints http.metrics",
        why="The client of a server's engines.",
        calls={"get_supported_tasks": "async"},
        reads="engine_core",
    ),
    Use(
        "vllm.v1.engine.core_client:AsyncMPClient",
        by="http.endpoints http.metrics",
        why="All data-parallel engines are asked, and tell what each says.",
        until="`EngineClient.collective_rpc` tells what every engine says",
        calls={"call_utility_all_async": "async method method timeout args kwargs"},
    ),
    Use(
        "vllm.entrypoints.openai.chat_completion.protocol:ChatCompletionRequest",
        by="batch.engine http.beforehand http.chat http.handlers http.recital http.tool_rounds hook.starting",
        why="A recital is a request of its own, made of the client's.",
        calls={
            "to_beam_search_params": "max_tokens default_sampling_params",
            "to_sampling_params": "max_tokens default_sampling_params",
        },
        reads="cache_salt chat_template chat_template_kwargs echo frequency_penalty kv_transfer_params "
        "max_completion_tokens max_tokens messages min_p model n presence_penalty priority "
        "repetition_penalty request_id return_token_offsets session_id stream temperature tool_choice tools "
        "top_k top_p "
        "truncate_prompt_tokens truncation_side use_beam_search vllm_xargs",
    ),
    Use(
        "vllm.entrypoints.openai.completion.protocol:CompletionRequest",
        by="batch.engine http.completions http.handlers hook.starting",
        why="What a completion request says of its prompts.",
        reads="echo kv_transfer_params model prompt prompt_embeds truncate_prompt_tokens use_beam_search "
        "vllm_xargs",
    ),
    Use(
        "vllm.entrypoints.openai.chat_completion.protocol:ChatCompletionResponse",
        by="http.chat http.handlers http.tool_rounds requests.usage",
        why="What a recital says; usage is added up over passes.",
        reads="choices usage",
    ),
    *TOOL_CALLS,
    Use(
        "vllm.entrypoints.openai.completion.protocol:CompletionResponse",
        by="http.handlers",
        why="Usage is added up over passes.",
        reads="usage",
    ),
    *KEYS,
    Use(
        "vllm.entrypoints.serve.engine.protocol:ErrorResponse",
        by="batch.engine http.beforehand http.bodies http.chat http.completions "
        "http.handlers http.limit http.metrics http.tool_rounds hook.inserting hook.starting",
        why="Handlers return their refusals.",
        reads="error",
    ),
    Use(
        "vllm.entrypoints.serve.engine.protocol:ErrorInfo",
        by="batch.engine http.bodies http.metrics http.sse http.tool_rounds",
        why="Handlers return their refusals.",
        reads="code message",
    ),
    Use(
        "vllm.entrypoints.serve.engine.protocol:ModelCard",
        by="http.handlers",
        why="Names with memory are listed beside the others.",
        reads="id max_model_len parent permission root",
    ),
    Use(
        "vllm.entrypoints.serve.engine.protocol:ModelList",
        by="http.handlers",
        why="Names with memory are listed beside the others.",
        reads="data",
    ),
    Use(
        "vllm.entrypoints.serve.engine.protocol",
        by="http.handlers http.tool_rounds",
        why="Names with memory are listed beside the others; usage is added up over passes.",
        reads="ModelPermission UsageInfo",
    ),
    Use(
        "vllm.entrypoints.serve",
        by="batch.engine http.bodies http.entrance http.handlers http.limit http.memories.answering "
        "http.metrics",
        why="Our refusals look as vLLM's.",
        calls={"create_error_response": "message err_type status_code param="},
    ),
    Use(
        "vllm.entrypoints.serve.utils.api_utils",
        by="http.beforehand",
        why="What an answer may have.",
        calls={
            "get_max_tokens": "max_model_len max_tokens input_length default_sampling_params "
            "override_max_tokens truncate_prompt_tokens="
        },
    ),
    Use(
        "vllm.entrypoints.serve.middleware.authenticate:AuthenticationMiddleware",
        by="http.door",
        why="KeyCheck guards every path, not four prefixes.",
        until="vLLM asks for its key everywhere",
        overrides={"__call__": "self scope receive send"},
        calls={"__init__": "app tokens=", "verify_token": "headers"},
        reads="app",
    ),
    Use(
        "vllm.exceptions",
        by="http.chat http.handlers http.tool_rounds offline_chat hook.starting",
        why="What vLLM refuses, and what an engine ends.",
        reads="GenerationError VLLMValidationError",
    ),
    Use(
        "vllm.exceptions:VLLMValidationError",
        by="http.handlers",
        why="A name with memory is refused where there is none.",
        calls={"__init__": "message parameter="},
    ),
)
"""Where handlers get memory: in servers, and for files of requests."""
