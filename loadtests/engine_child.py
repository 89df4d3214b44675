"""One engine of the benchmark, in a process of its own: takes measurements to make on standard input.

`loadtests.engine` starts one per kind of engine; they wait for their turn, so that every figure has its
neighbour of another engine within the same minute. Lines are JSON: a `Job` first, then `Measurement`s;
each is answered by one line.
"""

from __future__ import annotations

import os
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec

PROMPT, NEW_TOKENS = 32, 32
PREFILL_PROMPTS, PREFILL_TOKENS = 8, 512
SLOTS = 8
REPLAY_REQUESTS, REPLAY_RATE, REPLAY_TOKENS, REPLAY_ZIPF = 60, 2.0, 8, 1.1
"""A replay: requests, a second, new tokens of each, popularity of memories."""


class Job(msgspec.Struct, frozen=True):
    """What engine this process is."""

    kind: str
    """base: vLLM without LoRA. stock: vLLM's own LoRA, plugin off. mega: ours."""
    model: str
    dtype: str
    compiled: bool
    rank: int
    modules: list[str]
    adapters: list[tuple[str, str]]
    """(content hash, folder); none for base."""
    slots: int = SLOTS
    host: int | None = None
    """Adapters in host memory (`max_cpu_loras`); None: as many as slots."""
    length: int = 1024
    """Most tokens of a request."""
    caching: bool = False
    """Whether prefixes are cached."""
    share: float | None = None
    """Of the GPU's memory, which engines share; None: on a CPU."""


class Measurement(msgspec.Struct, frozen=True):
    """One thing to measure."""

    load: str
    k: int
    """Adapters of a mixture, every request another one; 0: base model."""
    seed: int


class Figure(msgspec.Struct, frozen=True):
    """Speed, memory and times of one load in one engine."""

    tokens_per_s: float
    peak_mib: float
    """Of this process since it started."""
    ttft_s: list[float] = []
    """Of every request of a replay, in the order of arrival."""
    residency: dict[str, float] = {}
    """Of a replay: what the worker counted."""


def engine(job: Job) -> Any:
    """A vLLM engine in this process, as the job wants it."""
    from vllm import LLM

    options: dict[str, Any] = {}
    if job.kind != "base":
        options = {"enable_lora": True, "max_loras": job.slots, "max_lora_rank": max(8, job.rank)}
        options["lora_target_modules"] = job.modules
    if job.kind == "mega":
        options["max_cpu_loras"] = job.host or job.slots
        options["additional_config"] = {"mega": {"bank": "none"}}
    if job.share is not None:
        options["gpu_memory_utilization"] = job.share
    return LLM(
        job.model,
        dtype=job.dtype,
        enforce_eager=not job.compiled,
        max_model_len=job.length,
        max_num_seqs=64,
        max_num_batched_tokens=2048,
        enable_prefix_caching=job.caching,
        **options,
    )


def lora_requests(job: Job, k: int, rng: random.Random) -> Callable[[], Any]:
    """What makes the LoRA request of the next request: a new mixture each time, or the one adapter."""
    if k == 0:
        return lambda: None
    if job.kind == "stock":
        from vllm.lora.request import LoRARequest

        return lambda: LoRARequest("one", 1, job.adapters[0][1])
    from vllm_mega.engine.adapters import to_lora_request
    from vllm_mega.mixture import Mixture

    def mixture() -> Any:
        parts = [(*adapter, rng.randint(1, 64) / 64) for adapter in rng.sample(job.adapters, k)]
        return to_lora_request(Mixture(parts))

    return mixture


def hold(llm: Any, job: Job) -> None:
    """Have all adapters in slots, from the beginning."""
    from vllm_mega.engine.adapters import to_lora_request
    from vllm_mega.mixture import Mixture

    for adapter in job.adapters:
        llm.add_lora(to_lora_request(Mixture([(*adapter, 1.0)])))


class Bench:
    """Runs loads through the engine's own step loop."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._llm = engine(job).llm_engine
        self._added = 0
        if job.kind == "mega" and job.slots == len(job.adapters):
            hold(self._llm, job)

    def measure(self, what: Measurement) -> Figure:
        """Tokens per second: new ones for decode, of the prompts for prefill, both for mixed."""
        rng = random.Random(f"{what.load} {what.k} {what.seed}")  # noqa: S311
        self._lora = lora_requests(self._job, what.k, rng)
        self._rng = rng
        if what.load == "replay":
            return self._replay(rng)
        rate = self._mixed() if what.load == "mixed" else self._one_kind(what.load)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return Figure(rate, peak)

    def _add(self, prompt: int, new: int) -> None:
        from vllm import SamplingParams

        self._added += 1
        tokens = {"prompt_token_ids": [self._rng.randrange(100, 40_000) for _ in range(prompt)]}
        params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True)
        self._llm.add_request(str(self._added), tokens, params, lora_request=self._lora())

    def _finish(self) -> list[float]:
        """Seconds of every step to the end."""
        seconds = []
        while self._llm.has_unfinished_requests():
            start = time.perf_counter()
            self._llm.step()
            seconds.append(time.perf_counter() - start)
        return seconds

    def _one_kind(self, load: str) -> float:
        if load == "prefill":
            for _ in range(PREFILL_PROMPTS):
                self._add(PREFILL_TOKENS, 1)
            return PREFILL_PROMPTS * PREFILL_TOKENS / sum(self._finish())
        count = int(load.removeprefix("decode"))
        for _ in range(count):
            self._add(PROMPT, NEW_TOKENS)
        for _ in range(-(-count * PROMPT // 2048) + 1):  # prompts, then one step to settle
            self._llm.step()
        # All steps are alike, so the median is what a step costs when nobody else takes the cores.
        return count / statistics.median(self._finish())

    def _replay(self, rng: random.Random) -> Figure:
        """Requests for one memory each, of Zipf popularity, come in a Poisson stream."""
        from vllm import SamplingParams

        from vllm_mega.engine.adapters import to_lora_request
        from vllm_mega.mixture import Mixture

        adapters = self._job.adapters
        weights = [1 / rank**REPLAY_ZIPF for rank in range(1, len(adapters) + 1)]
        chosen = rng.choices(adapters, weights, k=REPLAY_REQUESTS)
        at, arrivals = 0.0, []
        for _ in chosen:
            at += rng.expovariate(REPLAY_RATE)
            arrivals.append(at)
        params = SamplingParams(temperature=0, max_tokens=REPLAY_TOKENS, ignore_eos=True)
        first: dict[str, float] = {}
        begin, sent = time.perf_counter(), 0
        while sent < len(chosen) or self._llm.has_unfinished_requests():
            now = time.perf_counter() - begin
            while sent < len(chosen) and arrivals[sent] <= now:
                tokens = [rng.randrange(100, 40_000) for _ in range(PROMPT)]
                lora = to_lora_request(Mixture([(*chosen[sent], 1.0)]))
                self._llm.add_request(
                    f"replay-{sent}", {"prompt_token_ids": tokens}, params, lora_request=lora
                )
                sent += 1
            if not self._llm.has_unfinished_requests():
                time.sleep(0.001)
                continue
            for output in self._llm.step():
                name = output.request_id
                first.setdefault(name, time.perf_counter() - begin)
        waits = [first[f"replay-{n}"] - arrivals[n] for n in range(len(chosen))]
        seconds = time.perf_counter() - begin
        counts = msgspec.structs.asdict(self._manager().residency())
        rate = len(chosen) * REPLAY_TOKENS / seconds
        return Figure(rate, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, waits, counts)

    def _manager(self) -> Any:
        worker = self._llm.engine_core.engine_core.model_executor.driver_worker.worker
        return worker.model_runner.lora_manager

    def _mixed(self) -> float:
        """Eight requests decode while six longer prompts come in one by one."""
        start = time.perf_counter()
        for _ in range(8):
            self._add(PROMPT, NEW_TOKENS)
        for _ in range(6):
            for _ in range(4):
                self._llm.step()
            self._add(192, 8)
        self._finish()
        return (8 * (PROMPT + NEW_TOKENS) + 6 * (192 + 8)) / (time.perf_counter() - start)


def serve(bench: Callable[[Job], Any], asked: type[msgspec.Struct]) -> None:
    """Be the engine that the first line describes, to the end of standard input.

    Args:
        bench: makes what measures; its `measure` is called with every other line.
        asked: the type of these.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # vLLM may print what it likes
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
    made = bench(job)
    if ("vllm_mega.engine.upstream" in sys.modules) != (job.kind == "mega"):
        sys.exit(f"the plugin must be on for mega and off for others; this is {job.kind}")
    answers.write(b"ready\n")
    for line in sys.stdin.buffer:
        figure = made.measure(msgspec.json.decode(line, type=asked))
        answers.write(msgspec.json.encode(figure) + b"\n")


if __name__ == "__main__":
    serve(Bench, Measurement)
