"""What attention computes together, of a packed row: segments of like length. Pure.

Keys are counted through: first those of the leads (see `packing`), which are there before the row runs,
then those of the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Segments(NamedTuple):
    """Segments of the row that are computed together; E segments, Q their longest, S with what they see."""

    queries: Tensor
    """int64 [E * Q]: positions in the row; padding is 0."""
    keys: Tensor
    """int64 [E * S]: the keys that are attended to, the segment's own last; padding is 0."""
    mask: Tensor
    """float32 [E, Q, S]: 0 where a query may look, -inf elsewhere."""
    rows: Tensor
    """int64 [E * Q]: of the flattened queries, those that are no padding ..."""
    targets: Tensor
    """... and their positions in the row: int64, as many."""
    places: Tensor
    """int64 [E, S]: position of every key in its own conversation. The last Q keys are the queries."""
    longest: int
    """Tokens of the longest conversation."""

    def to(self, device: torch.device) -> Segments:
        """The same on `device`."""
        *tensors, longest = self
        # From pageable memory: read before the call returns, so that nothing has to wait for the device.
        queries, keys, mask, rows, targets, places = (one.to(device, non_blocking=True) for one in tensors)
        return Segments(queries, keys, mask, rows, targets, places, longest)

    def within(self, window: int | None) -> Tensor:
        """The mask, where a query sees but the `window` latest tokens of its conversation, with itself."""
        if window is None or self.longest <= window:
            return self.mask
        queries = self.places[:, -self.mask.shape[1] :]
        far = queries[:, :, None] - self.places[:, None] >= window
        return self.mask.masked_fill(far, float("-inf"))


class Span(NamedTuple):
    """One segment."""

    past: Sequence[int]
    """The keys before it that it sees, in the order of its conversation, which begins with them."""
    own: range
    """Its positions in the row: it sees itself causally."""


def segments_of(spans: Sequence[Span], leads: int = 0, *, together: bool = False) -> tuple[Segments, ...]:
    """`spans` in groups of like length, the longest first; so many keys are those of `leads`.

    `together`: all in one group, for GPUs, where padding costs less than another launch.
    """
    groups = [list(spans)] if together and spans else _alike(spans)
    return tuple(_segments(group, leads) for group in groups)


_WASTE = 0.2
"""Segments share a group while padding stays below this part of its queries."""


def _alike(spans: Sequence[Span]) -> list[list[Span]]:
    groups: list[list[Span]] = []
    for span in sorted(spans, key=lambda s: (-len(s.own), s.own.start)):
        last = groups[-1] if groups else []
        if last and _fits(last, span):
            last.append(span)
        else:
            groups.append([span])
    return groups


def _fits(group: Sequence[Span], span: Span) -> bool:
    width = len(group[0].own)
    used = sum(len(s.own) for s in group) + len(span.own)
    return used >= (1 - _WASTE) * width * (len(group) + 1)


def _segments(group: Sequence[Span], leads: int) -> Segments:
    width = max(len(span.own) for span in group)
    before = max(len(span.past) for span in group)
    queries = torch.zeros(len(group), width, dtype=torch.int64)
    keys = torch.zeros(len(group), before + width, dtype=torch.int64)
    mask = torch.full((len(group), width, before + width), float("-inf"))
    causal = torch.triu(torch.full((width, width), float("-inf")), diagonal=1)
    mask[:, :, before:] = causal
    places = torch.arange(before + width).repeat(len(group), 1)
    real = torch.zeros(len(group), width, dtype=torch.bool)
    for e, (past, own) in enumerate(group):
        queries[e, : len(own)] = torch.arange(own.start, own.stop)
        keys[e, : len(past)] = torch.tensor(past, dtype=torch.int64)
        keys[e, before : before + len(own)] = queries[e, : len(own)] + leads
        mask[e, :, : len(past)] = 0.0
        places[e, before:] -= before - len(past)
        real[e, : len(own)] = True
    rows = real.flatten().nonzero().flatten()
    flat = queries.flatten()
    longest = max(len(past) + len(own) for past, own in group)
    return Segments(flat, keys.flatten(), mask, rows, flat[rows], places, longest)
