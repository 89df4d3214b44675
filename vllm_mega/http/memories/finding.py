"""Search: what the gate would do with a text, and the texts that it would find."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from vllm_mega.bank.library import Library
from vllm_mega.config import GateSettings
from vllm_mega.errors import ConfigError, MemoryNotFoundError, RequestError
from vllm_mega.gate.gate import Decision, Hit, Query
from vllm_mega.http.memories import found
from vllm_mega.http.memories.asked import Search
from vllm_mega.http.memories.service import Asked, Service, Told


def find(service: Service, asked: Asked) -> Told:
    """The memories of the namespace that are nearest, and, if asked for, what the gate would do.

    Raises:
        RequestError: a number that the gate refuses.
    """
    body: Search = asked.body
    settings = _settings(service.settings.gate, body)
    decision, hits = service.gate.explain(
        Query(body.query, asked.namespace, settings, tags=body.tags, explain=body.explain), body.limit
    )
    explained = _explained(decision, settings) if body.explain else None
    return Told(found.FoundList(tuple(_found(service.gate.library, hits)), explained))


def _settings(gate: GateSettings, body: Search) -> GateSettings:
    names = GateSettings.__struct_fields__
    given: dict[str, Any] = {name: value for name in names if (value := getattr(body, name)) is not None}
    try:
        return msgspec.structs.replace(gate, **given)
    except ConfigError as error:
        raise RequestError(str(error), next(iter(given))) from error


def _found(library: Library, hits: Sequence[Hit]) -> Iterator[found.Found]:
    """With texts; what was forgotten since is left out."""
    for hit in hits:
        try:
            version = library.version(hit.row)
        except MemoryNotFoundError:
            continue
        row = hit.row
        yield found.Found(
            hit.id, hit.title, version.text, row.version, row.state, row.tags, hit.score, hit.weight
        )


def _explained(decision: Decision, settings: GateSettings) -> found.Explained:
    shares = tuple(
        found.Share(hit.id, hit.weight, hit.score, hit.score is not None and hit.score < settings.threshold)
        for hit in decision.hits
    )
    return found.Explained(
        settings.threshold, settings.top_k, settings.beta, settings.link_share, decision.best_score, shares,
        _tips(decision),
    )  # fmt: skip


def _tips(decision: Decision) -> tuple[found.Tip, ...] | msgspec.UnsetType:
    tips = decision.explanation.tips if decision.explanation is not None else None
    if tips is None:
        return msgspec.UNSET
    return tuple(found.Tip(tip.id, tip.salience, tip.added) for tip in tips)
