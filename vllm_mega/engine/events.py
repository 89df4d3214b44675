"""KV events of blocks before start name no LoRA: they are the base model's, whoever had them computed."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from msgspec.structs import replace
from vllm.distributed.kv_events import BlockStored, KVEventBatch

from vllm_mega.mixture import NAME_PREFIX


def told_apart(event: Any) -> list[Any]:
    """The event, or two: the blocks before start as the base model's, and the mixture's behind them.

    vLLM names the request's LoRA for all blocks of an event. Which of them are the mixture's, their keys say.
    An event without keys, or with fewer blocks than its tokens fill (of a layer that keeps a window), can
    only be told as a whole: it stays as it is.
    """
    if not isinstance(event, BlockStored) or not (event.lora_name or "").startswith(NAME_PREFIX):
        return [event]
    keys = event.extra_keys or []
    shared = sum(1 for _ in takewhile(lambda key: event.lora_name not in (key or ()), keys))
    if shared == 0 or len(event.token_ids) != len(event.block_hashes) * event.block_size:
        return [event]
    return [part for part in _cut(event, shared) if part.block_hashes]


def _cut(event: Any, n: int) -> tuple[Any, Any]:
    hashes, keys, tokens = event.block_hashes, event.extra_keys, n * event.block_size
    base = replace(
        event,
        block_hashes=hashes[:n],
        extra_keys=keys[:n],
        token_ids=event.token_ids[:tokens],
        lora_id=None,
        lora_name=None,
    )
    rest = replace(
        event,
        block_hashes=hashes[n:],
        extra_keys=keys[n:],
        token_ids=event.token_ids[tokens:],
        parent_block_hash=hashes[n - 1],
    )
    return base, rest


class ToldApart:
    """A publisher of KV events that names a mixture only for the blocks that it has computed."""

    def __init__(self, publisher: Any) -> None:
        self._publisher = publisher

    def __getattr__(self, name: str) -> Any:
        return getattr(self._publisher, name)

    def publish(self, events: KVEventBatch) -> None:
        """See vLLM's `EventPublisher`."""
        events.events = [part for event in events.events for part in told_apart(event)]
        self._publisher.publish(events)
