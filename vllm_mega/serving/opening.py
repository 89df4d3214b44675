"""Opening a bank for an engine: the gate over it, once bank, model and embedder are known to fit."""

from __future__ import annotations

import logging
from pathlib import Path

from vllm_mega.bank.reader import BankReader
from vllm_mega.config import MegaSettings
from vllm_mega.errors import ConfigError
from vllm_mega.gate.advice import crowded
from vllm_mega.gate.embedder import bank_embedder
from vllm_mega.gate.gate import Gate
from vllm_mega.models import fingerprint, resolve_model

logger = logging.getLogger(__name__)


def open_gate(
    settings: MegaSettings, model: str | Path, slots: int, *, trust_remote_code: bool = False
) -> Gate:
    """The gate over the bank of `settings`, for an engine that runs `model` with so many slots.

    Warns of an embedder for which everything is near.

    Args:
        settings: name the bank, and the embedder if it is not the bank's.
        model: what the engine runs: name, path or Hugging Face id.
        slots: of the engine.
        trust_remote_code: whether to run code that the embedder brings.

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
    embedder = bank_embedder(made, settings.embedder, str(model), trust_remote_code=trust_remote_code)
    if why := crowded(embedder, settings.gate):
        logger.warning(why)
    return Gate(BankReader(settings.bank, base_fingerprint=base, embedder=embedder.info), embedder)
