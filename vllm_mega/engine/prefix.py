"""The prefix cache of an engine, as far as single blocks are taken out of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vllm.v1.core.kv_cache_utils import make_block_hash_with_group_id


class PrefixCache:
    """Finds blocks by their hashes, and takes them out; requests that run keep theirs."""

    def __init__(self, pool: Any, groups: int) -> None:
        """`pool`: vLLM's `BlockPool`; `groups`: of layers, each of which has blocks of its own."""
        self._pool, self._groups = pool, groups

    @property
    def size(self) -> int:
        """Tokens that a hash stands for, those before them left out."""
        return int(self._pool.hash_block_size)

    def has(self, block_hash: bytes) -> bool:
        """Whether a block of this hash can be found."""
        return any(self._found(block_hash, group) is not None for group in range(self._groups))

    def evict(self, hashes: Iterable[bytes]) -> int:
        """Let no request find blocks with these hashes; how many could be found."""
        count = 0
        for block_hash in hashes:
            for group in range(self._groups):
                while (block := self._found(block_hash, group)) is not None:  # two may have computed the same
                    self._pool.evict_blocks({block.block_id})
                    count += 1
        return count

    def _found(self, block_hash: bytes, group: int) -> Any:
        key = make_block_hash_with_group_id(block_hash, group)
        return self._pool.cached_block_hash_to_block.get_one_block(key)
