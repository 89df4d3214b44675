"""What commands that train share: their options, and telling what comes of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_mega.commands._memory_options import add_trust_option
from vllm_mega.commands._settings import TakesOptions, add_setting

if TYPE_CHECKING:
    from vllm_mega.training.run.crew import Crew
    from vllm_mega.training.run.outcome import Trained, TrainReport
    from vllm_mega.training.run.session import Progress

_READ_OTHERWISE = ("modules", "chat_template")
"""Settings whose option is no plain value."""


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """Base model and embedder, workers, settings; those left out have the defaults of `TrainSettings`."""
    parser.add_argument("--model", help="base model: name, path or Hugging Face id (default: the bank's)")
    parser.add_argument("--embedder", help="embedder that makes the keys (default: the bank's)")
    add_trust_option(parser)
    parser.add_argument(
        "--chat-template",
        metavar="plain|FILE",
        help="Jinja template in place of the model's own, or where it has none; plain: 'User: ...', "
        "'Assistant: ...'. The bank keeps it and is served with it (default: the bank's, or the model's own)",
    )
    parser.add_argument(
        "--progress", action="store_true", help="a progress bar, even if stderr is no terminal"
    )
    group = parser.add_argument_group("scale-out (needs Ray: pip install 'vllm-mega[ray]')")
    group.add_argument(
        "--workers", type=int, help="processes that train, sharing the cores (default: this one)"
    )
    group.add_argument(
        "--ray-address",
        help='a running Ray cluster, "auto" for the one here (default: one of our own, on loopback)',
    )
    _add_settings(parser.add_argument_group("settings"))


def _add_settings(group: TakesOptions) -> None:
    from vllm_mega.training.recipe.settings import TrainSettings

    told = {
        "alpha": "the rank",
        "modules": "mlp",
        "layers": "the upper third, at least ten",
        "seconds": "what its steps take",
    }
    for name in TrainSettings.__struct_fields__:
        if name != "chat_template":
            add_setting(group, TrainSettings, name, told=told.get(name))


@contextmanager
def progress_bar(args: argparse.Namespace) -> Iterator[Progress]:
    """What to tell `training.session.train` to call: a bar, and a line for every memory."""
    from tqdm import tqdm

    with tqdm(unit=" memories", disable=not (args.progress or sys.stderr.isatty())) as bar:

        def progress(done: int, total: int, last: Trained | None) -> None:
            bar.total = total
            bar.update(done - bar.n)
            if last:
                with bar.external_write_mode():
                    print(trained_line(last), flush=True)

        yield progress


def tell(report: TrainReport, bank: Path) -> int:
    """Tell what a run has done; 1 if the training of a memory failed."""
    for line in report.failed:
        print(f"NOT trained: {line}", file=sys.stderr)
    print(_summary(report, bank))
    return 1 if report.failed else 0


def crew_of(args: argparse.Namespace) -> Crew:
    """Who trains: this process, or workers.

    Raises:
        ConfigError: a cluster without a number of workers.
    """
    from vllm_mega.errors import ConfigError
    from vllm_mega.training.run.crew import here
    from vllm_mega.training.run.ray_workers import RayWorkers
    from vllm_mega.training.run.scale_out import RayCrew

    if args.workers is None:
        if args.ray_address is not None:
            raise ConfigError("--ray-address needs --workers: how many of the cluster")
        return here
    return RayCrew(RayWorkers(args.workers, args.ray_address))


def settings_of(args: argparse.Namespace) -> Any:
    """The settings that the arguments ask for.

    Raises:
        ConfigError: a value that cannot be right.
    """
    from vllm_mega.config import settings_from
    from vllm_mega.models.chat_template import read_template
    from vllm_mega.training.recipe.settings import TrainSettings

    plain = [name for name in TrainSettings.__struct_fields__ if name not in _READ_OTHERWISE]
    given = {name: getattr(args, name) for name in plain if getattr(args, name) is not None}
    if args.modules is not None:
        given["modules"] = [name.strip() for name in args.modules.split(",")]
    if args.chat_template is not None:
        given["chat_template"] = read_template(args.chat_template)
    return settings_from(given, TrainSettings)


def trained_line(trained: Trained) -> str:
    """What is told of a memory that has its adapter."""
    recital = "recalled" if trained.recalled else "NOT recalled word for word"
    why = "" if trained.ending == "learnt" else f" ({trained.ending}, loss {trained.loss:.3f})"
    again = "" if trained.why == "new" else f"; trained again: {trained.why}"
    cost = f"{trained.steps} steps{why}, {trained.seconds:.1f} s"
    return f"{trained.namespace}/{trained.id}: {recital} after {cost}{again}"


def _summary(report: TrainReport, bank: Path) -> str:
    n = len(report.trained)
    there = f", {report.skipped} were there already" if report.skipped else ""
    if not n:
        return f"{bank}: nothing to train{there}"
    recalled = sum(trained.recalled for trained in report.trained)
    size = sum(trained.bytes for trained in report.trained) / n / 1024
    return (
        f"{bank}: trained {n} memories in {report.seconds:.0f} s{there}; "
        f"{recalled} recalled word for word, {size:.0f} KiB each"
    )
