"""Many examples as one row of tokens: nothing is padded but inside attention. Pure.

An example is a lead, which the base model computes (see `models.start`), and what follows. Leads
depend on no adapter: each different one runs once, before all steps, and rows only look at its keys. What the
examples of one adapter share behind it stands in the row once:

    [prefix a][example 1 of a][example 2 of a] ... [prefix b][example 1 of b] ...

Each example attends to its lead, to the prefix of its own adapter and to itself, causally. Attention runs
over segments of like length (see `segments`), gathered from the row and scattered back.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

import torch
from torch import Tensor

from vllm_mega.training.recipe.encoding import Encoded
from vllm_mega.training.recipe.segments import Segments, Span, segments_of


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
        source, positions, jobs, labelled, labels, examples = (
            tensor.to(device, non_blocking=True) for tensor in self[:-1]
        )
        segments = tuple(one.to(device) for one in self.segments)
        return Pack(source, positions, jobs, labelled, labels, examples, segments)


class Pool(NamedTuple):
    """The tokens of all examples of one adapter: lead; prefix, then example after example."""

    lead: list[int]
    """What stands before start: no part of the row."""
    prefix: list[int]
    rests: list[list[int]]
    """What follows the prefix, without the last token of the answer, which is predicted but never read."""
    labels: list[list[int]]
    """Of each example: the last len(labels) positions of its rest predict these."""

    @property
    def ids(self) -> list[int]:
        """Those that the adapter acts on."""
        return [*self.prefix, *(token for rest in self.rests for token in rest)]

    @property
    def longest(self) -> int:
        """Tokens of the longest conversation."""
        return len(self.lead) + len(self.prefix) + max(map(len, self.rests))

    def span(self, n: int) -> tuple[int, int]:
        """Start and end of example `n` in `ids`."""
        start = len(self.prefix) + sum(len(rest) for rest in self.rests[:n])
        return start, start + len(self.rests[n])


def pool(examples: Sequence[Encoded]) -> Pool:
    """The pool of `examples`, which have one lead; their longest common beginning behind it is the prefix.

    The token before the first label is never part of the prefix: labels belong to examples.
    """
    start = examples[0].start
    assert {tuple(example.lead) for example in examples} == {tuple(examples[0].lead)}
    shortest = min(len(example.prompt) for example in examples) - 1
    columns = zip(*(example.prompt[start:shortest] for example in examples), strict=True)
    common = start + len(list(takewhile(lambda column: len(set(column)) == 1, columns)))
    return Pool(
        lead=examples[0].lead,
        prefix=examples[0].prompt[start:common],
        rests=[(example.prompt + example.answer[:-1])[common:] for example in examples],
        labels=[example.answer for example in examples],
    )


class Leads(NamedTuple):
    """The different leads of some pools, one after the other."""

    ids: list[int]
    positions: Tensor
    """int64 [P]: of each token in its own conversation."""
    segments: tuple[Segments, ...]
    spans: list[range]
    """Of each pool: where its lead stands."""

    def to(self, device: torch.device) -> Leads:
        """The same on `device`."""
        segments = tuple(one.to(device) for one in self.segments)
        return Leads(self.ids, self.positions.to(device), segments, self.spans)


def leads(pools: Sequence[Pool]) -> Leads:
    """Those of `pools`, each different one once."""
    ids, spans = _lead_spans(pools)
    own = [span for span in dict.fromkeys(spans) if span]
    positions = [place for span in own for place in range(len(span))]
    segments = segments_of([Span((), span) for span in own])
    return Leads(ids, torch.tensor(positions, dtype=torch.int64), segments, spans)


def _lead_spans(pools: Sequence[Pool]) -> tuple[list[int], list[range]]:
    """Token ids of the different leads, one after the other; of each pool, where its lead stands."""
    ids: list[int] = []
    spans: dict[tuple[int, ...], range] = {}
    for one in pools:
        if (key := tuple(one.lead)) not in spans:
            spans[key] = range(len(ids), len(ids) + len(key))
            ids += key
    return ids, [spans[tuple(one.lead)] for one in pools]


def pack(
    pools: Sequence[Pool], owners: Sequence[int], offsets: Sequence[int], chosen: Sequence[Sequence[int]],
    *, together: bool = False,
) -> Pack:  # fmt: skip
    """One row of the examples `chosen[p]` of each pool; pools without any take no part.

    Its segments look at the keys of `leads(pools)`, those of all pools.

    Args:
        pools: P pools, those of one adapter side by side.
        owners: the adapter of each pool.
        offsets: where each pool begins in the row of all pools.
        chosen: for each pool, which of its examples.
        together: see `segments_of`.
    """
    source: list[int] = []
    positions: list[int] = []
    jobs: list[int] = []
    labelled: list[int] = []
    labels: list[int] = []
    examples: list[int] = []
    spans: list[Span] = []
    count = 0
    lead_ids, lead_spans = _lead_spans(pools)
    shift = len(lead_ids)
    for one, job, offset, lead, picked in zip(pools, owners, offsets, lead_spans, chosen, strict=True):
        if not picked:
            continue
        prefix = range(len(source), len(source) + len(one.prefix))
        first = len(lead) + len(prefix)
        source += range(offset, offset + len(prefix))
        positions += range(len(lead), first)
        if prefix:
            spans.append(Span(lead, prefix))
        past = [*lead, *(shift + place for place in prefix)]
        for n in picked:
            start, end = one.span(n)
            own = range(len(source), len(source) + end - start)
            source += range(offset + start, offset + end)
            positions += range(first, first + end - start)
            spans.append(Span(past, own))
            labelled += own[len(own) - len(one.labels[n]) :]
            labels += one.labels[n]
            examples += [count] * len(one.labels[n])
            count += 1
        jobs += [job] * (len(source) - len(jobs))
    as_tensor = torch.tensor
    return Pack(
        as_tensor(source), as_tensor(positions), as_tensor(jobs), as_tensor(labelled), as_tensor(labels),
        as_tensor(examples), segments_of(spans, shift, together=together),
    )  # fmt: skip
