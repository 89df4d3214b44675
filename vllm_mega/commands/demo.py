"""`vllm-mega demo`: the whole life of some memories, from text to an answer, with checks."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "train invented memories, serve them, ask questions, check the answers"

EPILOG = """\
example:
  vllm-mega demo --output out

Writes out/bank (the next run reuses it), out/server.log and out/demo.json. Exit code 0 means: at least 80 %
of the questions about memories were answered (directly or with irag), at least 80 % of the memories were
recalled word for word, and unrelated prompts were answered token by token as by the base model."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = "Train invented memories, serve them with vLLM, ask, and check the answers."
    parser.epilog = EPILOG
    parser.add_argument(
        "--output", type=Path, default=Path("out"), help="folder for all it writes (default: out)"
    )
    parser.add_argument("--model", help="base model: name, path or Hugging Face id (default: the bank's)")


def run(args: argparse.Namespace) -> int:
    """Train, serve, ask, judge."""
    from vllm_mega.demo import play

    return play.play(args.output, args.model)
