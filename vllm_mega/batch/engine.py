"""The server's handlers without the server: an engine in this process that answers request bodies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.datastructures import State
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve import create_error_response
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.utils.argparse_utils import FlexibleArgumentParser

from vllm_mega.batch.lines import CHAT, Job, Reply
from vllm_mega.config import MegaSettings
from vllm_mega.contract.checking import require
from vllm_mega.engine.upstream.of_starting import BATCH
from vllm_mega.engine.upstream.releases import server_options
from vllm_mega.http.endpoints import attach


class BatchEngine:
    """Answers jobs as the server would: the same handlers, the same mixtures."""

    def __init__(self, client: Any, state: Any) -> None:
        self._client = client
        self._state = state

    async def answer(self, job: Job) -> Reply:
        """The response to one request, or the error that a client of the server would get.

        Raises:
            Exception: the engine is dead.
        """
        if job.refusal is not None:
            return job.refusal
        try:
            if job.url == CHAT:
                request = ChatCompletionRequest.model_validate(job.body)
                response = await self._state.openai_serving_chat.create_chat_completion(request)
            else:
                request = CompletionRequest.model_validate(job.body)
                response = await self._state.openai_serving_completion.create_completion(request)
        except Exception as error:
            if self._client.errored:
                raise
            response = create_error_response(error)
        status = response.error.code if isinstance(response, ErrorResponse) else 200
        return Reply(status, response.model_dump(mode="json"))


@asynccontextmanager
async def batch_engine(model: str, argv: Sequence[str], settings: MegaSettings) -> AsyncIterator[BatchEngine]:
    """Start the engine with the options of `vllm serve`, and give its handlers memory.

    Args:
        model: path or id of the checkpoint.
        argv: the options, as words.
        settings: for the handlers.

    Raises:
        UpstreamError: vLLM is not the one that this was written for.
    """
    require(BATCH)
    options = server_options()
    args = options.make_arg_parser(FlexibleArgumentParser()).parse_args([model, *argv])
    args.model = args.model_tag
    options.validate_parsed_serve_args(args)
    async with build_async_engine_client(args) as client:
        state = State()
        await init_app_state(client, state, args, await client.get_supported_tasks())
        await attach(client, state, settings)
        yield BatchEngine(client, state)
