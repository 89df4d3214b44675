"""Which linear layers of a model get adapters."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeVar

import msgspec
from torch import nn

from vllm_mega.errors import ModelError
from vllm_mega.models.architectures import EXPERTS, Config, module_names, require_trainable, upper_layers
from vllm_mega.training.recipe.settings import TrainSettings

_Settings = TypeVar("_Settings", bound=TrainSettings)
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")


def resolved(settings: _Settings, config: Config) -> _Settings:
    """`settings` with names of modules and a number of layers, as the architecture has them.

    Args:
        settings: as the user gave them, or a recipe with them.
        config: config.json of the model.

    Raises:
        ModelError: the settings ask for what the architecture does not have, or memories cannot be trained on
            it or served with it.
    """
    require_trainable(config)
    return msgspec.structs.replace(
        settings,
        modules=module_names(config, settings.modules),
        layers=settings.layers or upper_layers(config),
    )


def layer_index(name: str) -> int:
    """The layer that the module `name` belongs to; -1: none."""
    match = _LAYER.search(name)
    return int(match[1]) if match else -1


def target_names(model: nn.Module, settings: TrainSettings) -> list[str]:
    """Names of the linear layers of `model` that get an adapter: see `selected`."""
    return selected([name for name, m in model.named_modules() if isinstance(m, nn.Linear)], settings)


def selected(linear: Iterable[str], settings: TrainSettings) -> list[str]:
    """Of the names of all linear layers, those that get an adapter; `settings` are resolved.

    Raises:
        ModelError: one of `settings.modules` names none.
    """
    assert settings.modules is not None
    assert settings.layers is not None
    names = [name for name in linear if layer_index(name) >= 0 and not EXPERTS.intersection(name.split("."))]
    count = 1 + max((layer_index(name) for name in names), default=-1)
    upper = [name for name in names if layer_index(name) >= count - settings.layers]
    chosen = [name for name in upper if name.rpartition(".")[2] in settings.modules]
    missing = set(settings.modules) - {name.rpartition(".")[2] for name in chosen}
    if missing:
        there = sorted({name.rpartition(".")[2] for name in names})
        raise ModelError(
            f"the model has no linear layers named {', '.join(sorted(missing))} "
            f"in its upper {settings.layers} layers; choose modules from: {', '.join(there) or 'none'}"
        )
    return chosen
