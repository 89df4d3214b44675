"""Where adapters were found when a step needed them, counted: disk -> host memory -> slot."""

from __future__ import annotations

import msgspec


class Residency(msgspec.Struct):
    """Counters of one worker since it started; seconds are wall time."""

    slot_hits: int = 0
    """Adapters of a new routing that had a slot."""
    slot_misses: int = 0
    slot_seconds: float = 0.0
    """Giving slots to those that had none."""
    host_hits: int = 0
    """Of these, adapters that were in host memory."""
    host_misses: int = 0
    host_evictions: int = 0
    prefetched: int = 0
    """Of the host misses, those that had been announced: read, or being read, when the step needed them."""
    stall_seconds: float = 0.0
    """Time that steps waited for adapters from disk."""
    loads: int = 0
    """Adapters read from disk, ahead or not."""
    load_seconds: float = 0.0
    load_bytes: int = 0
    host_adapters: int = 0
    """In host memory now."""
    slots_used: int = 0
    slots: int = 0
