"""Spans of OpenTelemetry around what a request with memory does, beside vLLM's own and in the same trace.

::

    mega.request            a request with memory, until its last chunk; child of what `traceparent` names
    |-- mega.gate           from the request to its mixture
    |-- mega.recital        a recital, of which there may be several at a time
    |   `-- llm_request     vLLM's
    `-- mega.answer         the last pass
        `-- llm_request     vLLM's

Attributes are numbers and words of ours: never texts, ids or namespaces. OpenTelemetry is imported only where
vLLM traces (`--otlp-traces-endpoint`), and exports through vLLM's exporter.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
Attribute = str | int | float | bool


class Untraced:
    """Does what it is asked to, and keeps no spans."""

    async def run(self, name: str, work: Awaitable[T], headers: Mapping[str, str] | None = None) -> T:  # noqa: ARG002
        """What `work` gives.

        Args:
            name: of the span.
            work: what the span is around, with all spans that it begins within.
            headers: that a trace may be named in, for a span that begins in no other.
        """
        return await work

    def note(self, **attributes: Attribute) -> None:
        """Say something of the span that this runs in: `mega.` and each name, with its value."""

    def naming(self, given: Mapping[str, str]) -> Mapping[str, str]:
        """Headers that tell vLLM the trace, and the span that its own is a child of.

        Args:
            given: the client's.
        """
        return given


class Traced(Untraced):
    """Makes spans.

    Args:
        provider: of tracers; None: the one that vLLM has set up.
    """

    def __init__(self, provider: Any = None) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._trace = trace
        self._tracer = trace.get_tracer("vllm_mega", tracer_provider=provider)
        self._carrier = TraceContextTextMapPropagator()

    async def run(self, name: str, work: Awaitable[T], headers: Mapping[str, str] | None = None) -> T:
        """See `Untraced.run`; the span of a stream ends with it."""
        inside = headers is None or self._trace.get_current_span().get_span_context().is_valid
        parent = None if inside else self._carrier.extract(headers)
        span = self._tracer.start_span(name, context=parent)
        answer = None
        try:
            # An error is told by its kind alone: its message may have a client's words.
            with self._trace.use_span(span, record_exception=False, set_status_on_exception=False):
                answer = await work
        except BaseException as error:
            span.set_attribute("error.type", type(error).__name__)
            raise
        finally:
            if not isinstance(answer, AsyncGenerator):
                span.end()
        return _ending(answer, span) if isinstance(answer, AsyncGenerator) else answer  # type: ignore[return-value]

    def note(self, **attributes: Attribute) -> None:
        """See `Untraced.note`."""
        named = {f"mega.{name}": value for name, value in attributes.items()}
        self._trace.get_current_span().set_attributes(named)

    def naming(self, given: Mapping[str, str]) -> Mapping[str, str]:
        """See `Untraced.naming`; outside of spans they are the client's."""
        told: dict[str, str] = {}
        self._carrier.inject(told)
        return told or given


async def _ending(chunks: AsyncGenerator[Any, None], span: Any) -> AsyncGenerator[Any, None]:
    try:
        async for chunk in chunks:
            yield chunk
    finally:
        await chunks.aclose()
        span.end()


UNTRACED = Untraced()


def spans_of(vllm_config: Any) -> Untraced:
    """What traces if vLLM does."""
    return UNTRACED if vllm_config.observability_config.otlp_traces_endpoint is None else Traced()
