"""The engine of the benchmark of prefixes, in a process of its own: see `engine_child`."""

from __future__ import annotations

import random
import statistics
import time
from typing import Any

import msgspec

from loadtests.engine_child import Job, engine, hold, lora_requests, serve
from vllm_mega.engine.start import starting_at

QUESTION = 32
"""Tokens behind the prefix, of every request its own."""
WIDTH = 2
"""Adapters of a mixture."""


class Ask(msgspec.Struct, frozen=True):
    """Requests behind one prefix, all at once."""

    prefix: int
    """Tokens that all requests begin with."""
    mixtures: str
    """none: the base model. equal: one for all. all-different: one for each, used by nobody before."""
    start: int
    """The position from which they act."""
    requests: int
    new_tokens: int
    """Of every answer."""
    seed: str
    """Of questions and mixtures."""


class Answered(msgspec.Struct, frozen=True):
    """What became of them."""

    seconds: float
    """Until the last answer was whole."""
    computed: float
    """Tokens of a prompt that were computed, mean; the others were in the cache."""


class Bench:
    """Sends requests through the engine's own step loop."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._llm = engine(job).llm_engine
        self._added = 0
        hold(self._llm, job)

    def measure(self, what: Ask) -> Answered:
        """Send them, and wait for all answers."""
        rng = random.Random(what.seed)  # noqa: S311
        prefix = _tokens(random.Random(what.prefix), what.prefix)  # noqa: S311
        prompts = [prefix + _tokens(rng, QUESTION) for _ in range(what.requests)]
        loras = self._loras(what, rng)
        begin = time.perf_counter()
        for prompt, lora in zip(prompts, loras, strict=True):
            self._add(prompt, lora, what)
        cached = self._finish()
        seconds = time.perf_counter() - begin
        return Answered(seconds, what.prefix + QUESTION - statistics.mean(cached))

    def _loras(self, what: Ask, rng: random.Random) -> list[Any]:
        if what.mixtures == "equal":
            rng = random.Random("equal")  # noqa: S311
            return [lora_requests(self._job, WIDTH, rng)()] * what.requests
        another = lora_requests(self._job, WIDTH if what.mixtures == "all-different" else 0, rng)
        return [another() for _ in range(what.requests)]

    def _add(self, prompt: list[int], lora: Any, what: Ask) -> None:
        from vllm import SamplingParams

        self._added += 1
        params = SamplingParams(
            temperature=0, max_tokens=what.new_tokens, ignore_eos=True, extra_args=starting_at(what.start)
        )
        self._llm.add_request(str(self._added), {"prompt_token_ids": prompt}, params, lora_request=lora)

    def _finish(self) -> list[int]:
        """Tokens of every prompt that were in the cache."""
        cached = []
        while self._llm.has_unfinished_requests():
            cached += [out.num_cached_tokens for out in self._llm.step() if out.finished]
        return cached


def _tokens(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(100, 40_000) for _ in range(count)]


if __name__ == "__main__":
    serve(Bench, Ask)
