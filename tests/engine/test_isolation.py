"""Requests never see another request's memories or KV blocks."""

from __future__ import annotations

import pytest

from tests.engine.adapters import Adapters
from tests.engine.conftest import Engine

pytestmark = pytest.mark.engine

PROMPT = "In the archive of Osterby there is a shelf that nobody has opened since the flood. " * 4


def test_different_mixtures_never_share_a_block_and_equal_ones_do(engine: Engine, adapters: Adapters):
    engine.forget_cache()
    mix = adapters.mixture
    kinds = [None, mix((0, 1.0)), mix((0, 0.5)), mix((0, 0.5), (1, 0.5)), mix((0, 0.5), (2, 0.5))]
    for kind in kinds:
        assert engine.ask([(PROMPT, kind)])[0].cached == 0, kind
    for kind in [*kinds, mix((1, 0.5), (0, 0.5))]:
        assert engine.ask([(PROMPT, kind)])[0].cached >= 32, kind


def test_a_cached_prefix_gives_the_same_answer(engine: Engine, adapters: Adapters):
    engine.forget_cache()
    request = (PROMPT, adapters.mixture((3, 1.0), (4, 0.25)))
    fresh = engine.ask([request])[0]
    cached = engine.ask([request])[0]
    assert (fresh.cached, cached.cached >= 32) == (0, True)
    assert fresh.tokens == cached.tokens
    assert fresh.logprobs == pytest.approx(cached.logprobs, abs=1e-4)


def test_a_base_request_beside_mixtures_is_the_base_model(engine: Engine, adapters: Adapters):
    engine.forget_cache()
    base = engine.ask([("The keeper said", None)])[0]
    engine.forget_cache()
    beside = engine.ask(
        [("The keeper said", None), *(("Hello", adapters.mixture((n, 4.0))) for n in range(4))]
    )[0]
    assert beside.tokens == base.tokens
    assert beside.logprobs == pytest.approx(base.logprobs, abs=1e-5)


def test_every_live_mixture_has_one_id_of_its_own():
    from vllm_mega.engine.ids import FIRST_ID, LAST_ID, MixtureIds

    ids = MixtureIds(capacity=3)
    first = {name: ids.get(name, list) for name in "abc"}
    assert len(set(first.values())) == 3
    assert ids.get("d", lambda: ["a", "c"]) not in first.values()
    assert [ids.get(name, list) for name in "ac"] == [first["a"], first["c"]]
    ids._next = LAST_ID
    assert ids.get("e", list) == LAST_ID
    live = ids._ids.copy()
    wrapped = ids.get("f", lambda: live)
    assert FIRST_ID <= wrapped <= LAST_ID
    assert wrapped not in live.values()
    more = [ids.get(name, lambda: dict(ids._ids)) for name in "ghij"]
    assert len({*more, *live.values(), wrapped}) == len(more) + len(live) + 1
