"""What a run will do: everything that can refuse is asked before anything is stored or trained."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from vllm_mega.bank.catalog.catalog import open_catalog
from vllm_mega.bank.catalog.keys import BankKeys, read_keys
from vllm_mega.bank.catalog.known import Known, known
from vllm_mega.bank.catalog.reading import measure_adapters
from vllm_mega.bank.catalog.records import BankSettings, MemoryName
from vllm_mega.bank.layout import BaseModelInfo, EmbedderInfo, NewMemory
from vllm_mega.bank.library import check_match
from vllm_mega.bank.opening import open_if_there
from vllm_mega.config import GateSettings
from vllm_mega.errors import BankMismatchError
from vllm_mega.gate.advice import advice, crowded
from vllm_mega.gate.embedder import bank_embedder, load_embedder
from vllm_mega.gate.vectors import Vectors
from vllm_mega.models import (
    DEFAULT_MODEL,
    fingerprint,
    linear_shapes,
    model_config,
    resolve_model,
    resolve_recorded,
    stable_name,
)
from vllm_mega.models.chat_format import ChatFormat, load_chat_format
from vllm_mega.models.chat_template import template_name
from vllm_mega.models.checkpoint import context_length
from vllm_mega.models.refusals import check_trainable
from vllm_mega.training.recipe.encoding import longest
from vllm_mega.training.recipe.recipe import Recipe
from vllm_mega.training.recipe.settings import TrainSettings
from vllm_mega.training.recipe.targets import resolved
from vllm_mega.training.run.changes import Why, divided, name_of
from vllm_mega.training.run.preflight import adapter_bytes, preflight, require_space

_LOG = logging.getLogger(__name__)


class Ground(NamedTuple):
    """What every training of a bank stands on."""

    path: Path
    """Of the base model."""
    base: BaseModelInfo
    recipe: Recipe
    """Resolved, with the chat template that is used."""
    chat: ChatFormat


class Plan(NamedTuple):
    """What a run will do, when everything that can refuse has been asked."""

    path: Path
    """Of the base model."""
    base: BaseModelInfo
    embedder: EmbedderInfo
    recipe: Recipe
    """Resolved, with the chat template that is used."""
    chat: ChatFormat
    shapes: dict[str, tuple[int, int]]
    """(O, I) by linear module of the base model."""
    missing: list[NewMemory]
    """To be trained ..."""
    why: list[Why]
    """... and why: of each, in order."""
    there: list[NewMemory]
    """In the bank already, trained on the same text by the same recipe."""
    keys: Vectors
    """Of `missing`, in order."""


def prepare(
    bank: Path,
    memories: Sequence[NewMemory],
    model: str | None = None,
    embedder: str | None = None,
    settings: TrainSettings | None = None,
    *,
    catalog: str | None = None,
    trust_remote_code: bool = False,
) -> Plan:
    """All that `train` does before anything is stored, with its arguments and errors.

    Logs advice; writes nothing.
    """
    made = _there(bank, catalog, [name_of(memory) for memory in memories])
    path, base, recipe, chat = _ground(bank, made, model, settings, trust_remote_code=trust_remote_code)
    keys = (
        bank_embedder(made.settings, embedder, model, trust_remote_code=trust_remote_code)
        if made
        else load_embedder(embedder, trust_remote_code=trust_remote_code)
    )
    if made:
        check_match(bank, made.settings, base.fingerprint, keys.info)
    missing, why, there = divided(memories, made.known if made else {}, recipe.digest)
    vectors = preflight(missing, there, keys, partial(longest, chat, recipe), context_length(path))
    shapes = linear_shapes(path)
    if missing:
        for line in [
            *filter(None, [crowded(keys, GateSettings())]),
            *advice(missing, vectors, keys, _keys_there(bank, catalog)),
        ]:
            _LOG.warning("warning: %s", line)
        require_space(bank, len(missing), adapter_bytes(shapes, recipe))
    return Plan(path, base, keys.info, recipe, chat, shapes, missing, why, there, vectors)


def prepare_waiting(
    bank: Path,
    model: str | None = None,
    settings: TrainSettings | None = None,
    *,
    catalog: str | None = None,
    trust_remote_code: bool = False,
) -> Ground:
    """As `prepare`, for memories that are stored already: they have their keys, and no embedder is loaded.

    Raises:
        BankNotFoundError: no bank there.
        BankMismatchError: it was made for another base model or chat template.
        ModelError: the model cannot be found or trained, or has no usable chat template.
    """
    with open_catalog(bank, catalog) as opened:
        made = _There(opened.settings(), measure_adapters(opened).memories, {})
    ground = _ground(bank, made, model, settings, trust_remote_code=trust_remote_code)
    check_match(bank, made.settings, ground.base.fingerprint, None)
    return ground


class _There(NamedTuple):
    """A bank that is there already."""

    settings: BankSettings
    adapters: int
    """Of memories with an adapter."""
    known: dict[MemoryName, Known]
    """Those of the run."""


def _there(bank: Path, url: str | None, names: Sequence[MemoryName]) -> _There | None:
    catalog = open_if_there(bank, url)
    if catalog is None:
        return None
    with catalog:
        return _There(catalog.settings(), measure_adapters(catalog).memories, known(catalog, names))


def _keys_there(bank: Path, url: str | None) -> BankKeys | None:
    """All keys of the bank, if there is one: read only where new memories are compared with them."""
    catalog = open_if_there(bank, url)
    if catalog is None:
        return None
    with catalog:
        return read_keys(catalog)


def _ground(
    bank: Path,
    made: _There | None,
    model: str | None,
    settings: TrainSettings | None,
    *,
    trust_remote_code: bool,
) -> Ground:
    path = _model_path(model, made)
    check_trainable(path)
    recipe = resolved(Recipe.of(settings or TrainSettings()), model_config(path))
    chat = _chat_format(bank, made, path, recipe.chat_template, trust_remote_code=trust_remote_code)
    recipe = msgspec.structs.replace(recipe, chat_template=chat.template)
    name = model or (made.settings.base.name if made else DEFAULT_MODEL)
    return Ground(path, BaseModelInfo(stable_name(name), fingerprint(path), chat.template), recipe, chat)


def _model_path(model: str | None, made: _There | None) -> Path:
    """Where the base model is."""
    if made:
        return resolve_recorded(model, made.settings.base.name)
    return resolve_model(model or DEFAULT_MODEL)


def _chat_format(
    bank: Path, made: _There | None, path: Path, template: str, *, trust_remote_code: bool
) -> ChatFormat:
    """In which memories are trained: as asked for, else as those of the bank, else as the model has it."""
    banks = made.settings.base.chat_template if made else ""
    chat = load_chat_format(path, template or banks, trust_remote_code=trust_remote_code)
    # Memories that were added to the bank of a model without a template were trained who knows how.
    certain = bool(banks or chat.tokenizer.chat_template)
    if made and made.adapters and certain and chat.template != banks:
        raise BankMismatchError(
            f"{bank}: its memories are trained in the chat template {template_name(banks)}, not in "
            f"{template_name(chat.template)}: leave --chat-template out, or choose another bank"
        )
    return chat
