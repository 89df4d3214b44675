"""`vllm-mega eval`: are the right memories used, and are the answers right?"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_mega.evaluation.data import Item
    from vllm_mega.evaluation.tasks import Reply
    from vllm_mega.prompts import Message

HELP = "measure a bank: recall, questions, gate, null route, beside RAG and the base model"

EPILOG = """\
Lines of --data: {"id", "text", "title"?, "paraphrases"?, "qa"?: [{"question", "answer", "aliases"?}]}; of
--questions: {"memory_id", "question", "answer", "aliases"?}; of --unrelated: {"prompt"}. Questions are never
trained on. An answer is right when it contains the gold answer and is at most one sentence; the rate without
the second condition stands beside it. Memories that the bank does not have yet are trained first; a run that
was stopped goes on with those that are missing. Writes report.json, report.md and answers.jsonl.

example:
  vllm-mega eval --data memories.jsonl --unrelated unrelated.jsonl --output report"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `vllm-mega eval`."""
    parser.description = "Train what is missing, ask every question in every way, and report what is right."
    parser.epilog = EPILOG
    parser.add_argument("--data", required=True, type=Path, help="memories and their questions, JSONL")
    parser.add_argument("--output", required=True, type=Path, help="folder of the report")
    parser.add_argument("--questions", type=Path, help="more questions about the memories, JSONL")
    parser.add_argument("--unrelated", type=Path, help="prompts that no memory is about, JSONL")
    parser.add_argument("--bank", type=Path, help="bank to reuse or make (default: OUTPUT/bank)")
    parser.add_argument("--model", help="base model: name, path or Hugging Face id (default: the bank's)")
    parser.add_argument("--embedder", help="embedder of gate and RAG (default: the bank's)")
    parser.add_argument("--limit", type=int, help="only the first LIMIT memories")


def run(args: argparse.Namespace) -> int:
    """Train, ask, count, write."""
    from rich.console import Console
    from rich.markdown import Markdown

    from vllm_mega.errors import ConfigError
    from vllm_mega.evaluation import data, report

    if args.limit is not None and args.limit < 1:
        raise ConfigError(f"--limit must be at least 1, got {args.limit}")
    items = data.read_items(args.data, args.limit)
    if args.questions:
        items = data.add_questions(items, args.questions)
    if not any(item.qa for item in items):
        raise ConfigError(f"{args.data} has no questions: give them there as qa, or with --questions")
    unrelated = data.read_prompts(args.unrelated) if args.unrelated else []
    bank = args.bank or args.output / "bank"
    _train(bank, items, args)
    found, questions = _evaluate(bank, items, unrelated, args)
    report.write(found, questions, args.output)
    Console().print(Markdown(found.markdown()))
    print(f"written: {args.output / 'report.json'}")
    return 0


def _train(bank: Path, items: Sequence[Item], args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from vllm_mega.training.session import Trained, train

    with tqdm(unit=" memories", desc="training", file=sys.stderr) as bar:

        def progress(done: int, total: int, _last: Trained | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        train(bank, [item.memory for item in items], args.model, args.embedder, progress=progress)


def _evaluate(
    bank: Path, items: Sequence[Item], unrelated: Sequence[str], args: argparse.Namespace
) -> tuple[Any, list[dict[str, Any]]]:
    from vllm_mega.bank.reader import BankReader
    from vllm_mega.config import GateSettings
    from vllm_mega.evaluation import tasks
    from vllm_mega.evaluation.report import Cost, Report
    from vllm_mega.gate.embedder import load_embedder
    from vllm_mega.gate.gate import Gate
    from vllm_mega.models import resolve_model

    snapshot = BankReader(bank).snapshot()
    manifest = snapshot.manifest
    embedder = load_embedder(args.embedder or manifest.embedder.name)
    gate, settings = Gate(BankReader(bank, embedder=embedder.info), embedder), GateSettings()
    _tell("asking the gate")
    asked = tasks.gate_questions(items, gate, settings)
    answerable = [one for one in asked if one.gold]
    model = _Engine(bank, args.model)
    ways = tasks.answer_questions(answerable, snapshot, model, _tell)
    _tell("recalling")
    recall = tasks.recall_memories(asked, model, embedder)
    _tell("unrelated prompts")
    null = tasks.null_route(unrelated, gate, settings, model) if unrelated else None
    wanted = {item.id for item in items}
    entries = [entry for entry in manifest.memories if entry.id in wanted]
    base = sum(file.stat().st_size for file in resolve_model(manifest.base.name).glob("*.safetensors"))
    size = sum(entry.adapter_bytes for entry in entries) / len(entries)
    seconds = sum(float(entry.training["seconds"]) for entry in entries) / len(entries)
    found = Report(
        model=manifest.base.name,
        embedder=embedder.info.name,
        n_memories=len(items),
        ways=ways,
        gate=tasks.gate_figures(answerable),
        recall=recall,
        null_route=null,
        cost=Cost(round(seconds, 2), size, size / base),
    )
    return found, [
        {
            "memory": one.item.id,
            "question": one.question,
            "answer": one.gold[0],
            "rank": one.rank,
            "best_score": one.decision.best_score,
        }
        for one in answerable
    ]


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


class _Engine:
    """The model behind the tasks: vLLM in this process, as `MegaLLM` runs it."""

    def __init__(self, bank: Path, model: str | None) -> None:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        _tell("starting the engine")
        from vllm_mega.offline import MegaLLM

        # A cached beginning is added up in another order: in bfloat16 that could change a token.
        self._llm = MegaLLM(bank, model, max_model_len=2048, enable_prefix_caching=False)

    def ask(
        self, conversations: Sequence[list[Message]], mega: Sequence[Mapping[str, Any]], max_tokens: int
    ) -> list[Reply]:
        """See `tasks.Model`."""
        from vllm_mega.evaluation.tasks import Reply
        from vllm_mega.offline import DEFAULT_SAMPLING

        greedy = DEFAULT_SAMPLING.clone()
        greedy.max_tokens = max_tokens
        answers = self._llm.chat(conversations, greedy, mega=list(mega), use_tqdm=True)
        return [Reply(a.text.strip(), tuple(a.output.outputs[0].token_ids)) for a in answers]
