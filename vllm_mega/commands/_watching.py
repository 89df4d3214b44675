"""`vllm-mega train --watch`: its options, and a line for all that happens."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from vllm_mega.errors import ConfigError

if TYPE_CHECKING:
    from vllm_mega.training.run.watch import News

NOT_BESIDE = ("input", "limit", "dry_run", "embedder", "workers", "ray_address", "progress")
"""Options of `train` that say nothing to a trainer that trains whatever comes, in this process."""
POLL_S = 1.0


def add_watch_options(parser: argparse.ArgumentParser) -> None:
    """Give `train` the options --watch and --poll."""
    parser.add_argument(
        "--watch",
        action="store_true",
        help="train what waits in the bank and whatever comes later, until SIGTERM or Ctrl-C; any number may "
        "do so for one bank, on other hosts too",
    )
    parser.add_argument(
        "--poll",
        type=float,
        metavar="SECONDS",
        help=f"with --watch: between two looks at a bank where nothing waits (default: {POLL_S:g})",
    )


def watch(args: argparse.Namespace, settings: Any) -> int:
    """Train for ever; 0 when somebody has said stop.

    Raises:
        ConfigError: options that do not go with --watch.
        MegaError: as `training.run.watch`.
    """
    from vllm_mega.training.run.stopping import stop_at_signals
    from vllm_mega.training.run.watch import Watch, prepare_watch

    poll = _poll(args)
    started = time.perf_counter()
    how = {"catalog": args.catalog, "trust_remote_code": args.trust_remote_code}
    task = prepare_watch(args.bank, args.model, settings, **how)
    with stop_at_signals() as stop:
        watching = Watch(task, stop, poll)
        seconds = time.perf_counter() - started
        _say(
            f"watching {args.bank}: {task.base} is loaded ({seconds:.1f} s), {task.recipe.jobs} side by side"
        )
        for line in _lines(watching.run()):
            _say(line)
    return 0


def _poll(args: argparse.Namespace) -> float:
    """Seconds between two looks.

    Raises:
        ConfigError: options that do not go with --watch, or a number that cannot be right.
    """
    for name in NOT_BESIDE:
        if getattr(args, name):
            option = "--" + name.replace("_", "-")
            raise ConfigError(f"--watch trains what waits in the bank, in this process: leave out {option}")
    poll = POLL_S if args.poll is None else float(args.poll)
    if not 0.01 <= poll <= 3600:
        raise ConfigError(f"--poll must be 0.01..3600 seconds, got {poll:g}")
    return poll


def _lines(news: Iterable[News]) -> Iterator[str]:
    """What is told of it, and in the end how much it was."""
    from vllm_mega.commands._training import trained_line
    from vllm_mega.training.run.outcome import Failed, Trained
    from vllm_mega.training.run.watch import OutOfReach, Returned, Taken

    trained = failed = 0
    for one in news:
        match one:
            case Taken(names):
                yield f"training {_named(names)}"
            case Trained():
                trained += 1
                yield trained_line(one)
            case Failed():
                failed += 1
                yield f"NOT trained: {one}"
            case Returned(names):
                yield f"broken off, and waiting again: {_named(names)}"
            case OutOfReach(reason, seconds):
                yield f"the bank is out of reach, and is tried again in {seconds:g} s: {reason}"
    yield f"stopped: {trained} trained, {failed} failed"


def _named(names: Iterable[tuple[str, str]]) -> str:
    return ", ".join("/".join(name) for name in names)


def _say(line: str) -> None:
    from vllm_mega.commands._printing import printable

    print(printable(line), flush=True)
    sys.stderr.flush()
