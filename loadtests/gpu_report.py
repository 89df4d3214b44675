"""What `loadtests.gpu` found: a verdict a line, as JSON, as a table, as Markdown."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from loadtests.plain_table import markdown, plain

PASS, SLOW, FAIL, COULD_NOT, LEFT_OUT = "pass", "slow", "fail", "could not run", "left out"
"""slow: right, but not as fast as it should be. left out: the time was over."""
BAD = (FAIL, COULD_NOT)
TIMES = ("base", "ours", "floor", "estimate", "stock")
"""Of figures: milliseconds of a step."""
TIME_HEADINGS = ("load", "base, ms", "ours, ms", "floor, ms", "estimate, ms", "vLLM's own, ms", "verdict")


@dataclass(frozen=True)
class Line:
    """One thing that was looked at."""

    part: str
    name: str
    verdict: str
    detail: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    """Milliseconds where the name is one of `TIMES`; else as `detail` says."""


@dataclass
class Report:
    """What the output file says."""

    machine: dict[str, Any]
    lines: list[Line] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """That each part took."""

    @property
    def good(self) -> bool:
        """Whether nothing was wrong and all that was asked for could run."""
        return not any(line.verdict in BAD for line in self.lines)

    def write(self, path: Path) -> None:
        """To `path`, whole or not at all.

        Raises:
            OSError: the disk refuses.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(f".{os.getpid()}.tmp")
        new.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        new.replace(path)


def read(path: Path) -> Report:
    """What `Report.write` wrote.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file.
    """
    said = json.loads(path.read_text(encoding="utf-8"))
    try:
        return Report(said["machine"], [Line(**line) for line in said["lines"]], said["seconds"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not what `python -m loadtests.gpu` writes: {error!r}") from error


def machine() -> dict[str, Any]:
    """The GPU and what runs on it."""
    import torch
    import triton  # type: ignore[import-untyped]

    return {
        "gpu": torch.cuda.get_device_name(),
        "memory_gib": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "triton": str(triton.__version__),
    }


def table(lines: Sequence[Line]) -> str:
    """The lines of a result as plain text, with their verdicts."""
    return plain(("part", "what", "verdict", ""), [[*_words(line), line.detail] for line in lines])


def _words(line: Line) -> list[str]:
    return [line.part, line.name, line.verdict]


def as_markdown(report: Report) -> str:
    """Two tables: the times of steps, and everything else."""
    timed = [line for line in report.lines if "ours" in line.figures]
    rest = [line for line in report.lines if "ours" not in line.figures]
    on = ", ".join(
        str(value) if name == "gpu" else f"{name} {value}" for name, value in report.machine.items()
    )
    times = markdown(TIME_HEADINGS, [_times(line) for line in timed])
    others = markdown(("part", "what", "verdict", "detail"), [[*_words(line), line.detail] for line in rest])
    return "\n\n".join((on, times, others))


def _times(line: Line) -> list[str]:
    found = (line.figures.get(name) for name in TIMES)
    return [line.name, *("-" if ms is None else f"{ms:.3f}" for ms in found), line.verdict]
