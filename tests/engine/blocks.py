"""vLLM's real block manager and requests, our keys and our routing; no model.

In its place every token's KV is named by what decides it: the tokens up to here, what computed each, and
whose alone it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from vllm import SamplingParams
from vllm.lora.request import LoRARequest
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.kv_cache_utils import get_request_block_hasher
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.request import Request

from vllm_mega.engine import runners
from vllm_mega.engine.adapters import to_lora_request
from vllm_mega.engine.private import PRIVATE, private_from
from vllm_mega.engine.start import START, acting_start, starting_at
from vllm_mega.mixture import Mixture

PREFIX = tuple(range(40))
LORAS: tuple[Any, ...] = (
    None,
    LoRARequest("plain", 1, "/adapters/plain"),
    to_lora_request(Mixture([("a" * 64, "/a", 1.0)])),
    to_lora_request(Mixture([("a" * 64, "/a", 0.5), ("b" * 64, "/b", 0.5)])),
)


class WrongBlockError(AssertionError):
    """A request was given a block that it would not have computed."""


class LostBlockError(AssertionError):
    """A request was not given a block that it would have computed."""


@dataclass
class Asked:
    """A request, and how it is run."""

    lora: int
    start: int
    shared: int
    """Tokens of the prompt that are the common prefix."""
    own: int
    answer: int
    chunks: list[int]
    """Tokens of its steps, again and again."""
    salt: str = ""
    """Whose its blocks are from start on; empty: everybody's."""


@dataclass
class Scenario:
    asked: list[Asked]
    turns: list[int]
    """Whose turn it is, again and again."""
    tokens: int
    """Room for so many."""
    size: int
    """Of a block."""


chunks = st.lists(st.integers(1, 17), min_size=1, max_size=4)
asked = st.builds(
    Asked,
    lora=st.sampled_from((0, 1, 2, 2, 2, 3, 3)),
    start=st.one_of(st.sampled_from((0, 4, 8, 16, 99)), st.integers(0, 44)),
    shared=st.sampled_from((0, 15, 16, 30, 40)),
    own=st.integers(1, 5),
    answer=st.integers(0, 9),
    chunks=chunks,
    salt=st.sampled_from(("", "", "sea", "land")),
)
scenarios = st.builds(
    Scenario,
    asked=st.lists(asked, min_size=2, max_size=7),
    turns=st.lists(st.integers(0, 6), min_size=1, max_size=8),
    tokens=st.integers(64, 240),
    size=st.sampled_from((4, 4, 8, 16)),
)


def request_of(asked: Asked, n: int, size: int) -> Request:
    told = starting_at(asked.start) | (private_from(asked.start, asked.salt) if asked.salt else {})
    params = SamplingParams(max_tokens=asked.answer + 1, extra_args=told)
    return Request(
        request_id=str(n),
        prompt_token_ids=[*PREFIX[: asked.shared], *range(100, 100 + asked.own)],
        sampling_params=params,
        pooling_params=None,
        lora_request=LORAS[asked.lora],
        block_hasher=get_request_block_hasher(size, sha256),
    )


def name(before: int, token: int, adapter: int, owner: str) -> int:
    return hash((before, token, adapter, owner))


def owner(request: Request, position: int, size: int) -> str:
    """The salt of whom a token's block belongs to: from the block on in which the private ones begin."""
    begin, _, salt = request.sampling_params.extra_args.get(PRIVATE, "0:").partition(":")
    return salt if position // size >= int(begin) // size else ""


def should_be(request: Request, size: int) -> list[int]:
    """By the definition: the mixture computes the tokens from start on, the base model those before."""
    kind, names, last = LORAS.index(request.lora_request), [], 0
    start = request.sampling_params.extra_args[START] if kind >= 2 else 0
    for position, token in enumerate(request.all_token_ids):
        acts = position >= min(start, request.num_prompt_tokens)
        last = name(last, token, kind if acts else 0, owner(request, position, size))
        names.append(last)
    return names


@dataclass
class World:
    """An engine without a model."""

    scenario: Scenario
    kv: dict[tuple[int, int], int] = field(default_factory=dict)
    """What each place of each block holds."""
    running: list[tuple[Request, Asked]] = field(default_factory=list)
    full: bool = False
    """Somebody was preempted, and nobody has finished since."""
    preempted: int = 0
    hits: int = 0

    def __post_init__(self) -> None:
        self.size = self.scenario.size
        spec = FullAttentionSpec(block_size=self.size, num_kv_heads=1, head_size=1, dtype=torch.float32)
        config = KVCacheConfig(
            num_blocks=max(self.scenario.tokens // self.size, 60 // self.size + 2),
            kv_cache_tensors=[],
            kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
        )
        self.manager = KVCacheManager(
            config, max_model_len=100, scheduler_block_size=self.size, hash_block_size=self.size
        )
        self.waiting = [(request_of(a, n, self.size), a) for n, a in enumerate(self.scenario.asked)]

    def run(self) -> World:
        for n in range(400):
            if not self.waiting and not self.running:
                return self
            self.turn(self.scenario.turns[n % len(self.scenario.turns)], n)
        raise AssertionError("it never ends")

    def turn(self, who: int, n: int) -> None:
        if self.waiting and (not self.running or (n % 3 == 0 and not self.full)):
            self.running.append(self.waiting.pop(0))
            who = len(self.running) - 1
        request, asked = self.running[who % len(self.running)]
        left = request.num_tokens - request.num_computed_tokens
        self.step(request, asked, min(left, asked.chunks[n % len(asked.chunks)]))

    def step(self, request: Request, asked: Asked, tokens: int) -> None:
        found, cached = None, 0
        if request.num_computed_tokens == 0:
            found, cached, _ = self.manager.get_computed_blocks(request)
            self.check_hit(request, found.blocks[0], cached)
            tokens = min(tokens, request.num_tokens - cached)
        slots = self.manager.allocate_slots(request, tokens, cached, found)
        if slots is None:
            self.preempt()
            return
        request.num_computed_tokens += cached
        self.compute(request, tokens)
        request.num_computed_tokens += tokens
        if request.num_computed_tokens == request.num_tokens:
            self.answer(request, asked)

    def preempt(self) -> None:
        request, asked = self.running.pop()
        self.manager.free(request)
        request.num_computed_tokens = 0
        self.waiting.insert(0, (request, asked))
        self.preempted += 1
        self.full = True

    def answer(self, request: Request, asked: Asked) -> None:
        if request.num_tokens == request.num_prompt_tokens + asked.answer:
            self.running.remove((request, asked))
            self.manager.free(request)
            self.full = False
        else:
            request.append_output_token_ids(self.held(request, request.num_tokens - 1) % 1000)

    # --- what is computed, and what should be ----------------------------------------------------

    def compute(self, request: Request, tokens: int) -> None:
        """A step of one request: every token reads what is held before it."""
        begin = request.num_computed_tokens
        start = acting_start(request.lora_request, request.sampling_params, request.num_prompt_tokens)
        columns = (np.array([n]) for n in (LORAS.index(request.lora_request), begin, tokens, start))
        for position, adapter in enumerate(runners.token_ids(*columns).tolist(), begin):
            before = self.held(request, position - 1) if position else 0
            whose = owner(request, position, self.size)
            token = request.all_token_ids[position]
            self.kv[self.place(request, position)] = name(before, token, adapter, whose)

    def place(self, request: Request, position: int) -> tuple[int, int]:
        blocks = self.manager.get_block_ids(request.request_id)[0]
        return blocks[position // self.size], position % self.size

    def held(self, request: Request, position: int) -> int:
        return self.kv[self.place(request, position)]

    def check_hit(self, request: Request, blocks: Any, cached: int) -> None:
        wanted = should_be(request, self.size)
        held = [self.kv[block.block_id, n] for block in blocks for n in range(self.size)]
        if held != wanted[: len(held)]:
            raise WrongBlockError(request.request_id)
        ends = {
            self.kv[block.block_id, self.size - 1]
            for block in self.manager.block_pool.blocks
            if block.block_hash is not None
        }
        most = (request.num_tokens - 1) // self.size * self.size
        whole = range(self.size - 1, most, self.size)
        expected = next((n + 1 - self.size for n in whole if wanted[n] not in ends), most)
        if cached != expected:
            raise LostBlockError(f"{request.request_id}: {cached} tokens instead of {expected}")
        self.hits += cached


quick = settings(max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
