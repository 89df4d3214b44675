"""Steps that are scheduled before the tokens of the step before are known, as vLLM does on GPUs."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from tests.engine.adapters import Adapters
from tests.engine.conftest import Engine

pytestmark = pytest.mark.engine


def test_requests_answer_as_alone(
    engine: Engine, adapters: Adapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More adapters than slots: those that end give theirs away while a step with them is on its way."""
    pairs = [((n % 6, 0.75), ((n + 1) % 6, 0.5)) for n in range(12)]
    requests: list[tuple[str, Any]] = [
        (f"The keeper counts {n} boats", adapters.mixture(*pair)) for n, pair in enumerate(pairs)
    ]
    requests[3:3] = [("The keeper counts", None)]
    alone = engine.alone(requests)
    core = engine.llm.llm_engine.engine_core.engine_core
    monkeypatch.setattr(core, "batch_queue", deque(maxlen=2))
    monkeypatch.setattr(core, "batch_queue_size", 2)
    monkeypatch.setattr(core, "step_fn", core.step_with_batch_queue)
    waiting, update = [], core.scheduler.update_from_output

    def noted(*args: Any) -> Any:
        waiting.append(len(core.batch_queue))
        return update(*args)

    monkeypatch.setattr(core.scheduler, "update_from_output", noted)
    together = engine.ask(requests)
    assert max(waiting) == 1, "no step was scheduled before the tokens of another came"
    assert [answer.tokens for answer in together] == [answer.tokens for answer in alone]
    for answer, expected in zip(together, alone, strict=True):
        assert answer.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
