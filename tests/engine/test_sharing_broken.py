"""Keys and routing that are broken on purpose: the property of `test_sharing` finds each of them."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import init_none_hash

from tests.engine.blocks import LostBlockError, Scenario, World, WrongBlockError, quick, scenarios
from vllm_mega.engine import runners
from vllm_mega.engine.private import PRIVATE, private_keys
from vllm_mega.engine.routing import token_ids
from vllm_mega.engine.start import START, block_keys
from vllm_mega.engine.upstream import applying, replacements


@pytest.fixture(autouse=True, scope="module")
def patched():
    applying.apply()
    init_none_hash(sha256)


def without_offset(keys, request, begin, end):
    made = block_keys(keys, request, begin, end)
    return tuple(key for key in made or () if key[0] != START) or None


def the_block_that_start_cuts_is_the_base_models(keys, request, begin, end):
    cut = begin < request.sampling_params.extra_args[START] < end
    return None if cut else block_keys(keys, request, begin, end)


def no_mixture_behind_start(keys, request, begin, end):
    start = request.sampling_params.extra_args[START]
    return None if 0 < start <= begin else block_keys(keys, request, begin, end)


def plain_lora_has_a_start(keys, request, begin, end):
    return None if end <= request.sampling_params.extra_args[START] else keys


def as_before(keys, request, begin, end):
    return keys


def offset_for_all(keys, request, begin, end):
    made = block_keys(keys, request, begin, end)
    return made and (*made, (START, request.sampling_params.extra_args[START]))


def everybodys(keys, request, begin, end):
    return keys


def private_behind_the_block(keys, request, begin, end):
    made = private_keys(keys, request, begin, end)
    begins = int(request.sampling_params.extra_args.get(PRIVATE, "0:").partition(":")[0])
    return made if begin == begins else keys


def private_from_the_first_token(keys, request, begin, end):
    salt = request.sampling_params.extra_args.get(PRIVATE)
    return (*(keys or ()), (PRIVATE, salt)) if salt else keys


def ever_since_start(ids, computed, scheduled, starts):
    return token_ids(ids, computed, scheduled, np.zeros_like(starts))


def one_early(ids, computed, scheduled, starts):
    return token_ids(ids, computed, scheduled, np.maximum(starts - 1, 0))


def chunk_by_chunk(ids, computed, scheduled, starts):
    return token_ids(ids, np.zeros_like(computed), scheduled, starts)


def caught(error: type[AssertionError]) -> None:
    """Some scenario ends in `error`; others may end in the other one, for a broken key breaks both ways."""
    (other,) = {WrongBlockError, LostBlockError} - {error}

    @settings(quick, max_examples=600, phases=[Phase.generate], derandomize=True, print_blob=False)
    @given(scenarios)
    def broken(scenario: Scenario):
        with suppress(other):
            World(scenario).run()

    with pytest.raises(error):
        broken()


@pytest.mark.parametrize(
    "keys",
    [
        without_offset,
        the_block_that_start_cuts_is_the_base_models,
        no_mixture_behind_start,
        plain_lora_has_a_start,
    ],
)
def test_a_broken_key_is_caught(monkeypatch: pytest.MonkeyPatch, keys):
    monkeypatch.setattr(replacements, "block_keys", keys)
    caught(WrongBlockError)


@pytest.mark.parametrize("keys", [as_before, offset_for_all])
def test_a_key_that_shares_too_little_is_caught(monkeypatch: pytest.MonkeyPatch, keys):
    monkeypatch.setattr(replacements, "block_keys", keys)
    caught(LostBlockError)


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        (everybodys, WrongBlockError),
        (private_behind_the_block, WrongBlockError),
        (private_from_the_first_token, LostBlockError),
    ],
)
def test_a_broken_salt_is_caught(monkeypatch: pytest.MonkeyPatch, keys, error):
    monkeypatch.setattr(replacements, "private_keys", keys)
    caught(error)


@pytest.mark.parametrize("routing", [ever_since_start, one_early, chunk_by_chunk])
def test_broken_routing_is_caught(monkeypatch: pytest.MonkeyPatch, routing):
    monkeypatch.setattr(runners, "token_ids", routing)
    caught(WrongBlockError)
