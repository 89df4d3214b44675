"""What we rely on in vLLM that is not the same in all releases that we take; `releases` copes. Data."""

from __future__ import annotations

from vllm_mega.contract.use import Use

_OPTIONS_MODULE = {
    "0.32": "vllm.entrypoints.launchers.cli_args",
    "0.33": "vllm.entrypoints.common.cli_args",
}
_ENVIRONMENT_MODULE = {
    "0.32": "vllm.entrypoints.serve.utils.api_utils",
    "0.33": "vllm.entrypoints.common.startup",
}
_BLOCKED = "schedulers have a hook that says whether a request may run now"

ENDED_REQUESTS = (
    Use(
        "vllm.v1.core.sched.scheduler",
        by="engine.upstream.releases",
        why="Requests in this set end with an error after the step.",
        until=_BLOCKED,
        says=("error_req_ids = set(self.grammar_compile_error_reqs)",),
        only="0.32",
    ),
    Use(
        "vllm.v1.core.sched.scheduler",
        by="engine.upstream.releases",
        why="Requests in this dictionary end after the step, each with the error that it has there.",
        until=_BLOCKED,
        says=(
            "request_errors = self.grammar_compile_error_reqs",
            "error_req_ids = set(request_errors)",
            "error=request_errors.get(request.request_id)",
        ),
        only="0.33",
    ),
    Use(
        "vllm.outputs:RequestError",
        by="engine.upstream.releases",
        why="What a client hears of a request that has ended.",
        until=_BLOCKED,
        reads="code message",
        only="0.33",
    ),
)
"""Where requests are scheduled."""

KEYS = tuple(
    Use(
        module,
        by="http.door",
        why="The keys that a server was started with.",
        says=("api_key: list[str] | None",),
        only=release,
    )
    for release, module in _OPTIONS_MODULE.items()
)
"""Where requests are answered."""

ENVIRONMENT = tuple(
    Use(
        module,
        by="engine.upstream.releases",
        why="As vLLM's own command line does.",
        until="vLLM's command line starts with the CPU build",
        calls={"cli_env_setup": ""},
        only=release,
    )
    for release, module in _ENVIRONMENT_MODULE.items()
)
"""Where a server starts."""

SERVER_OPTIONS = tuple(
    Use(
        module,
        by="batch.engine engine.upstream.releases http.given",
        why="What a user says of vLLM is read by vLLM's own parser.",
        calls={"make_arg_parser": "parser", "validate_parsed_serve_args": "args"},
        says=('"model_tag"',),
        only=release,
    )
    for release, module in _OPTIONS_MODULE.items()
)
"""Where options are read."""
