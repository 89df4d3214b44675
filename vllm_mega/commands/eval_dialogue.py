"""`vllm-mega eval-dialogue`: are the right memories thought of in a running conversation?"""

from __future__ import annotations

import argparse
from pathlib import Path

from vllm_mega.config import MegaSettings

HELP = "measure the gate in dialogues: recall of the right memories, beside published retrievers"

EPILOG = """\
Lines of --memories are the input of `train`, those of --dialogues {"messages", "relevant": [ids],
"namespace"?}: what was said before an answer, and which memories it should use. MADial-Bench's two files
(arXiv 2409.15240) are read as they are; its published baselines then stand beside. Neither a bank nor a
model is needed, only the embedder. Writes dialogue.json and dialogue.md.

example:
  vllm-mega eval-dialogue --memories memories.jsonl --dialogues dialogues.jsonl --output report"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `vllm-mega eval-dialogue`."""
    from vllm_mega.commands._settings import add_setting, own_default

    parser.description = "Rank the memories at every turn as the gate does, and count the right ones."
    parser.epilog = EPILOG
    parser.add_argument("--memories", required=True, type=Path, help="the memories, JSONL")
    parser.add_argument(
        "--dialogues", required=True, type=Path, help="dialogues and what they are about, JSONL"
    )
    parser.add_argument("--output", required=True, type=Path, help="folder of the report")
    parser.add_argument(
        "--embedder", help="embedder of the gate: name, path or id (default: all-MiniLM-L6-v2)"
    )
    for name in ("window", "dialogue"):
        add_setting(parser, MegaSettings, name, own_default(MegaSettings, name), metavar="N")


def run(args: argparse.Namespace) -> int:
    """Read, rank, count, write."""
    from rich.console import Console
    from rich.markdown import Markdown

    from vllm_mega.evaluation import dialogue, dialogue_data
    from vllm_mega.gate.embedder import load_embedder

    settings = MegaSettings(bank="none", window=args.window, dialogue=args.dialogue)
    material = dialogue_data.read(args.memories, args.dialogues)
    report = dialogue.measure(material, load_embedder(args.embedder), settings)
    dialogue.write(report, args.output)
    Console().print(Markdown(dialogue.markdown(report)))
    print(f"written: {args.output / 'dialogue.json'}, {args.output / 'dialogue.md'}")
    return 0
