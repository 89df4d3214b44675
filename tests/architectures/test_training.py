"""Every architecture, with no option given: the trainer computes what PEFT does, or refuses beforehand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.architectures.exactness import (
    MEMORY,
    SETTINGS,
    TRAINED,
    plain_logits,
    relative_error,
    sample_rows,
    train_small,
    trainer_logits,
    with_adapter,
)
from tests.architectures.families import FAMILIES, REFUSALS, Family, Refusal
from tests.architectures.small_models import save_small, spoil
from vllm_mega.bank.adapter import check_adapter
from vllm_mega.errors import MegaError
from vllm_mega.models import linear_shapes
from vllm_mega.training.session import train


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_peft_computes_what_training_saw(family: Family, tmp_path: Path) -> None:
    model, adapter = save_small(tmp_path / "model", family.model_type, family.fields), tmp_path / "adapter"
    trainer = train_small(model, adapter)
    rows = sample_rows()
    wanted = plain_logits(with_adapter(model, adapter), rows)
    assert relative_error(trainer_logits(trainer, rows), wanted) <= TRAINED
    assert relative_error(plain_logits(with_adapter(model, None), rows), wanted) > 0.01, "it must matter"
    check_adapter(adapter, linear_shapes(model))  # a bank would take it
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert tuple(config["target_modules"]) == family.modules


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_it_is_refused_before_anything_is_trained(refusal: Refusal, tmp_path: Path) -> None:
    model = save_small(tmp_path / "model", refusal.model_type, refusal.fields)
    spoil(model, refusal.spoil)
    with pytest.raises(MegaError, match=refusal.words) as caught:
        train(tmp_path / "bank", [MEMORY], str(model), settings=SETTINGS)
    assert "\n" not in str(caught.value)
