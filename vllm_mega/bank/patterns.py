"""Regular expressions of strangers: matched in a process of their own, within limits of time and memory.

Python's engine can be kept busy for years by a few characters, and other engines do not understand all that
PEFT, which uses Python's, may have written.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from vllm_mega.bank._matching import SECONDS

_PROGRAM = Path(__file__).with_name("_matching.py")


def first_matches(patterns: Sequence[str], names: Sequence[str]) -> list[int | None]:
    """For each of `names`, the place of the first of `patterns` that matches its last parts, as PEFT does.

    Args:
        patterns: regular expressions.
        names: of modules.

    Raises:
        ValueError: one is no regular expression, or they take too long or too much memory.
    """
    if not patterns:
        return [None] * len(names)
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(_PROGRAM)],
            input=json.dumps({"patterns": list(patterns), "names": list(names)}).encode(),
            capture_output=True,
            timeout=SECONDS,
            check=True,
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        raise ValueError("regular expressions that take too long, or too much memory") from error
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise ValueError(answer["error"])
    places: list[int | None] = answer["places"]
    return places
