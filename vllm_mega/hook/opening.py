"""Opening a bank for an engine: the gate over it, once bank, model and embedder are known to fit."""

from __future__ import annotations

import logging
from pathlib import Path

from vllm_mega.bank.catalog.catalog import open_catalog
from vllm_mega.bank.library import Library, check_match
from vllm_mega.config import MegaSettings
from vllm_mega.errors import ConfigError
from vllm_mega.gate.advice import crowded
from vllm_mega.gate.embedder import Embedder, bank_embedder
from vllm_mega.gate.gate import Gate
from vllm_mega.gate.index.index import Index
from vllm_mega.gate.uses import Count, track_uses
from vllm_mega.models import fingerprint, resolve_model

logger = logging.getLogger(__name__)


def gate_embedder(
    settings: MegaSettings, model: str | Path, slots: int, *, trust_remote_code: bool = False
) -> Embedder:
    """The embedder of a gate, once all that can be wrong with a bank is known not to be; no file stays open.

    Warns of an embedder for which everything is near.

    Args:
        settings: name the bank, and the embedder if it is not the bank's.
        model: what the engine runs: name, path or Hugging Face id.
        slots: of the engine.
        trust_remote_code: whether to run code that the embedder brings.

    Raises:
        ConfigError: the gate would choose more memories than there are slots.
        BankError: no bank, or one for another base model.
        ModelError: the model or the embedder cannot be found.
    """
    if settings.gate.top_k > slots:
        raise ConfigError(
            f"top_k is {settings.gate.top_k}, but the engine has {slots} slots: "
            "lower top_k, or raise --max-loras"
        )
    with open_catalog(settings.bank, settings.catalog) as catalog:
        made = catalog.settings()
        check_match(catalog.root, made, fingerprint(resolve_model(str(model))), None)
    embedder = bank_embedder(made, settings.embedder, str(model), trust_remote_code=trust_remote_code)
    if why := crowded(embedder, settings.gate):
        logger.warning(why)
    return embedder


def gate_over(settings: MegaSettings, embedder: Embedder, count: Count = lambda *_: None) -> Gate:
    """The gate over the bank of `settings`, all of which is read now, and never again.

    It belongs to this process: a catalog's connections outlive no fork. Where use counts, it is exchanged
    with the bank from now on.

    Args:
        settings: name the bank.
        embedder: of the gate.
        count: is told what became of uses.

    Raises:
        BankError: no bank, or one of another embedder.
    """
    index = Index()
    library = Library(settings.bank, settings.catalog, embedder=embedder.info, keys=index)
    try:
        uses = track_uses(library.catalog, settings, count)
    except BaseException:
        library.close()
        raise
    if uses is not None:
        uses.start()
    return Gate(library, index, embedder, uses)
