"""`vllm-mega query`: answer a file of prompts with the memories of a bank."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_mega.batch.lines import Job, Reply
    from vllm_mega.batch.output import BatchOutput
    from vllm_mega.commands._memory_options import Launch
    from vllm_mega.ray_cluster import RayCluster

HELP = "answer a file of prompts with the memories of a bank"
PASSTHROUGH = True

AT_ONCE = 256
CHUNK = 8
"""So many answers are written and synced together; a kill loses fewer than this beside those under way."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `vllm-mega query`; all others go to vLLM's engine."""
    from vllm_mega.commands._memory_options import add_memory_options

    parser.description = (
        'Answer every line of a JSONL file: {"id"?, "prompt"} or {"id"?, "messages"}, with "mega" where a '
        "line differs from the options, or lines of OpenAI's batch format. The output has one line each, in "
        "the same order; stopped at any moment, the next run goes on behind the last line. "
        "Every option that is not listed here is one of `vllm serve`."
    )
    parser.epilog = (
        "Example: vllm-mega query --bank bank --input prompts.jsonl --output answers.jsonl --mode irag"
    )
    parser.add_argument("--input", required=True, type=Path, help="prompts, JSONL")
    parser.add_argument("--output", required=True, type=Path, help="answers, JSONL; continued if it exists")
    parser.add_argument("--overwrite", action="store_true", help="begin again, if the output exists")
    parser.add_argument(
        "--format", choices=("lines", "openai-batch"), help="of the input (default: its look)"
    )
    parser.add_argument("--max-tokens", type=int, default=256, help="of an answer (default: 256)")
    parser.add_argument("--temperature", type=float, default=0.0, help="of sampling (default: 0, greedy)")
    parser.add_argument("--progress", action="store_true", help="show it although this is no terminal")
    parser.add_argument(
        "--workers", type=int, help="engines that answer, sharing the cores or GPUs (default: one, here)"
    )
    parser.add_argument(
        "--ray-address",
        help='a running Ray cluster, "auto" for the one here (default: one of our own, on loopback)',
    )
    add_memory_options(parser)


def run(args: argparse.Namespace) -> int:
    """Answer what is not answered yet; 1 if a line could not be answered."""
    from vllm_mega.batch.output import BatchOutput, finished
    from vllm_mega.commands._memory_options import plan_launch

    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")  # before vLLM is imported
    cluster = _cluster(args)  # before vLLM is imported, which imports Ray
    launch = plan_launch(args)
    jobs = _read(args, launch)
    done, size = (0, 0) if args.overwrite else finished(args.output, jobs)
    if done:
        print(f"{args.output} has {done} of {len(jobs)} answers")
    with BatchOutput(args.output, size) as output:
        if done == len(jobs):
            return 0
        report = _Report(len(jobs), done, args.progress or sys.stderr.isatty())
        if cluster is None:
            os.environ.update(launch.environment)
            os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
            asyncio.run(_answer(launch, args.rest, jobs[done:], output, report))
        else:
            _answer_on(cluster, launch, args.rest, jobs[done:], output, report)
    print(f"{report} -> {args.output}")
    return 1 if report.failed else 0


def _cluster(args: argparse.Namespace) -> RayCluster | None:
    from vllm_mega.errors import ConfigError
    from vllm_mega.ray_cluster import RayCluster

    if args.workers is None:
        if args.ray_address is not None:
            raise ConfigError("--ray-address needs --workers: how many of the cluster")
        return None
    return RayCluster(args.workers, args.ray_address)


def _read(args: argparse.Namespace, launch: Launch) -> list[Job]:
    from vllm_mega.batch.lines import read_jobs
    from vllm_mega.errors import ConfigError
    from vllm_mega.text_file import read_text

    text = read_text(args.input)
    if args.output.exists() and args.output.samefile(args.input):
        raise ConfigError("--output is the input")
    defaults: dict[str, Any] = {
        "model": f"{launch.name}-mega",
        "max_completion_tokens": args.max_tokens,
        "temperature": args.temperature,
    }
    return read_jobs(text, defaults, launch.settings, args.format)


async def _answer(
    launch: Launch, rest: Sequence[str], jobs: Sequence[Job], output: BatchOutput, report: _Report
) -> None:
    from vllm_mega.batch.engine import batch_engine
    from vllm_mega.batch.output import answer_in_order
    from vllm_mega.http.launch import command_line

    def done(some: Sequence[Job], replies: Sequence[Reply]) -> None:
        output.add(some, replies)
        report.add(replies)

    argv = command_line(launch.options, rest)
    async with batch_engine(launch.model, argv, launch.settings) as engine:
        report.begin()
        await answer_in_order(jobs, engine.answer, done, at_once=AT_ONCE, chunk=CHUNK)


def _answer_on(
    cluster: RayCluster,
    launch: Launch,
    rest: Sequence[str],
    jobs: Sequence[Job],
    output: BatchOutput,
    report: _Report,
) -> None:
    from vllm_mega.batch.scale_out import answered
    from vllm_mega.batch.worker_engine import EngineStart
    from vllm_mega.http.launch import command_line, processes, runs_on_cpu

    argv = command_line(launch.options, rest)
    start = EngineStart(launch.model, argv, launch.settings, launch.given)
    gpus = 0 if runs_on_cpu() else processes(launch.given)
    report.begin()
    with cluster.connected(), closing(answered(cluster, start, jobs, gpus)) as lots:
        cluster.require_reach(launch.settings.catalog)
        waiting = iter(jobs)
        for replies in lots:
            some = list(islice(waiting, len(replies)))
            output.add(some, replies)
            report.add(replies)


class _Report:
    """Counts answers and tokens, and shows them as they come."""

    def __init__(self, total: int, done: int, shown: bool) -> None:
        from tqdm import tqdm

        self.answered = self.failed = self.tokens = 0
        self._start = 0.0
        self._bar = tqdm(total=total, initial=done, unit=" prompts", disable=not shown, file=sys.stderr)

    def begin(self) -> None:
        """The engine is ready: from now on time counts."""
        self._start = time.monotonic()
        self._bar.unpause()

    def add(self, replies: Sequence[Reply]) -> None:
        """These are answered."""
        self.answered += sum(reply.ok for reply in replies)
        self.failed += sum(not reply.ok for reply in replies)
        self.tokens += sum(reply.tokens for reply in replies)
        self._bar.set_postfix_str(f"{self._speed():.0f} tokens/s")
        self._bar.update(len(replies))

    def _speed(self) -> float:
        return self.tokens / max(time.monotonic() - self._start, 1e-9)

    def __str__(self) -> str:
        self._bar.close()
        seconds = time.monotonic() - self._start
        failed = f", {self.failed} not answered (see `error` in their lines)" if self.failed else ""
        return (
            f"answered {self.answered} prompts{failed}: {self.tokens} tokens in {seconds:.1f} s "
            f"({self._speed():.0f} tokens/s)"
        )
