"""`vllm-mega model`: make sure that base model and embedder are on this machine."""

from __future__ import annotations

import argparse

from vllm_mega.models import DEFAULT_EMBEDDER, DEFAULT_MODEL

HELP = "prepare the base model and the embedder, and say where they are"


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `vllm-mega model`."""
    parser.description = (
        "Prepare the default models once, in VLLM_MEGA_HOME or the user's cache directory, or fetch others "
        "from Hugging Face; then say where they are. Quick when there is nothing to do."
    )
    parser.epilog = "Example: vllm-mega model"
    parser.add_argument(
        "name",
        nargs="?",
        default=DEFAULT_MODEL,
        metavar="NAME",
        help=f"base model: path or Hugging Face id (default: {DEFAULT_MODEL})",
    )
    parser.add_argument(
        "--embedder",
        default=DEFAULT_EMBEDDER,
        help="sentence-transformers model: path or Hugging Face id; or base:MODEL for the paper's own "
        f"embedding (default: {DEFAULT_EMBEDDER})",
    )


def run(args: argparse.Namespace) -> int:
    """Resolve both; print name, path and fingerprint of each."""
    from vllm_mega.models import fingerprint, resolve_embedder, resolve_model

    for role, name, resolve in (
        ("base model", args.name, resolve_model),
        ("embedder", args.embedder, resolve_embedder),
    ):
        path = resolve(name)
        print(f"{role}: {name}\n  path: {path}\n  fingerprint: {fingerprint(path)}", flush=True)
    return 0
