"""What differs between the releases of vLLM that we take; what calls it knows of no release.

The contract names each form with the release that has it (`Use.only`).
"""

from __future__ import annotations

from typing import Any

from vllm_mega.contract.checking import version
from vllm_mega.contract.tested import release


def end_with_error(scheduler: Any, request_id: str) -> None:
    """Have a request that waits end with an error, once the step is done.

    0.32 keeps the ids alone, and says "Internal server error"; 0.33 keeps what the client hears. What is
    wrong with an adapter names folders: it is told by who knows what a client may read.
    """
    errors = scheduler.grammar_compile_error_reqs
    if _is("0.32"):
        errors.add(request_id)
        return
    from vllm.outputs import RequestError

    errors[request_id] = RequestError(code="internal_error", message="Internal server error")


def server_options() -> Any:
    """The module that reads the options of a server."""
    if _is("0.32"):
        from vllm.entrypoints.launchers import cli_args as older

        return older
    from vllm.entrypoints.common import cli_args

    return cli_args


def prepare_environment() -> None:
    """What vLLM's command line sets before anything else."""
    if _is("0.32"):
        from vllm.entrypoints.serve.utils import api_utils

        api_utils.cli_env_setup()
        return
    from vllm.entrypoints.common import startup

    startup.cli_env_setup()


def _is(wanted: str) -> bool:
    return release("vllm", version("vllm")) == wanted
