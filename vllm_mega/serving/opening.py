"""Opening a bank for an engine: the gate over it, once bank, model and embedder are known to fit."""

from __future__ import annotations

from pathlib import Path

from vllm_mega.bank.reader import BankReader
from vllm_mega.config import MegaSettings
from vllm_mega.errors import ConfigError
from vllm_mega.gate.embedder import load_embedder
from vllm_mega.gate.gate import Gate
from vllm_mega.models import fingerprint, resolve_model


def open_gate(settings: MegaSettings, model: str | Path, slots: int) -> Gate:
    """The gate over the bank of `settings`, for an engine that runs `model` with so many slots.

    Raises:
        ConfigError: the gate would choose more memories than there are slots.
        BankError: no bank, or one for another base model or embedder.
        ModelError: the model or the embedder cannot be found.
    """
    if settings.gate.top_k > slots:
        raise ConfigError(
            f"top_k is {settings.gate.top_k}, but the engine has {slots} slots: "
            "lower top_k, or raise --max-loras"
        )
    base = fingerprint(resolve_model(str(model)))
    made = BankReader(settings.bank, base_fingerprint=base).snapshot().manifest
    embedder = load_embedder(settings.embedder or made.embedder.name)
    return Gate(BankReader(settings.bank, base_fingerprint=base, embedder=embedder.info), embedder)
