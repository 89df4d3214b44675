"""Logits of requests with a start equal those of a plain model whose adapter is switched by position."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from tests.engine.adapters import Adapters
from tests.engine.by_position import ByPosition, parts_of
from tests.engine.conftest import ENGINE_ARGS, Answer, Engine
from vllm_mega.engine import runners
from vllm_mega.engine.routing import token_ids
from vllm_mega.errors import MixtureError
from vllm_mega.mixture import Mixture

pytestmark = pytest.mark.engine

BLOCK = ENGINE_ARGS["block_size"]
CHUNK = ENGINE_ARGS["max_num_batched_tokens"]
TEXT = (
    "Varn has a harbour of grey stone, a lighthouse and one street. Its keeper, Ilse Brandt, is up "
    "before the gulls. She trims seven lamps, winds the clock, and enters the wind in a blue notebook: "
    "north, north-west, none. On Mondays a cart brings oil and onions; on Fridays it takes her letters, "
    "most of them to a brother who builds organs in the mountains. He once sent her a pipe of tin that "
    "hums when a storm is near. It stands by the window, and nobody but the cat may touch it. Last "
    "autumn it hummed for nine days. On the tenth day she wrote to him"
)


class Asked(NamedTuple):
    prompt: str
    what: Any
    start: int


@pytest.fixture(scope="module")
def batch(adapters: Adapters, reference: ByPosition) -> list[Asked]:
    return batch_of(adapters, reference)


def batch_of(adapters: Adapters, reference: ByPosition) -> list[Asked]:
    """Base, plain LoRA, and mixtures that start anywhere, most of them behind the same text."""
    from vllm.lora.request import LoRARequest

    one, two = adapters.mixture((0, 1.0)), adapters.mixture((1, 0.5), (2, 0.5))
    three = adapters.mixture((6, 1.5), (4, -0.5), (1, 1.0))
    end = len(reference.tokenizer(TEXT).input_ids)
    assert end > CHUNK + BLOCK
    starts = [0, 5, BLOCK - 1, BLOCK, BLOCK + 1, CHUNK - 1, CHUNK, CHUNK + 7, end - 1, end]
    asked = [Asked(TEXT, (one, two)[n % 2], start) for n, start in enumerate(starts)]
    # The same mixture within the same block, and another one in its place.
    asked += [Asked(TEXT, one, CHUNK + 8), Asked(TEXT, two, CHUNK + 9), Asked(TEXT, one, BLOCK + 1)]
    plain = LoRARequest("plain-5", 1, str(adapters.folders[5]))
    return [*asked, Asked(TEXT, None, 40), Asked(TEXT, plain, 40), Asked("Hello there", three, 1)]


def check(reference: ByPosition, asked: list[Asked], answers: list[Answer], tolerance: float = 2e-3) -> None:
    for n, (request, answer) in enumerate(zip(asked, answers, strict=True)):
        start = request.start if isinstance(request.what, Mixture) else 0
        prompt = reference.tokenizer(request.prompt).input_ids
        found = reference.logprobs([*prompt, *answer.tokens], parts_of(request.what), start)
        found = found[len(prompt) - 1 : -1]
        picked = found.gather(1, torch.tensor(answer.tokens)[:, None])[:, 0]
        about = f"request {n}: start {request.start} of {len(prompt)}"
        assert list(answer.logprobs) == pytest.approx(picked.tolist(), abs=tolerance), about
        assert (picked >= found.max(-1).values - tolerance).all(), about


def assert_start_matters(answers: list[Answer]) -> None:
    assert len({round(answer.logprobs[0], 2) for answer in answers}) > len(answers) // 2


def ask(engine: Engine, asked: list[Asked], max_tokens: int = 8) -> list[Answer]:
    pairs = [(request.prompt, request.what) for request in asked]
    return engine.ask(pairs, max_tokens, [request.start for request in asked])


def test_a_mixed_batch_equals_a_model_whose_adapter_is_switched_by_position(
    engine: Engine, reference: ByPosition, batch: list[Asked]
):
    engine.forget_cache()
    answers = ask(engine, batch)
    check(reference, batch, answers)
    assert_start_matters(answers)


def test_one_token_more_would_be_seen(
    engine: Engine, reference: ByPosition, batch: list[Asked], monkeypatch: pytest.MonkeyPatch
):
    def one_early(ids, computed, scheduled, starts):
        return token_ids(ids, computed, scheduled, np.maximum(starts - 1, 0))

    monkeypatch.setattr(runners, "token_ids", one_early)
    for request in batch[1:9]:
        engine.forget_cache()
        answers = ask(engine, [request])
        with pytest.raises(AssertionError):
            check(reference, [request], answers)
    engine.forget_cache()


def test_it_does_with_a_warm_cache_and_in_any_order(
    engine: Engine, reference: ByPosition, batch: list[Asked]
):
    for again in (batch[::-1], batch[1::2] + batch[::2]):
        answers = ask(engine, again)
        check(reference, again, answers)
        assert sum(answer.cached for answer in answers) > CHUNK * len(batch) // 2


def test_one_at_a_time_with_an_empty_cache(engine: Engine, reference: ByPosition, batch: list[Asked]):
    for request in batch[3:9:2]:
        engine.forget_cache()
        check(reference, [request], ask(engine, [request]))


def test_whole_blocks_before_start_are_shared_in_both_directions(
    engine: Engine, adapters: Adapters, reference: ByPosition
):
    whole = len(reference.tokenizer(TEXT).input_ids) // BLOCK * BLOCK
    one, two = adapters.mixture((0, 1.0)), adapters.mixture((3, 1.0))
    start = 3 * BLOCK + 5
    for first, then in [
        (Asked(TEXT, None, 0), Asked(TEXT, one, start)),
        (Asked(TEXT, one, start), Asked(TEXT, None, 0)),
        (Asked(TEXT, one, start), Asked(TEXT, two, start)),
        (Asked(TEXT, one, start), Asked(TEXT, one, start + 1)),
    ]:
        engine.forget_cache()
        assert ask(engine, [first])[0].cached == 0
        assert ask(engine, [then])[0].cached == 3 * BLOCK
    assert ask(engine, [then])[0].cached == whole  # its own now, the one that start cuts among them
    assert ask(engine, [Asked(TEXT, one, 0)])[0].cached == 0


def test_preemption_changes_nothing(engine: Engine, reference: ByPosition, batch: list[Asked]):
    asked = [Asked(f"{n}. {TEXT}", request.what, request.start) for n, request in enumerate(batch[1:9])]
    preempted = []
    original = engine.scheduler._preempt_request
    engine.scheduler._preempt_request = lambda r, *a, **k: (preempted.append(r), original(r, *a, **k))
    try:
        answers = ask(engine, asked, max_tokens=48)
    finally:
        engine.scheduler._preempt_request = original
    assert any(request.lora_request for request in preempted), "the KV cache must be too small for all"
    check(reference, asked, answers)


def test_a_start_beyond_the_prompt_is_refused_and_the_engine_goes_on(engine: Engine, adapters: Adapters):
    mixture = adapters.mixture((0, 1.0))
    for bad in (10_000, -1, "3", True):
        with pytest.raises(MixtureError, match="mega_start"):
            ask(engine, [Asked("Hello", mixture, bad)])
    assert not engine.scheduler.has_unfinished_requests()
    assert len(ask(engine, [Asked("Hello", mixture, 1)])[0].tokens) == 8
    assert len(ask(engine, [Asked("Hello", None, 10_000)])[0].tokens) == 8
