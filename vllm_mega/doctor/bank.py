"""A bank, as far as it can be looked at quickly: what `vllm-mega bank verify` does but for the adapters."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

from vllm_mega.bank.catalog.catalog import open_catalog
from vllm_mega.bank.catalog.check import Problem, check_rows
from vllm_mega.bank.catalog.reading import count_memories, measure_adapters
from vllm_mega.bank.catalog.records import BankSettings, Filter, State
from vllm_mega.bank.catalog.store import named, on_disk
from vllm_mega.bank.layout import EmbedderInfo
from vllm_mega.bank.library import check_match
from vllm_mega.doctor.finding import Check, Finding, examined
from vllm_mega.doctor.models import model
from vllm_mega.models import BASE_PREFIX, find_here, fingerprint

SHOWN = 3
VERIFY = "vllm-mega bank verify says all of it"


@dataclass(frozen=True)
class Asked:
    """Which bank, and with which models."""

    bank: Path
    catalog: str | None = None
    model: str | None = None
    """None: the bank's."""
    embedder: str | None = None
    """None: the bank's."""


def bank(asked: Asked, serve: Check) -> Iterator[Finding]:
    """What is wrong with a bank, with its models, and with serving it.

    Args:
        asked: which.
        serve: what would come of it; asked only where nothing would have to be downloaded for an answer.

    Raises:
        BankError: it cannot be opened.
    """
    with open_catalog(asked.bank, asked.catalog) as catalog:
        settings = catalog.settings()
        counts = {state: count_memories(catalog, Filter(state=state)) for state in get_args(State)}
        yield contents(counts, measure_adapters(catalog).memories)
        yield rows(check_rows(catalog))
        yield adapters(named(catalog) - on_disk(catalog))
    base = asked.model or settings.base.name
    embedder = asked.embedder or _embedder(settings, base)
    yield from examined("base model", partial(_base, asked.bank, settings, base))
    yield from examined("embedder", partial(_embedder_of, asked.bank, settings, embedder))
    if _here(base):
        yield from examined("serve", serve)


def contents(counts: Mapping[str, int], answered: int) -> Finding:
    """How many memories there are.

    Args:
        counts: of memories, by state.
        answered: how many of them an adapter answers.
    """
    states = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    found = f"{sum(counts.values())} memories" + (f" ({states})" if states else "")
    if counts.get("failed"):
        return Finding("bank", "warning", found, "vllm-mega bank jobs says why trainings failed")
    if not answered:
        return Finding("bank", "warning", f"{found}, none with an adapter", "vllm-mega train makes them")
    return Finding("bank", "ok", found)


def rows(problems: Sequence[Problem]) -> Finding:
    """What the catalog says against itself."""
    if not problems:
        return Finding("catalog", "ok", "it does not contradict itself")
    told = "; ".join(f"{one.kind} {one.where}: {one.problem}" for one in problems[:SHOWN])
    return Finding("catalog", "problem", f"{len(problems)} problems: {told}", VERIFY)


def adapters(missing: Collection[str]) -> Finding:
    """Whether every adapter that a version names is on disk; what is in it is not looked at."""
    if not missing:
        return Finding("adapters", "ok", "all that are named are on disk")
    change = f"bring the bank's folder `adapters` back from a copy; {VERIFY}"
    return Finding("adapters", "problem", f"{len(missing)} are missing, such as {min(missing)}", change)


def _base(root: Path, settings: BankSettings, name: str) -> Iterator[Finding]:
    found = model("base model", name)
    if folder := find_here(name):
        check_match(root, settings, fingerprint(folder), None)
    yield found


def _embedder_of(root: Path, settings: BankSettings, name: str) -> Iterator[Finding]:
    found = model("embedder", name)
    if folder := find_here(name):
        prefix = BASE_PREFIX if name.startswith(BASE_PREFIX) else ""
        made = EmbedderInfo(name, prefix + fingerprint(folder), settings.embedder.dim)
        check_match(root, settings, None, made)
    yield found


def _embedder(settings: BankSettings, base: str) -> str:
    """The bank's; one that is made of the base model is where that is now."""
    made = settings.embedder.name
    return BASE_PREFIX + base if made == BASE_PREFIX + settings.base.name else made


def _here(name: str) -> bool:
    return any(found.status == "ok" for found in examined("", lambda: [model("", name)]))
