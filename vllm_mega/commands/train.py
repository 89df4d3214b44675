"""`vllm-mega train`: texts go in, adapters come out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_mega.training.run.crew import Crew
    from vllm_mega.training.run.outcome import TrainReport
    from vllm_mega.training.run.outlook import Outlook

HELP = "train an adapter for every memory of a file, or that waits in a bank"

EPILOG = """\
examples:
  vllm-mega train --bank bank --input memories.jsonl
  vllm-mega train --bank bank --watch

A line of the input: {"text": "..."}; optional: "id", "title", "namespace", "tags", "paraphrases" (texts) and
"qa" ([{"question", "answer"}]). A title helps: it names what the text is about. All memories are stored
first, and have their adapters as soon as all that are trained side by side (--jobs) are done; the bank can be
used and changed meanwhile, and a run that was stopped goes on with the memories that are missing. Memories
that cannot be trained are told, all of them, before any is stored."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command; those left out have the defaults of `TrainSettings`."""
    from vllm_mega.commands._memory_options import add_bank_options
    from vllm_mega.commands._training import add_training_options
    from vllm_mega.commands._watching import add_watch_options

    parser.description = "Train one adapter for every memory of a file, or for those that wait in a bank."
    parser.epilog = EPILOG
    add_bank_options(parser, "folder of the bank; made if there is none")
    parser.add_argument(
        "--input", type=Path, help="memories, JSONL (default: those that wait in the bank for a trainer)"
    )
    parser.add_argument("--limit", type=int, help="only the first LIMIT memories of the input")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="train nothing, write nothing: ask all that can refuse, and print what training will cost here "
        "(seconds, memory, bytes of the bank)",
    )
    add_watch_options(parser)
    add_training_options(parser)


def run(args: argparse.Namespace) -> int:
    """Train what is missing; tell about each memory and about all. 1 if the training of one failed."""
    from vllm_mega.commands._training import crew_of, settings_of, tell
    from vllm_mega.commands._watching import watch
    from vllm_mega.errors import ConfigError

    settings = settings_of(args)
    if args.watch:
        return watch(args, settings)
    crew = crew_of(args)
    if args.poll is not None:
        raise ConfigError("--poll needs --watch")
    if args.limit is not None and args.limit < 1:
        raise ConfigError(f"--limit must be at least 1, got {args.limit}")
    if args.input is None and (args.dry_run or args.limit or args.embedder):
        raise ConfigError("--dry-run, --limit and --embedder need --input: what waits has its keys already")
    if args.dry_run:
        return _dry_run(args, settings)
    return tell(_train(args, settings, crew), args.bank)


def _dry_run(args: argparse.Namespace, settings: Any) -> int:
    from vllm_mega.memories.lines import read_memories
    from vllm_mega.training.run.outlook import outlook

    memories = read_memories(args.input)[: args.limit]
    seen = outlook(
        args.bank,
        memories,
        args.model,
        args.embedder,
        settings,
        catalog=args.catalog,
        trust_remote_code=args.trust_remote_code,
    )
    print(_forecast(seen, args.workers or 1))
    return 0


def _train(args: argparse.Namespace, settings: Any, crew: Crew) -> TrainReport:
    from vllm_mega.commands._training import progress_bar
    from vllm_mega.memories.lines import read_memories
    from vllm_mega.training.run.session import train, train_waiting

    memories = None if args.input is None else read_memories(args.input)[: args.limit]
    how: dict[str, Any] = {"catalog": args.catalog, "trust_remote_code": args.trust_remote_code}
    with progress_bar(args) as progress:
        if memories is None:
            return train_waiting(args.bank, args.model, settings, progress, crew, **how)
        return train(args.bank, memories, args.model, args.embedder, settings, progress, crew, **how)


def _forecast(seen: Outlook, workers: int) -> str:
    """What a dry run prints, for `workers` processes that train at once."""
    if not seen.missing:
        return f"nothing to train, {seen.there} were there already"
    fits = seen.memory * workers <= seen.free
    each = f" by each of {workers} workers" if workers > 1 else ""
    lines = [
        f"memories: {seen.missing} to train ({', '.join(f'{n} {why}' for why, n in seen.why.items())}), "
        f"{seen.there} there already",
        f"bytes: {seen.bytes_each / 1024:,.0f} KiB a memory, {seen.bytes_each * seen.missing / 1e6:,.1f} MB "
        "more in the bank",
        f"memory: about {seen.memory / 2**30:.1f} GiB{each} with {seen.jobs} side by side, "
        f"{seen.free / 2**30:.1f} GiB are free{'' if fits else _remedy(seen, workers)}",
        f"time: about {_duration(seen.seconds_each)} a memory, {_duration(seen.seconds_each * seen.missing)} "
        f"in all ({seen.gflops:,.0f} GFLOP/s in {seen.dtype} on this {seen.device}, of which training "
        f"reaches about {seen.efficiency:.0%})",
    ]
    return "\n".join(lines)


def _remedy(seen: Outlook, workers: int) -> str:
    if workers > 1:
        return ": too little, choose fewer --workers"
    if seen.most_jobs:
        return f": too little, choose --jobs {seen.most_jobs}"
    return ": too little even for --jobs 1, choose fewer --layers, a smaller --model or another machine"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
