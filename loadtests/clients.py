"""Clients that the tests' environment does not have: python -m loadtests.clients --url URL --python PYTHON

Runs every case of tests/clients/cases.py against a server, in the environment that PYTHON belongs to, and
writes the table of docs/clients.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tests.clients.cases import CASES, outcome, with_table
from vllm_mega.models import DEFAULT_MODEL, resolve_model


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; leaves through SystemExit for --help and mistakes."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.clients",
        description="Try clients against a running server.",
        epilog="Ends with 1 if one does not do what the table says.",
    )
    add = parser.add_argument
    add("--url", required=True, help="of the server (http://127.0.0.1:8000)")
    add("--python", default=sys.executable, help="with openai, langchain-openai, lm-eval[api], transformers")
    add("--model", default=f"{DEFAULT_MODEL}-mega", help="name with memory (default: %(default)s)")
    add("--question", default="Who built the Lantern Ferry?", help="that a memory answers")
    add("--docs", type=Path, help="write the table into this file (docs/clients.md)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Try all; the exit code."""
    args, console, wrong = arguments(argv), Console(), 0
    for case in CASES:
        status = outcome(case, args.url, args.model, args.question, resolve_model(), args.python)
        wrong += status != case.expected
        console.print(f"{case.client} {case.use}: {status}", highlight=False, markup=False)
    if args.docs:
        args.docs.write_text(with_table(args.docs.read_text(encoding="utf-8")), encoding="utf-8")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
