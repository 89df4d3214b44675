"""The parts `engine` and `trainer` of `loadtests.gpu`: load tests that run as processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from loadtests.gpu_options import Options
from loadtests.gpu_report import COULD_NOT, PASS, SLOW, Line

MINUTES = {"engine": 30, "trainer": 15}
ENGINE_OF_BASE = 0.75
"""Below this part of the base model's tokens a second, mixtures are slow."""
OF_ESTIMATE = 1.1
"""Above this part of the estimate, the trainer takes too much memory."""


class ApartError(Exception):
    """A load test did not come to its end."""


def result(module: str, output: Path, more: Sequence[str], minutes: float) -> Any:
    """What `python -m loadtests.<module>` wrote.

    Raises:
        ApartError: it failed; what it said last.
    """
    command = [sys.executable, "-m", f"loadtests.{module}", "--output", str(output), *more]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60 * minutes, check=False)
    except subprocess.TimeoutExpired as error:
        raise ApartError(f"loadtests.{module} was not done after {minutes:g} minutes") from error
    if ran.returncode or not output.is_file():
        raise ApartError(f"loadtests.{module} ended with {ran.returncode}: {_last(ran.stderr or ran.stdout)}")
    return json.loads(output.read_text(encoding="utf-8"))


def _last(text: str) -> str:
    said = [line.strip() for line in text.splitlines() if line.strip()]
    return said[-1][:300] if said else "it said nothing"


def without_vllm() -> str | None:
    """Why vLLM's engine cannot run here; None: nothing is missing."""
    found = find_spec("vllm")
    folders = list(found.submodule_search_locations or ()) if found else []
    if not folders:
        return "vLLM is not installed"
    if not any(any(Path(folder).glob("_C*.so")) for folder in folders):
        return f"vLLM in {folders[0]} has no compiled extension (_C*.so): these are its sources alone"
    return None


def engine(options: Options) -> Iterator[Line]:
    """`loadtests.engine`: base, vLLM's own LoRA with one adapter, mixtures of 1, 4 and 8."""
    missing = without_vllm()
    if missing:
        yield Line("engine", "loadtests.engine", COULD_NOT, missing)
        return
    more = ["--compiled", "only", "--dtype", "bfloat16", "--rounds", "1" if options.quick else "3"]
    output = options.output.with_name(options.output.stem + "-engine.json")
    try:
        cases = result("engine", output, more, MINUTES["engine"])["cases"]
    except (ApartError, OSError, KeyError, ValueError) as error:
        yield Line("engine", "loadtests.engine", COULD_NOT, str(error))
        return
    yield from map(_engine_line, cases)


def _engine_line(case: dict[str, Any]) -> Line:
    name = f"{case['load']}, {case['engine']}, adapters {case['adapters']}, K={case['k']}"
    to_base, to_stock = case["ratio_to_base"], case["ratio_to_stock_one_adapter"]
    said = f"{case['tokens_per_s']:,.0f} tokens/s, {to_base:.2f} of the base model"
    said += "" if to_stock is None else f", {to_stock:.2f} of vLLM's own with one adapter"
    slow = case["engine"] == "mega" and to_base < ENGINE_OF_BASE
    return Line("engine", name, SLOW if slow else PASS, said, {"of_base": to_base})


def trainer(options: Options) -> Iterator[Line]:
    """`loadtests.whole`: random models of 1B and 8B, 1, 4 and 8 memories side by side."""
    for model in ("llama-3.2-1b",) if options.quick else ("llama-3.2-1b", "llama-3.1-8b"):
        output = options.output.with_name(f"{options.output.stem}-{model}.json")
        try:
            rows = result("whole", output, ["--model", model], MINUTES["trainer"])["rows"]
        except (ApartError, OSError, KeyError, ValueError) as error:
            yield Line("trainer", model, COULD_NOT, str(error))
            continue
        yield from (_trainer_line(model, row) for row in rows)


def _trainer_line(model: str, row: dict[str, Any]) -> Line:
    share = row["tensors"] / row["estimate"]
    said = (
        f"{row['seconds']:.2f} s a memory, {1e3 * row['step']:.0f} ms a step, "
        f"{row['of_peak']:.0%} of the data sheet's FLOP/s, "
        f"{row['tensors'] / 2**30:.1f} GiB: {share:.2f} of the estimate"
    )
    name = f"{model}, {row['jobs']} side by side"
    return Line("trainer", name, SLOW if share > OF_ESTIMATE else PASS, said, {"seconds": row["seconds"]})
