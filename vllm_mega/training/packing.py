"""Many examples as one row of tokens: nothing is padded but inside attention. Pure.

The examples of one adapter share their beginning (system prompt, start of the user's turn), so it stands in
the row once:

    [prefix a][example 1 of a][example 2 of a] ... [prefix b][example 1 of b] ...

Each example attends to the prefix of its own adapter and to itself, causally. Attention runs over segments
of like length, gathered from the row (`Segments`) and scattered back.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

import torch
from torch import Tensor

from vllm_mega.training.encoding import Encoded


class Segments(NamedTuple):
    """Segments of the row that are computed together; E segments, Q their longest, S with the prefix."""

    queries: Tensor
    """int64 [E * Q]: positions in the row; padding is 0."""
    keys: Tensor
    """int64 [E * S]: the positions that are attended to, prefix first; padding is 0."""
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
        queries, keys, mask, rows, targets, places = (tensor.to(device) for tensor in tensors)
        return Segments(queries, keys, mask, rows, targets, places, longest)

    def within(self, window: int | None) -> Tensor:
        """The mask, where a query sees but the `window` latest tokens of its conversation, with itself."""
        if window is None or self.longest <= window:
            return self.mask
        queries = self.places[:, -self.mask.shape[1] :]
        far = queries[:, :, None] - self.places[:, None] >= window
        return self.mask.masked_fill(far, float("-inf"))


class Pack(NamedTuple):
    """One row of T tokens, L of them labelled."""

    source: Tensor
    """int64 [T]: where each token stands in the pool's row (see `Pool`)."""
    positions: Tensor
    """int64 [T]: position in its own conversation."""
    jobs: Tensor
    """int64 [T]: the adapter, 0..J-1."""
    labelled: Tensor
    """int64 [L]: positions in the row whose next token is a label."""
    labels: Tensor
    """int64 [L]"""
    examples: Tensor
    """int64 [L]: which of the packed examples a label belongs to, in order of packing."""
    segments: tuple[Segments, ...]

    def to(self, device: torch.device) -> Pack:
        """The same on `device`."""
        source, positions, jobs, labelled, labels, examples = (tensor.to(device) for tensor in self[:-1])
        segments = tuple(one.to(device) for one in self.segments)
        return Pack(source, positions, jobs, labelled, labels, examples, segments)


class Pool(NamedTuple):
    """The tokens of all examples of one adapter: prefix, then example after example."""

    prefix: list[int]
    rests: list[list[int]]
    """What follows the prefix, without the last token of the answer, which is predicted but never read."""
    labels: list[list[int]]
    """Of each example: the last len(labels) positions of its rest predict these."""

    @property
    def ids(self) -> list[int]:
        return [*self.prefix, *(token for rest in self.rests for token in rest)]

    def span(self, n: int) -> tuple[int, int]:
        """Start and end of example `n` in `ids`."""
        start = len(self.prefix) + sum(len(rest) for rest in self.rests[:n])
        return start, start + len(self.rests[n])


def pool(examples: Sequence[Encoded]) -> Pool:
    """The pool of `examples`, their longest common beginning being the prefix.

    The token before the first label is never part of the prefix: labels belong to examples.
    """
    shortest = min(len(example.prompt) for example in examples) - 1
    columns = zip(*(example.prompt[:shortest] for example in examples), strict=True)
    common = len(list(takewhile(lambda column: len(set(column)) == 1, columns)))
    return Pool(
        prefix=examples[0].prompt[:common],
        rests=[(example.prompt + example.answer[:-1])[common:] for example in examples],
        labels=[example.answer for example in examples],
    )


def pack(
    pools: Sequence[Pool], owners: Sequence[int], offsets: Sequence[int], chosen: Sequence[Sequence[int]]
) -> Pack:
    """One row of the examples `chosen[p]` of each pool; pools without any take no part.

    Args:
        pools: P pools, those of one adapter side by side.
        owners: the adapter of each pool.
        offsets: where each pool begins in the row of all pools.
        chosen: for each pool, which of its examples.
    """
    source: list[int] = []
    positions: list[int] = []
    jobs: list[int] = []
    labelled: list[int] = []
    labels: list[int] = []
    examples: list[int] = []
    spans: list[_Span] = []
    count = 0
    for one, job, offset, picked in zip(pools, owners, offsets, chosen, strict=True):
        if not picked:
            continue
        prefix = range(len(source), len(source) + len(one.prefix))
        source += range(offset, offset + len(one.prefix))
        positions += range(len(one.prefix))
        if one.prefix:
            spans.append(_Span(range(0), prefix))
        for n in picked:
            start, end = one.span(n)
            own = range(len(source), len(source) + end - start)
            source += range(offset + start, offset + end)
            positions += range(len(one.prefix), len(one.prefix) + end - start)
            spans.append(_Span(prefix, own))
            labelled += own[len(own) - len(one.labels[n]) :]
            labels += one.labels[n]
            examples += [count] * len(one.labels[n])
            count += 1
        jobs += [job] * (len(source) - len(jobs))
    as_tensor = torch.tensor
    return Pack(
        as_tensor(source), as_tensor(positions), as_tensor(jobs), as_tensor(labelled), as_tensor(labels),
        as_tensor(examples), tuple(_segments(group) for group in _alike(spans)),
    )  # fmt: skip


class _Span(NamedTuple):
    """One segment: the prefix it sees, and its own positions in the row."""

    prefix: range
    own: range


_WASTE = 0.2
"""Segments share a group while padding stays below this part of its queries."""


def _alike(spans: Sequence[_Span]) -> list[list[_Span]]:
    """`spans` in groups of like length, the longest first."""
    groups: list[list[_Span]] = []
    for span in sorted(spans, key=lambda s: (-len(s.own), s.own.start)):
        last = groups[-1] if groups else []
        if last and _fits(last, span):
            last.append(span)
        else:
            groups.append([span])
    return groups


def _fits(group: Sequence[_Span], span: _Span) -> bool:
    width = len(group[0].own)
    used = sum(len(s.own) for s in group) + len(span.own)
    return used >= (1 - _WASTE) * width * (len(group) + 1)


def _segments(group: Sequence[_Span]) -> Segments:
    width = max(len(span.own) for span in group)
    before = max(len(span.prefix) for span in group)
    queries = torch.zeros(len(group), width, dtype=torch.int64)
    keys = torch.zeros(len(group), before + width, dtype=torch.int64)
    mask = torch.full((len(group), width, before + width), float("-inf"))
    causal = torch.triu(torch.full((width, width), float("-inf")), diagonal=1)
    mask[:, :, before:] = causal
    places = torch.arange(before + width).repeat(len(group), 1)
    real = torch.zeros(len(group), width, dtype=torch.bool)
    for e, (prefix, own) in enumerate(group):
        queries[e, : len(own)] = torch.arange(own.start, own.stop)
        keys[e, : len(prefix)] = torch.arange(prefix.start, prefix.stop)
        keys[e, before : before + len(own)] = queries[e, : len(own)]
        mask[e, :, : len(prefix)] = 0.0
        places[e, before:] -= before - len(prefix)
        real[e, : len(own)] = True
    rows = real.flatten().nonzero().flatten()
    flat = queries.flatten()
    longest = max(len(prefix) + len(own) for prefix, own in group)
    return Segments(flat, keys.flatten(), mask, rows, flat[rows], places, longest)
