from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vllm_mega.training.compute.packing import Pool, leads, pack, pool
from vllm_mega.training.recipe.encoding import Encoded
from vllm_mega.training.recipe.segments import Segments


def encoded(prompt: list[int], answer: list[int], start: int = 0) -> Encoded:
    return Encoded(prompt, answer, [1.0] * len(answer), start=start)


ONE = [encoded([1, 2, 3, 4], [8, 9]), encoded([1, 2, 3, 5, 6], [7, 7, 7])]
TWO = [encoded([5, 6], [7, 0]), encoded([5, 7], [1])]


def test_a_pool_shares_the_beginning_and_leaves_out_the_last_token() -> None:
    assert pool(ONE) == Pool([], [1, 2, 3], [[4, 8], [5, 6, 7, 7]], [[8, 9], [7, 7, 7]])
    assert pool(ONE).ids == [1, 2, 3, 4, 8, 5, 6, 7, 7]
    assert pool(ONE).span(1) == (5, 9)


def test_the_token_before_the_first_label_is_never_shared() -> None:
    assert pool([encoded([1, 2], [3]), encoded([1, 2], [4])]).prefix == [1]
    assert pool([encoded([1], [3])]) == Pool([], [], [[1]], [[3]])


def test_a_row() -> None:
    pools = [pool(ONE), pool(TWO)]
    row = pack(pools, [0, 1], [0, 9], [[1], [0, 1]])
    ids = torch.tensor([*pools[0].ids, *pools[1].ids])[row.source]
    assert ids.tolist() == [1, 2, 3, 5, 6, 7, 7, 5, 6, 7, 7]
    assert row.positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 1]
    assert row.jobs.tolist() == [0] * 7 + [1] * 4
    assert row.labels.tolist() == [7, 7, 7, 7, 0, 1]
    assert ids[row.labelled].tolist() == [6, 7, 7, 6, 7, 7]
    assert row.examples.tolist() == [0, 0, 0, 1, 1, 2]


def test_pools_of_one_adapter_and_pools_that_take_no_part() -> None:
    pools = [pool(ONE), pool(TWO), pool(TWO)]
    row = pack(pools, [0, 0, 1], [0, 9, 13], [[0], [1], []])
    assert set(row.jobs.tolist()) == {0}
    assert row.examples.tolist() == [0, 0, 1]


def looked_at(segments: tuple[Segments, ...]) -> dict[int, set[int]]:
    """By position in the row: the keys that a query sees."""
    seen: dict[int, set[int]] = {}
    for segment in segments:
        count, width, keys = segment.mask.shape
        places = dict(zip(segment.rows.tolist(), segment.targets.tolist(), strict=True))
        for flat, token in places.items():
            e, q = divmod(flat, width)
            open_keys = segment.keys.view(count, keys)[e][segment.mask[e, q] == 0]
            assert token not in seen
            seen[token] = set(open_keys.tolist())
            assert segment.queries[flat] == token
    return seen


def distances(segment: Segments) -> Tensor:
    """int64 [E, Q, S]: how far a key stands before a query, in their conversation."""
    return segment.places[:, -segment.mask.shape[1] :, None] - segment.places[:, None]


STARTED = [encoded([1, 2, 3, 4, 5], [8, 9], start=2), encoded([1, 2, 3, 5, 6], [7, 7, 7], start=2)]
OTHER = [encoded([6, 7, 8, 3, 5], [4], start=3)]


def test_what_stands_before_start_is_no_part_of_the_row() -> None:
    assert pool(STARTED) == Pool([1, 2], [3], [[4, 5, 8], [5, 6, 7, 7]], [[8, 9], [7, 7, 7]])
    assert pool(STARTED).ids == [3, 4, 5, 8, 5, 6, 7, 7]
    assert pool(STARTED).longest == 7
    row = pack([pool(STARTED)], [0], [0], [[0, 1]])
    assert row.source.tolist() == list(range(8))
    assert row.positions.tolist() == [2, 3, 4, 5, 3, 4, 5, 6]


def test_every_different_lead_runs_once() -> None:
    pools = [pool(STARTED), pool(TWO), pool(OTHER), pool(STARTED)]
    found = leads(pools)
    assert found.ids == [1, 2, 6, 7, 8]
    assert found.positions.tolist() == [0, 1, 0, 1, 2]
    assert found.spans == [range(2), range(2, 2), range(2, 5), range(2)]
    assert looked_at(found.segments) == {0: {0}, 1: {0, 1}, 2: {2}, 3: {2, 3}, 4: {2, 3, 4}}
    nothing = leads([pool(TWO)])
    assert (nothing.ids, nothing.segments, len(nothing.positions)) == ([], (), 0)


def test_a_row_looks_at_its_own_lead_and_counts_places_from_it() -> None:
    """Keys 0 to 4 are of the leads [1, 2] and [6, 7, 8]; then come those of the row."""
    pools = [pool(STARTED), pool(OTHER), pool(TWO)]
    row = pack(pools, [0, 1, 2], [0, 8, 10], [[1], [0], [0]])
    assert row.positions.tolist() == [2, 3, 4, 5, 6, 3, 4, 0, 1, 2]
    assert looked_at(row.segments) == {
        0: {0, 1, 5}, 1: {0, 1, 5, 6}, 2: {0, 1, 5, 6, 7}, 3: {0, 1, 5, 6, 7, 8}, 4: {0, 1, 5, 6, 7, 8, 9},
        5: {2, 3, 4, 10}, 6: {2, 3, 4, 10, 11}, 7: {12}, 8: {12, 13}, 9: {12, 13, 14},
    }  # fmt: skip
    for segment in row.segments:
        seen = segment.mask == 0
        # Whoever sees all of its conversation sees one key at every distance.
        for near, open_keys in zip(distances(segment).flatten(0, 1), seen.flatten(0, 1), strict=True):
            assert sorted(near[open_keys].tolist()) == list(range(int(open_keys.sum())))
        assert ((segment.within(3) == 0) == (seen & (distances(segment) < 3))).all()


@pytest.mark.parametrize("lengths", [[1], [3, 3, 3], [30, 2, 29, 3, 1, 28]])
def test_segments_hold_every_token_once_and_see_their_own_past_only(lengths: list[int]) -> None:
    one = pool([encoded([1, 2, 3, 4 + n], [9] * length) for n, length in enumerate(lengths)])
    row = pack([one], [0], [0], [range(len(lengths))])
    seen = looked_at(row.segments)
    assert len(seen) == len(row.source)
    prefix = set(range(len(one.prefix)))
    for token, past in seen.items():
        mine = {t for t in range(len(row.source)) if t <= token and t not in prefix}
        start = max((t for t in mine if row.positions[t] == len(prefix)), default=0)
        expected = set(range(token + 1)) if token in prefix else prefix | set(range(start, token + 1))
        assert past == expected


def test_little_is_padded() -> None:
    one = pool([encoded([1], [9] * length) for length in [40] * 5 + [8] * 9])
    row = pack([one], [0], [0], [range(14)])
    assert len(row.segments) == 2
    padded = sum(len(segment.queries) for segment in row.segments)
    assert padded <= 1.25 * len(row.source)
