"""`vllm bench serve` as a library: its load generator and its clocks, with a mixture for each request.

The command itself does not start with the CPU build, and sends one extra body for all requests. The
function behind it takes any list of `SampleRequest`, and these carry fields of their own for the body
(`request_overrides`): nothing has to be patched.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loadtests.scenarios import Request
from loadtests.summary import Run, Sample

NEW_TOKENS = 32
"""Of every answer: the end-of-text token is ignored."""


class BenchClient:
    """Sends requests to a server and times the answers.

    Args:
        url: root of the server, on the loopback interface.
        concurrency: most requests in flight.
        rate: requests per second (Poisson); infinity: the next one goes as soon as there is room.
        seed: of the arrival times, which are the same in every run.
        log: gets what vLLM's benchmark prints.
    """

    def __init__(self, url: str, concurrency: int, rate: float, seed: int, log: Path) -> None:
        self._url = url
        self._concurrency = concurrency
        self._rate = rate
        self._seed = seed
        self._log = log
        # aiohttp would go by HTTP_PROXY even to this machine.
        for name in ("no_proxy", "NO_PROXY"):
            os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1"]))

    def run(self, scenario: str, model: str, requests: Sequence[Request], limit: float) -> Run:
        """Send all requests to `model` and wait for the answers.

        Raises:
            TimeoutError: they took more than `limit` seconds.
        """
        with (
            self._log.open("a", encoding="utf-8") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            figures = asyncio.run(asyncio.wait_for(self._benchmark(model, requests), limit))
        return to_run(scenario, figures)

    async def _benchmark(self, model: str, requests: Sequence[Request]) -> dict[str, Any]:
        from vllm.benchmarks.serve import TaskType, benchmark

        # The arrival times are drawn from NumPy's global generator.
        np.random.seed(self._seed)
        figures: dict[str, Any] = await benchmark(
            task_type=TaskType.GENERATION,
            endpoint_type="openai",
            api_url=f"{self._url}/v1/completions",
            base_url=self._url,
            model_id=model,
            model_name=model,
            tokenizer=None,
            input_requests=list(map(_sample, requests)),
            logprobs=None,
            request_rate=self._rate,
            burstiness=1.0,
            disable_tqdm=True,
            num_warmups=0,
            profile=False,
            selected_percentile_metrics=[],
            selected_percentiles=[],
            ignore_eos=True,
            goodput_config_dict={},
            max_concurrency=self._concurrency,
            lora_modules=None,
            extra_headers=None,
            extra_body={"temperature": 0},
            ready_check_timeout_sec=0,
        )
        return figures


def _sample(request: Request) -> Any:
    """The request as vLLM's benchmark takes it."""
    from vllm.benchmarks.datasets import SampleRequest

    return SampleRequest(
        prompt=request.prompt,
        prompt_len=0,  # the server's count replaces it
        expected_output_len=NEW_TOKENS,
        request_overrides=request.extra,
    )


def to_run(scenario: str, figures: dict[str, Any]) -> Run:
    """What vLLM's benchmark found, request by request; an answer that is too short is an error."""
    samples: list[Sample] = []
    errors: list[str] = []
    columns = (figures[name] for name in ("ttfts", "latencies", "output_lens", "errors"))
    for ttft, latency, tokens, error in zip(*columns, strict=True):
        if error or tokens != NEW_TOKENS:
            reason = str(error).strip().rpartition("\n")[2]  # of a traceback, what was raised
            errors.append(reason or f"{tokens} tokens instead of {NEW_TOKENS}")
        else:
            samples.append(Sample(float(ttft), float(latency), int(tokens)))
    return Run(scenario, float(figures["duration"]), tuple(samples), tuple(errors))
