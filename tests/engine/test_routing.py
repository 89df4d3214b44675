"""Routing tables."""

from __future__ import annotations

import pytest

from vllm_mega.engine.routing import NULL_SLOT, routing_table


def test_every_token_gets_the_route_of_its_request():
    routes = {7: ((2, 0.5), (0, 0.25)), 9: ((1, 1.0),)}
    slot, weight = routing_table([7, 7, 0, 9], routes)
    assert slot.tolist() == [[2, 0], [2, 0], [NULL_SLOT, NULL_SLOT], [1, NULL_SLOT]]
    assert weight.tolist() == [[0.5, 0.25], [0.5, 0.25], [0, 0], [1, 0]]


def test_a_batch_without_adapters_has_no_columns():
    slot, weight = routing_table([0, 0, 0], {})
    assert slot.shape == weight.shape == (3, 0)


def test_a_token_without_a_route_is_an_error_and_not_the_base_model():
    with pytest.raises(KeyError):
        routing_table([0, 5], {4: ((0, 1.0),)})
