"""Scores to weights, with numbers that can be checked by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from string import ascii_lowercase

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mega.config import GateSettings
from vllm_mega.gate.selection import apportion, ranking, select, similarity

IDS = tuple(ascii_lowercase)


def scores(*values: float) -> np.ndarray:
    return np.array(values, np.float64)


def test_softmax_over_what_is_kept() -> None:
    settings = GateSettings(top_k=2, threshold=0.3, beta=10.0)
    chosen = select(scores(0.2, 0.6, 0.5, 0.55), IDS, settings)
    share = 1 / (1 + math.exp(-0.5))
    assert chosen == [(1, round(64 * share)), (3, 64 - round(64 * share))]


def test_null_route_below_the_threshold_only() -> None:
    settings = GateSettings(top_k=3, threshold=0.4, beta=10.0)
    assert select(scores(0.39, 0.1), IDS, settings) == []
    assert select(scores(0.4, 0.1), IDS, settings) == [(0, 64)]
    assert select(scores(), (), settings) == []


def test_beta_zero_means_equal_weights_and_ties_go_by_id() -> None:
    settings = GateSettings(top_k=3, threshold=0.0, beta=0.0)
    chosen = select(scores(0.5, 0.9, 0.7), ["c", "b", "a"], settings)
    assert chosen == [(1, 22), (2, 21), (0, 21)]
    assert select(scores(0.5, 0.5, 0.5, 0.5), ["d", "c", "b", "a"], settings) == [(3, 22), (2, 21), (1, 21)]


def test_weights_that_round_to_nothing_are_dropped() -> None:
    assert select(scores(0.9, 0.5), IDS, GateSettings(top_k=2, threshold=0.0, beta=100.0)) == [(0, 64)]


def test_noise_in_the_last_bits_changes_nothing() -> None:
    settings = GateSettings(top_k=3, threshold=0.4, beta=20.0)
    keys = np.array([[0.5, math.sqrt(0.75)]] * 3, np.float32)
    noisy = keys.copy()
    noisy[2, 0] += np.float32(2e-7)
    query = np.array([1, 0], np.float32)
    assert select(similarity(noisy, query), IDS, settings) == select(similarity(keys, query), IDS, settings)
    assert select(similarity(keys, query), IDS, settings) == [(0, 22), (1, 21), (2, 21)]


def test_similarity_is_the_cosine_and_has_no_negative_zero() -> None:
    keys = np.array([[0.6, 0.8], [0.0, -1.0], [-1e-6, 1.0]], np.float32)
    found = similarity(keys, np.array([1, 0], np.float32))
    assert found.tolist() == [0.6, 0.0, 0.0]
    assert not np.signbit(found).any()


def test_apportion_gives_the_rest_to_the_largest_remainders() -> None:
    assert apportion(scores(0.1, 0.26, 0.64), 10) == [1, 3, 6]
    assert apportion(scores(0.25, 0.25, 0.25, 0.25), 6) == [2, 2, 1, 1]


@hypothesis.settings(deadline=None)
@given(st.lists(st.floats(-1, 1), max_size=26), st.none() | st.integers(1, 30))
def test_ranking_equals_sorting_everything(values: list[float], limit: int | None) -> None:
    values = [round(value, 1) for value in values]
    expected = sorted(range(len(values)), key=lambda i: (-values[i], IDS[-i]))
    assert ranking(np.array(values), [IDS[-i] for i in range(len(values))], limit) == expected[:limit]


LINKED = GateSettings(top_k=2, threshold=0.4, beta=10.0, link_share=0.9)


def test_a_linked_memory_counts_with_its_share_below_the_threshold_too() -> None:
    chosen = select(scores(0.6, 0.1, 0.3), IDS, LINKED, {0: [1]})
    share = 1 / (1 + math.exp(-10 * 0.06))
    assert chosen == [(0, round(64 * share)), (1, 64 - round(64 * share))]


@pytest.mark.parametrize(("beta", "first"), [(25.0, 0.92), (5.0, 0.62)])
def test_what_the_default_share_leaves_to_the_memory_that_links(beta: float, first: float) -> None:
    chosen = dict(select(scores(0.5, 0.0), IDS, GateSettings(beta=beta), {0: [1]}))
    assert chosen[0] / 64 == pytest.approx(first, abs=1 / 64)


@pytest.mark.parametrize(
    ("values", "links", "expected"),
    [
        ((0.6, 0.58, 0.1), {0: [2]}, [0, 1]),  # a better one of its own stays
        ((0.6, 0.5, 0.1), {0: [2]}, [0, 2]),  # a worse one gives way
        ((0.6, 0.5, 0.1), {1: [2]}, [0, 1]),
        ((0.6, 0.1, 0.1), {0: [1], 1: [2]}, [0, 1]),  # one step only
        ((0.3, 0.1, 0.1), {0: [1]}, []),  # nothing chosen: nothing to follow
        ((0.6, 0.59, 0.1), {0: [1], 1: [0]}, [0, 1]),  # a link lowers nothing
        ((0.6, 0.1, 0.1), {0: [2, 1]}, [0, 1]),  # equal shares go by id
    ],
)
def test_what_links_bring_in(
    values: tuple[float, ...], links: Mapping[int, Sequence[int]], expected: list[int]
) -> None:
    assert [i for i, _ in select(scores(*values), IDS, LINKED, links)] == expected
    off = GateSettings(top_k=2, threshold=0.4, beta=10.0, link_share=0.0)
    assert select(scores(*values), IDS, off, links) == select(scores(*values), IDS, off)


@hypothesis.settings(deadline=None)
@given(
    st.lists(st.floats(-1, 1).map(lambda x: round(x, 4)), min_size=1, max_size=12),
    st.dictionaries(st.integers(0, 11), st.lists(st.integers(0, 11), max_size=3), max_size=12),
    st.integers(1, 4),
    st.floats(-1, 1),
    st.floats(0, 1),
)
def test_invariants_with_links(
    values: list[float], links: dict[int, list[int]], top_k: int, threshold: float, share: float
) -> None:
    links = {i: [j for j in js if j < len(values) and j != i] for i, js in links.items() if i < len(values)}
    settings = GateSettings(top_k=top_k, threshold=threshold, beta=0.0, link_share=share)
    alone = [i for i, _ in select(np.array(values), IDS, settings)]
    chosen = [i for i, _ in select(np.array(values), IDS, settings, links)]
    assert len(chosen) <= top_k
    assert bool(chosen) == bool(alone)
    assert set(chosen) <= {*alone, *(j for i in alone for j in links.get(i, ()))}
    if chosen:
        assert values[chosen[0]] == max(values)


@hypothesis.settings(deadline=None)
@given(
    st.lists(st.floats(-1, 1), min_size=1, max_size=26),
    st.integers(1, 8),
    st.floats(-1, 1),
    st.floats(0, 200),
)
def test_invariants(values: list[float], top_k: int, threshold: float, beta: float) -> None:
    chosen = select(np.array(values), IDS, GateSettings(top_k=top_k, threshold=threshold, beta=beta))
    assert bool(chosen) == (max(values) >= threshold)
    if chosen:
        assert sum(n for _, n in chosen) == 64
    assert len(chosen) <= top_k
    assert all(n > 0 and values[i] >= threshold for i, n in chosen)
    assert sorted(chosen, key=lambda pair: -pair[1]) == chosen
    unused = [value for i, value in enumerate(values) if i not in dict(chosen)]
    if len(chosen) == top_k:
        assert all(value <= min(values[i] for i, _ in chosen) for value in unused)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_the_order_of_memories_changes_nothing(order: tuple[int, ...]) -> None:
    values = scores(0.51, 0.5, 0.5, 0.49)
    settings = GateSettings(top_k=3, threshold=0.4, beta=7.0)
    chosen = select(values[list(order)], [IDS[i] for i in order], settings)
    assert [(IDS[order[i]], n) for i, n in chosen] == [("a", 22), ("b", 21), ("c", 21)]
