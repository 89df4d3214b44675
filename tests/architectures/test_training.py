"""Every architecture, with no option given: the trainer computes what PEFT does, or refuses beforehand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.architectures.checks import train_family, try_refusal
from tests.architectures.exactness import TRAINED
from tests.architectures.families import FAMILIES, REFUSALS, Family, Refusal
from tests.architectures.small_models import save_small
from vllm_mega.bank.adapter import check_adapter
from vllm_mega.gate.embedder import load_embedder
from vllm_mega.models import linear_shapes


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_peft_computes_what_training_saw(family: Family, tmp_path: Path) -> None:
    trained = train_family(family, tmp_path)
    assert trained.error <= TRAINED
    assert trained.effect > 0.01, "the adapter must matter for this test to mean anything"
    assert trained.early > 10 * TRAINED, "an adapter that acts before start would pass"
    assert trained.modules == family.modules
    check_adapter(trained.adapter, linear_shapes(trained.model))  # a bank would take it


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_it_can_make_the_keys(family: Family, tmp_path: Path) -> None:
    model = save_small(tmp_path / "model", family.model_type, family.fields)
    keys = load_embedder(f"base:{model}").embed(["A red kettle.", "Nine geese."])
    assert np.linalg.norm(keys, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert keys[0] @ keys[1] < 0.999


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_it_is_refused_before_anything_is_trained(refusal: Refusal, tmp_path: Path) -> None:
    assert try_refusal(refusal, tmp_path).status == "refused"
