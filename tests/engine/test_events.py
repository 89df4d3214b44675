"""KV events: blocks before start are told as the base model's, those behind it as the mixture's."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from msgspec.structs import replace
from vllm import SamplingParams
from vllm.distributed.kv_events import BlockRemoved, BlockStored, KVEventBatch
from vllm.lora.request import LoRARequest
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.kv_cache_utils import (
    get_request_block_hasher,
    init_none_hash,
    maybe_convert_block_hash,
)
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.request import Request

from vllm_mega.engine.adapters import to_lora_request
from vllm_mega.engine.events import ToldApart, told_apart
from vllm_mega.engine.start import starting_at
from vllm_mega.engine.upstream import applying
from vllm_mega.mixture import Mixture

SIZE = 4
MIXTURE = to_lora_request(Mixture([("a" * 64, "/a", 1.0)]))
NAME = MIXTURE.lora_name
PLAIN = LoRARequest("plain", 1, "/plain")


@pytest.fixture(autouse=True, scope="module")
def patched():
    applying.apply()
    init_none_hash(sha256)


def stored(start, lora=MIXTURE, tokens=5 * SIZE, full_report=False):
    """The events of a request's prompt, as they are published; and its block hashes."""
    spec = FullAttentionSpec(block_size=SIZE, num_kv_heads=1, head_size=1, dtype=torch.float32)
    config = KVCacheConfig(20, [], [KVCacheGroupSpec(["layer"], spec)])
    manager = KVCacheManager(config, 100, SIZE, SIZE, enable_kv_cache_events=True)
    asked = [request(start, lora, tokens, n) for n in range(2)]
    manager.allocate_slots(asked[0], tokens)
    if full_report:
        manager.take_events()
        asked[1].kv_cache_report_mode = "full"
        manager.get_computed_blocks(asked[1])
    events = [part for event in manager.take_events() for part in told_apart(event)]
    return events, [maybe_convert_block_hash(h) for h in asked[0].block_hashes]


def request(start, lora, tokens, n):
    params = SamplingParams(max_tokens=1, extra_args=starting_at(start))
    hasher = get_request_block_hasher(SIZE, sha256)
    return Request(str(n), list(range(tokens)), params, None, lora_request=lora, block_hasher=hasher)


@pytest.mark.parametrize("full_report", [False, True])
def test_an_event_is_told_apart_at_start(full_report):
    (base, own), hashes = stored(2 * SIZE + 1, tokens=5 * SIZE + 1, full_report=full_report)
    assert base.block_hashes == hashes[:2]
    assert base.token_ids == list(range(2 * SIZE))
    assert (base.lora_name, base.lora_id, base.parent_block_hash) == (None, None, None)
    assert base.extra_keys == [None, None]
    assert own.block_hashes == hashes[2:]
    assert own.token_ids == list(range(2 * SIZE, 5 * SIZE))
    assert (own.lora_name, own.lora_id) == (NAME, MIXTURE.lora_int_id)
    assert own.parent_block_hash == hashes[1]
    assert own.extra_keys == [(NAME, "mega_start:1"), (NAME,), (NAME,)]


def test_what_is_all_before_start_is_the_base_models_alone():
    (event,), _ = stored(5 * SIZE)
    (theirs,), _ = stored(0, None)
    assert event == theirs


def test_others_are_told_as_by_vllm():
    for start, lora in [(0, MIXTURE), (7, PLAIN), (7, None)]:
        (event,), hashes = stored(start, lora)
        assert event.block_hashes == hashes
        assert event.lora_name == (lora.lora_name if lora else None)


def test_events_that_cannot_be_told_apart_stay_whole():
    whole = {"parent_block_hash": None, "block_size": SIZE, "lora_id": 1, "medium": None, "lora_name": NAME}
    without_keys = BlockStored(block_hashes=[1, 2], token_ids=[0] * 2 * SIZE, **whole)
    holes = BlockStored(block_hashes=[1, 2], token_ids=[0] * 4 * SIZE, extra_keys=[None, (NAME,)], **whole)
    removed = BlockRemoved(block_hashes=[1], medium=None)
    for event in (without_keys, holes, removed):
        assert told_apart(event) == [event]


def test_the_publisher_publishes_the_parts():
    events, _ = stored(2 * SIZE)
    whole = replace(
        events[1],
        block_hashes=[h for e in events for h in e.block_hashes],
        parent_block_hash=None,
        token_ids=[t for e in events for t in e.token_ids],
        extra_keys=[k for e in events for k in e.extra_keys],
    )
    sent = []
    publisher = ToldApart(SimpleNamespace(publish=sent.append, shutdown=lambda: "closed"))
    publisher.publish(KVEventBatch(ts=1.0, events=[BlockRemoved(block_hashes=[9], medium=None), whole]))
    assert [len(batch.events) for batch in sent] == [3]
    assert sent[0].events[1:] == events
    assert publisher.shutdown() == "closed"
