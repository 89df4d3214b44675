"""`vllm-mega serve --train`: its options, and the trainer that follows from them."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from vllm_mega.errors import ConfigError

if TYPE_CHECKING:
    from vllm_mega.commands._memory_options import Launch
    from vllm_mega.http.companion import Beside


def add_beside_options(parser: argparse.ArgumentParser) -> None:
    """Give `serve` the options --train and --train-threads."""
    parser.add_argument(
        "--train",
        action="store_true",
        help="keep a trainer beside the server, as `vllm-mega train --watch` is one: what waits in the bank, "
        "or comes, gets its adapter in time of the processors that nobody else wants",
    )
    parser.add_argument(
        "--train-threads",
        type=int,
        metavar="N",
        help="with --train: how many threads it computes with (default: half as many as there are cores)",
    )


def beside(args: argparse.Namespace, launch: Launch) -> Beside | None:
    """The trainer that the server gets; None: none.

    All that could refuse is asked now, not when the server runs.

    Raises:
        ConfigError: options that do not go together.
        BankError, ModelError: the bank cannot be trained.
    """
    from vllm_mega.http.launch import runs_on_cpu
    from vllm_mega.http.trainer import refuse_without_server, trainer_beside, trainer_threads
    from vllm_mega.training.run.watch import prepare_watch

    if not args.train:
        if args.train_threads is not None:
            raise ConfigError("--train-threads needs --train")
        return None
    refuse_without_server(launch.given)
    threads = trainer_threads(args.train_threads, os.sched_getaffinity(0))
    model, trusted = args.model or launch.given.get("model"), bool(launch.given.get("trust_remote_code"))
    prepare_watch(args.bank, model, catalog=args.catalog, trust_remote_code=trusted)
    words = _words(args, model, trusted)
    return trainer_beside(
        words, threads, environ=os.environ, serving=launch.environment, on_cpu=runs_on_cpu()
    )


def _words(args: argparse.Namespace, model: str | None, trusted: bool) -> list[str]:
    """What `vllm-mega train` is told, wherever it runs."""
    words = ["--bank", str(args.bank.absolute())]
    words += ["--catalog", args.catalog] if args.catalog else []
    words += ["--model", model] if model else []
    return words + (["--trust-remote-code"] if trusted else [])
