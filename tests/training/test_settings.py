from __future__ import annotations

import pytest

from vllm_mega.config import settings_from
from vllm_mega.errors import ConfigError
from vllm_mega.training.recipe.settings import TrainSettings


@pytest.mark.parametrize(
    "bad",
    [
        {"rank": 0},
        {"rank": 513},
        {"alpha": 0.0},
        {"alpha": float("nan")},
        {"modules": []},
        {"modules": ["up_proj", "up_proj"]},
        {"modules": ["mlp.up_proj"]},
        {"layers": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("inf")},
        {"max_steps": 0},
        {"batch": 1},
        {"seed": -1},
        {"dtype": "float16"},
        {"ranks": 2},
    ],
    ids=str,
)
def test_bad_values_are_refused_by_name(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        settings_from(bad, TrainSettings)


def test_scaling() -> None:
    assert TrainSettings(rank=8).scaling == 1.0
    assert TrainSettings(rank=8, alpha=4.0).scaling == 0.5
