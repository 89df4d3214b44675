"""The salt of a namespace, and which block has it; that nobody else finds blocks is in `test_sharing`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from vllm import SamplingParams

from vllm_mega.engine.private import PRIVATE, Salts, private_from, private_keys

OTHERS = (("cache_salt", "s"),)


def keys(said: Any, begin: int, end: int, others: Any = None) -> Any:
    params = SamplingParams(extra_args={PRIVATE: said})
    return private_keys(others, SimpleNamespace(sampling_params=params), begin, end)


def test_each_namespace_has_its_salt_and_nobody_can_make_it() -> None:
    salts = Salts("the bank's")
    assert salts.of("sea") == Salts("the bank's").of("sea")
    known = {
        salts.of("sea"),
        salts.of("land"),
        Salts("another's").of("sea"),
        Salts().of("sea"),
        Salts().of("sea"),
    }
    assert len(known) == 5
    assert all(len(salt) == 32 and int(salt, 16) >= 0 for salt in known)


def test_the_block_in_which_the_private_tokens_begin_has_the_salt() -> None:
    (said,) = private_from(33, "abc").values()
    assert keys(said, 16, 32) is keys(said, 48, 64) is None
    assert keys(said, 32, 48) == ((PRIVATE, "abc"),)
    assert keys(said, 33, 34, OTHERS) == (*OTHERS, (PRIVATE, "abc"))
    assert keys(said, 0, 16, OTHERS) == OTHERS
    assert keys("0:abc", 0, 16) == ((PRIVATE, "abc"),)


@pytest.mark.parametrize(
    "said", ["", "abc", ":abc", "-1:abc", "1.5:abc", "\u0663:abc", "\u00b2:abc", 3, None, ["0:abc"]]
)
def test_what_a_client_of_the_base_model_may_say_ends_no_engine(said: Any) -> None:
    assert keys(said, 0, 16, OTHERS) == OTHERS


@pytest.mark.parametrize("params", [None, SamplingParams()])
def test_without_a_salt_blocks_are_everybodys(params: Any) -> None:
    assert private_keys(OTHERS, SimpleNamespace(sampling_params=params), 0, 16) == OTHERS
