"""The demo from beginning to end; every step is something that a user can do the same way."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from vllm_mega.demo import material, tables
from vllm_mega.demo.asking import Asker
from vllm_mega.demo.checks import Result, judge
from vllm_mega.demo.material import Material
from vllm_mega.demo.server import free_port, serving
from vllm_mega.errors import MegaError

LEGEND = """\
base: the model without memory. direct: with the memories that the gate chose. irag: it first recalls the
memory, then answers. A right answer (+) contains what stands in brackets behind the question.
"""
START_SECONDS = 300.0


def play(output: Path, model: str | None = None) -> int:
    """Train, serve, ask, judge; 0 if all went as it should.

    Args:
        output: folder for all it writes; its bank is used again.
        model: base model; None: the bank's, or else the default.

    Raises:
        MegaError: a step could not be done at all.
    """
    console = Console(highlight=False)
    # kill(1) becomes an exception, so that the server is stopped then too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    output.mkdir(parents=True, exist_ok=True)
    examples = material.load()
    seconds: dict[str, float] = {}

    with _timed(seconds, "train"):
        _train(console, output / "bank", len(examples.memories), model)
    result = _serve_and_ask(console, output, examples, seconds)

    result.write(output / "demo.json")
    _sum_up(console, result)
    console.print(f"written: {output / 'demo.json'}")
    for complaint in result.complaints:
        console.print(f"[red]not good enough:[/red] {complaint}")
    return 1 if result.complaints else 0


def _train(console: Console, bank: Path, count: int, model: str | None) -> None:
    command = ["train", "--bank", str(bank), "--input", str(material.MEMORIES_FILE), "--limit", str(count)]
    command += ["--model", model] if model else []
    _show(console, command)
    code = subprocess.run(_ours(command), check=False).returncode
    if code:
        raise MegaError(f"the training ended with exit code {code}")


def _serve_and_ask(console: Console, output: Path, examples: Material, seconds: dict[str, float]) -> Result:
    port = free_port()
    log = output / "server.log"
    command = [
        "serve",
        "--bank",
        str(output / "bank"),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--max-model-len",
        "2048",
    ]
    _show(console, command)
    start = time.monotonic()
    with console.status("the server starts") as status:

        def note(passed: float) -> None:
            status.update(f"the server starts: {passed:.0f} s (log: {log})")

        with serving(_ours(command), port, log, START_SECONDS, note) as url:
            status.stop()
            seconds["start server"] = time.monotonic() - start
            console.print(
                f"the server answers at {url} after {seconds['start server']:.0f} s (log: {log})\n",
                soft_wrap=True,
            )
            asker = Asker(url)
            with _timed(seconds, "ask"):
                asked = asker.questions(examples.questions)
            console.print(LEGEND)
            console.print(tables.questions(asked))
            with _timed(seconds, "recall"):
                recalled = asker.recalls(examples)
            console.print(tables.recalls(recalled))
            with _timed(seconds, "null route"):
                unrelated = asker.unrelated(examples.unrelated)
            console.print(tables.unrelated(unrelated))
    return judge(asked, recalled, unrelated, seconds)


def _sum_up(console: Console, result: Result) -> None:
    n = result.asked
    console.print(f"\nquestions answered, either way:    {result.answered} of {n}")
    console.print(f"  of these in one sentence:        {result.answered_in_one_sentence} of {n}")
    console.print(f"  directly:                        {result.answered_direct} of {n}")
    console.print(f"  with irag (recall, then answer): {result.answered_irag} of {n}")
    console.print(f"  by the base model, as a control: {result.answered_base} of {n}")
    console.print(f"memories recalled word for word:   {result.recall_exact} of {result.memories}")
    console.print(f"unrelated prompts as base model:   {'yes' if result.null_route_identical else 'NO'}")
    console.print("seconds: " + ", ".join(f"{phase} {value:g}" for phase, value in result.seconds.items()))


def _ours(command: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "vllm_mega", *command]


def _show(console: Console, command: Sequence[str]) -> None:
    console.print(f"[bold]$ vllm-mega {shlex.join(command)}[/bold]", soft_wrap=True)


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[phase] = time.monotonic() - start
