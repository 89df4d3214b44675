"""From timed requests to figures: percentiles, rates, ratios to the base model, and a table. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from rich.table import Table

from loadtests.scenarios import SCENARIOS, reference

ERRORS_SHOWN = 3


@dataclass(frozen=True)
class Sample:
    """One request that was answered whole."""

    ttft_s: float
    """From sending the request to the first token."""
    e2e_s: float
    """From sending the request to the last token."""
    tokens: int
    """New ones."""

    @property
    def tpot_s(self) -> float:
        """Seconds for each token behind the first."""
        return (self.e2e_s - self.ttft_s) / (self.tokens - 1)


@dataclass(frozen=True)
class Run:
    """The requests of one scenario in one round."""

    scenario: str
    seconds: float
    """From the first request to the last answer."""
    samples: tuple[Sample, ...]
    errors: tuple[str, ...] = ()
    """Why requests failed, one text each."""

    @property
    def tokens_per_s(self) -> float:
        return sum(sample.tokens for sample in self.samples) / self.seconds


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds over all answered requests; as a part of `Relative`: ratios."""

    p50: float
    p90: float
    p99: float
    mean: float


class Relative(msgspec.Struct, frozen=True):
    """Each figure by that of the base model (`reference`): below 1 is better for times, above 1 for rates."""

    ttft_ms: Latency
    tpot_ms: Latency
    e2e_ms: Latency
    output_tokens_per_s: float
    requests_per_s: float


class ScenarioSummary(msgspec.Struct, frozen=True):
    """One scenario over all rounds. Figures are of the answered requests; None: there were none."""

    name: str
    requests: int
    errors: int
    error_examples: tuple[str, ...]
    seconds: float
    ttft_ms: Latency | None
    tpot_ms: Latency | None
    e2e_ms: Latency | None
    output_tokens_per_s: float
    requests_per_s: float
    output_tokens_per_s_by_round: tuple[float, ...]
    """How far they lie apart says how much a difference between scenarios means."""
    relative_to_base: Relative | None = None


def summarise(runs: Sequence[Run]) -> list[ScenarioSummary]:
    """A summary for each scenario that `runs` has, in the order of SCENARIOS."""
    names = [name for name in SCENARIOS if any(run.scenario == name for run in runs)]
    summaries = [_summary(name, [run for run in runs if run.scenario == name]) for name in names]
    by_name = {summary.name: summary for summary in summaries}
    return [
        msgspec.structs.replace(each, relative_to_base=_relative(each, by_name.get(reference(each.name))))
        for each in summaries
    ]


def _summary(name: str, runs: Sequence[Run]) -> ScenarioSummary:
    samples = [sample for run in runs for sample in run.samples]
    errors = [error for run in runs for error in run.errors]
    seconds = sum(run.seconds for run in runs)
    return ScenarioSummary(
        name=name,
        requests=len(samples) + len(errors),
        errors=len(errors),
        error_examples=tuple(dict.fromkeys(errors))[:ERRORS_SHOWN],
        seconds=_rounded(seconds),
        ttft_ms=_latency(samples, lambda sample: sample.ttft_s),
        tpot_ms=_latency(samples, lambda sample: sample.tpot_s),
        e2e_ms=_latency(samples, lambda sample: sample.e2e_s),
        output_tokens_per_s=_rounded(sum(sample.tokens for sample in samples) / seconds),
        requests_per_s=_rounded(len(samples) / seconds),
        output_tokens_per_s_by_round=tuple(_rounded(run.tokens_per_s) for run in runs),
    )


def _latency(samples: Sequence[Sample], seconds: Callable[[Sample], float]) -> Latency | None:
    if not samples:
        return None
    ms = 1000.0 * np.array([seconds(sample) for sample in samples])
    p50, p90, p99 = np.percentile(ms, (50, 90, 99))
    return Latency(*(_rounded(float(value)) for value in (p50, p90, p99, ms.mean())))


def _relative(summary: ScenarioSummary, base: ScenarioSummary | None) -> Relative | None:
    ttft, tpot, e2e = (
        _latency_ratio(getattr(summary, name), getattr(base, name, None))
        for name in ("ttft_ms", "tpot_ms", "e2e_ms")
    )
    if base is None or ttft is None or tpot is None or e2e is None:
        return None
    return Relative(
        ttft,
        tpot,
        e2e,
        _rounded(summary.output_tokens_per_s / base.output_tokens_per_s),
        _rounded(summary.requests_per_s / base.requests_per_s),
    )


def _latency_ratio(ours: Latency | None, base: Latency | None) -> Latency | None:
    if ours is None or base is None:
        return None
    pairs = zip(msgspec.structs.astuple(ours), msgspec.structs.astuple(base), strict=True)
    return Latency(*(_rounded(value / reference) for value, reference in pairs))


def _rounded(value: float) -> float:
    return round(value, 3)


def table(summaries: Sequence[ScenarioSummary]) -> Table:
    """One line a scenario: what came back, how fast, and how that compares with the base model."""
    shown = Table(title="Load test (times in ms, p50 / p99)", title_justify="left")
    shown.add_column("scenario")
    for heading in ("requests", "errors", "TTFT", "TPOT", "end to end", "tokens/s", "of base"):
        shown.add_column(heading, justify="right")
    for each in summaries:
        ratio = each.relative_to_base
        shown.add_row(
            each.name,
            str(each.requests),
            f"[red]{each.errors}[/]" if each.errors else "0",
            _cell(each.ttft_ms, 0),
            _cell(each.tpot_ms, 1),
            _cell(each.e2e_ms, 0),
            f"{each.output_tokens_per_s:.1f}",
            f"{ratio.output_tokens_per_s:.2f}" if ratio else "-",
        )
    return shown


def _cell(latency: Latency | None, digits: int) -> str:
    return f"{latency.p50:.{digits}f} / {latency.p99:.{digits}f}" if latency else "-"
