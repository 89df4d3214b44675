"""What every benchmark does around measuring: the file, the table, the exit code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from vllm_mega.errors import MegaError
from vllm_mega.output import write_json

R = TypeVar("R")


def run(
    output: Path,
    measure: Callable[[Console], R],
    table: Callable[[R], Table],
    good: Callable[[R], bool] = lambda _: True,
) -> int:
    """Measure, write the result to `output`, whole, and show it; the exit code, 1 if it is not `good`."""
    console = Console()
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        result = measure(console)
        write_json(output, result)
    except MegaError as error:
        Console(stderr=True, highlight=False).print(f"error: {error}", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130
    console.print(table(result))
    console.print(f"written: {output}")
    return 0 if good(result) else 1
