"""Documents: read, divided, and remembered as many memories."""

from __future__ import annotations

from pathlib import Path

from vllm_mega.config import check_tags
from vllm_mega.errors import RequestError
from vllm_mega.http.memories import told
from vllm_mega.http.memories.asked import Document
from vllm_mega.http.memories.repeating import catalog_for
from vllm_mega.http.memories.service import Asked, Service, Told
from vllm_mega.http.memories.uncollected import uncollected
from vllm_mega.memories.documents.division import Size
from vllm_mega.memories.documents.plan import Plan, Wish
from vllm_mega.memories.documents.reading import said_by
from vllm_mega.memories.documents.remembering import carry_out, make_plans


def store(service: Service, asked: Asked) -> Told:
    """Remember a document as it is now: what it has no more is forgotten.

    Raises:
        RequestError: neither a text nor a content, or both.
        ConfigError: tags that no memory can have.
        DocumentError: it cannot be read, or says nothing.
        LimitError: more than the namespace may have, or too fast.
    """
    with uncollected:
        return _stored(service, asked)


def _stored(service: Service, asked: Asked) -> Told:
    body: Document = asked.body
    check_tags(body.tags or ())
    read = said_by(Path(body.source), body.source, _content(body))
    size = Size() if body.tokens is None else Size.of(body.tokens)
    (plan,) = make_plans(service.catalog, [read], Wish(asked.namespace, body.tags), service.count(), size)
    steps = _steps(plan)
    changed = () if body.dry_run else tuple(step.id for step in steps if step.change != "keep")
    if not body.dry_run:
        service.take(asked.namespace, len(changed))
        most = service.limits_of(asked.namespace).memories
        catalog = catalog_for(
            service, asked, lambda _: [(step.id, step.change, step.tokens) for step in steps]
        )
        carry_out(catalog, plan, service.embedder, asked.who, train=body.train, most=most)
    return Told(told.DocumentStored(body.source, asked.namespace, steps, body.dry_run), changed)


def _content(body: Document) -> bytes:
    if (body.text is None) == (body.content is None):
        found = "neither" if body.text is None else "both"
        raise RequestError(f"expected `text` or `content`, found {found}", "text")
    return body.content if body.content is not None else (body.text or "").encode()


def _steps(plan: Plan) -> tuple[told.Step, ...]:
    kept = [told.Step(step.memory.id, step.change, step.memory.title, step.tokens) for step in plan.steps]
    return (*kept, *(told.Step(gone.id, "forget", gone.title, 0) for gone in plan.gone))
