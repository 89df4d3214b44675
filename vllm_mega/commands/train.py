"""`vllm-mega train`: texts go in, adapters come out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_mega.training.crew import Crew
    from vllm_mega.training.outcome import Trained, TrainReport
    from vllm_mega.training.outlook import Outlook

HELP = "train an adapter for every memory of a file, or that waits in a bank"

EPILOG = """\
example:
  vllm-mega train --bank bank --input memories.jsonl

A line of the input: {"text": "..."}; optional: "id", "title", "namespace", "tags", "paraphrases" (texts) and
"qa" ([{"question", "answer"}]). A title helps: it names what the text is about. All memories are stored
first, and have their adapters as soon as all that are trained side by side (--jobs) are done; the bank can be
used and changed meanwhile, and a run that was stopped goes on with the memories that are missing. Memories
that cannot be trained are told, all of them, before any is stored."""

_SETTINGS = (
    "rank",
    "alpha",
    "layers",
    "learning_rate",
    "max_steps",
    "seconds",
    "batch",
    "jobs",
    "seed",
    "dtype",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command; those left out have the defaults of `TrainSettings`."""
    from vllm_mega.commands._memory_options import add_bank_options, add_trust_option

    parser.description = "Train one adapter for every memory of a file, or for those that wait in a bank."
    parser.epilog = EPILOG
    add_bank_options(parser, "folder of the bank; made if there is none")
    parser.add_argument(
        "--input", type=Path, help="memories, JSONL (default: those that wait in the bank for a trainer)"
    )
    parser.add_argument("--model", help="base model: name, path or Hugging Face id (default: the bank's)")
    parser.add_argument("--embedder", help="embedder that makes the keys (default: the bank's)")
    add_trust_option(parser)
    parser.add_argument(
        "--chat-template",
        metavar="plain|FILE",
        help="Jinja template in place of the model's own, or where it has none; plain: 'User: ...', "
        "'Assistant: ...'. The bank keeps it and is served with it (default: the bank's, or the model's own)",
    )
    parser.add_argument("--limit", type=int, help="only the first LIMIT memories of the input")
    parser.add_argument(
        "--progress", action="store_true", help="a progress bar, even if stderr is no terminal"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="train nothing, write nothing: ask all that can refuse, and print what training will cost here "
        "(seconds, memory, bytes of the bank)",
    )
    group = parser.add_argument_group("scale-out (needs Ray: pip install 'vllm-mega[ray]')")
    group.add_argument(
        "--workers", type=int, help="processes that train, sharing the cores (default: this one)"
    )
    group.add_argument(
        "--ray-address",
        help='a running Ray cluster, "auto" for the one here (default: one of our own, on loopback)',
    )
    group = parser.add_argument_group("settings (docs/memories.md has the defaults)")
    group.add_argument("--rank", type=int, help="rank of the adapters")
    group.add_argument(
        "--alpha", type=float, help="the adapter is scaled by alpha / rank (default: the rank)"
    )
    group.add_argument(
        "--modules", help="with an adapter: mlp (the default), attention, all, or names of layers"
    )
    group.add_argument("--layers", type=int, help="how many have adapters, from the top (default: a third)")
    group.add_argument(
        "--learning-rate", type=float, help="how far a step goes, as a part of what the layers compute"
    )
    group.add_argument(
        "--max-steps", type=int, help="most steps for one memory; it ends before when it is learnt, or stuck"
    )
    group.add_argument(
        "--seconds",
        type=float,
        help="most seconds for one memory, as its share (default: what its steps take)",
    )
    group.add_argument("--batch", type=int, help="examples a step")
    group.add_argument("--jobs", type=int, help="memories that are trained side by side")
    group.add_argument("--seed", type=int, help="the same seed gives the same adapters")
    group.add_argument("--dtype", choices=("bfloat16", "float32"), help="of the exported tensors")


def run(args: argparse.Namespace) -> int:
    """Train what is missing; tell about each memory and about all. 1 if the training of one failed."""
    from vllm_mega.errors import ConfigError

    crew, settings = _crew(args), _settings(args)
    if args.limit is not None and args.limit < 1:
        raise ConfigError(f"--limit must be at least 1, got {args.limit}")
    if args.input is None and (args.dry_run or args.limit or args.embedder):
        raise ConfigError("--dry-run, --limit and --embedder need --input: what waits has its keys already")
    if args.dry_run:
        return _dry_run(args, settings)
    report = _train(args, settings, crew)
    for line in report.failed:
        print(f"NOT trained: {line}", file=sys.stderr)
    print(_summary(report, args.bank))
    return 1 if report.failed else 0


def _dry_run(args: argparse.Namespace, settings: Any) -> int:
    from vllm_mega.training.memories import read_memories
    from vllm_mega.training.outlook import outlook

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
    from tqdm import tqdm

    from vllm_mega.training.memories import read_memories
    from vllm_mega.training.session import train, train_waiting

    memories = None if args.input is None else read_memories(args.input)[: args.limit]
    how: dict[str, Any] = {"catalog": args.catalog, "trust_remote_code": args.trust_remote_code}
    with tqdm(unit=" memories", disable=not (args.progress or sys.stderr.isatty())) as bar:

        def progress(done: int, total: int, last: Trained | None) -> None:
            bar.total = total
            bar.update(done - bar.n)
            if last:
                with bar.external_write_mode():
                    print(_line(last), flush=True)

        if memories is None:
            return train_waiting(args.bank, args.model, settings, progress, crew, **how)
        return train(args.bank, memories, args.model, args.embedder, settings, progress, crew, **how)


def _crew(args: argparse.Namespace) -> Crew:
    from vllm_mega.errors import ConfigError
    from vllm_mega.training.crew import here
    from vllm_mega.training.ray_cluster import RayCluster
    from vllm_mega.training.scale_out import RayCrew

    if args.workers is None:
        if args.ray_address is not None:
            raise ConfigError("--ray-address needs --workers: how many of the cluster")
        return here
    return RayCrew(RayCluster(args.workers, args.ray_address))


def _settings(args: argparse.Namespace) -> Any:
    from vllm_mega.config import settings_from
    from vllm_mega.models.chat_template import read_template
    from vllm_mega.training.settings import TrainSettings

    given = {name: getattr(args, name) for name in _SETTINGS if getattr(args, name) is not None}
    if args.modules is not None:
        given["modules"] = [name.strip() for name in args.modules.split(",")]
    if args.chat_template is not None:
        given["chat_template"] = read_template(args.chat_template)
    return settings_from(given, TrainSettings)


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


def _line(one: Trained) -> str:
    result = "recalled" if one.recalled else "NOT recalled word for word"
    why = "" if one.ending == "learnt" else f" ({one.ending}, loss {one.loss:.3f})"
    again = "" if one.why == "new" else f"; trained again: {one.why}"
    return f"{one.namespace}/{one.id}: {result} after {one.steps} steps{why}, {one.seconds:.1f} s{again}"


def _summary(report: TrainReport, bank: Path) -> str:
    n = len(report.trained)
    there = f", {report.skipped} were there already" if report.skipped else ""
    if not n:
        return f"{bank}: nothing to train{there}"
    recalled = sum(one.recalled for one in report.trained)
    size = sum(one.bytes for one in report.trained) / n / 1024
    return (
        f"{bank}: trained {n} memories in {report.seconds:.0f} s{there}; "
        f"{recalled} recalled word for word, {size:.0f} KiB each"
    )
