"""A whole large model: its arithmetic, and a small one that is really trained."""

from __future__ import annotations

import msgspec
import pytest
from rich.console import Console

from loadtests import whole
from loadtests.invented import invent
from loadtests.large import LLAMA
from loadtests.whole import Ran, row
from vllm_mega.models import resolve_model
from vllm_mega.models.chat_format import load_chat_format
from vllm_mega.training.recipe.recipe import Recipe
from vllm_mega.training.run.outlook import tokens_of


def test_what_was_reached_is_products_by_seconds() -> None:
    tokens = tokens_of(invent(4, seed=0), load_chat_format(resolve_model()), Recipe())
    slow = row(LLAMA, Ran(4, 8.0, 24, 0.25, 2e10, 3e10), tokens, 800e12)
    fast = row(LLAMA, Ran(4, 4.0, 24, 0.125, 2e10, 3e10), tokens, 800e12)
    assert slow.seconds == 2.0
    assert slow.rest == pytest.approx(2.0 - 24 * 0.25 / 4)
    assert slow.of_peak == pytest.approx(slow.tflop * 1e12 / 2.0 / 989e12)
    assert slow.of_probe == pytest.approx(slow.of_peak * 989 / 800)
    assert fast.of_peak == pytest.approx(2 * slow.of_peak)
    assert 50 < slow.tflop < 130


def test_a_model_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {**LLAMA.config, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    small |= {"num_key_value_heads": 2, "num_hidden_layers": 2}
    monkeypatch.setattr(whole, "JOBS", (1, 2))
    monkeypatch.setattr(whole, "STEPS", 5)
    model = msgspec.structs.replace(LLAMA, config={**small, "vocab_size": 50000})
    result = whole.measure(model, resolve_model(), "cpu", Console(quiet=True))
    assert [(r.jobs, r.steps) for r in result.rows] == [(1, 5), (2, 5)]
    assert all(0 < r.step < r.seconds for r in result.rows)
    assert whole.table(result).row_count == 2
