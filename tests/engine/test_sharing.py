"""A cached block is served to exactly those who would have computed it, whoever did."""

from __future__ import annotations

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import init_none_hash, resolve_block_hashes

from tests.engine.blocks import Asked, Scenario, World, asked, quick, request_of, scenarios, should_be
from vllm_mega.engine.upstream import applying


@pytest.fixture(autouse=True, scope="module")
def patched():
    applying.apply()
    init_none_hash(sha256)


@quick
@given(scenarios)
def test_blocks_are_served_to_exactly_those_who_would_have_computed_them(scenario: Scenario):
    World(scenario).run()


@quick
@given(asked, asked, st.sampled_from((1, 2, 4)))
def test_a_layer_whose_blocks_are_larger_than_what_is_hashed_shares_the_same(
    one: Asked, two: Asked, times: int
):
    first, second = request_of(one, 1, 4), request_of(two, 2, 4)
    hashes = (resolve_block_hashes(request.block_hashes, 4, 4 * times) for request in (first, second))
    ends = (should_be(request, 4)[4 * times - 1 :: 4 * times] for request in (first, second))
    for a, b, end_a, end_b in zip(*hashes, *ends, strict=False):
        assert (a == b) == (end_a == end_b)


def test_the_scenarios_share_blocks_and_preempt():
    """Or else the property says little."""
    seen = []

    @settings(quick, phases=[Phase.generate], derandomize=True)
    @given(scenarios)
    def look(scenario: Scenario):
        seen.append(World(scenario).run())

    look()
    assert sum(world.hits > 0 for world in seen) > len(seen) // 3
    assert sum(world.preempted > 0 for world in seen) > 5
