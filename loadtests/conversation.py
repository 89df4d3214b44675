"""Tokens that a conversation computes: python -m loadtests.conversation --output out/conversation.json

Turns behind a system prompt, every one with another mixture. What vLLM computes of each prompt, and does not
find in its prefix cache, is counted three times: for the base model, for mixtures that start at the question,
and for the same mixtures from the first token on.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from loadtests.engine import adapters
from loadtests.machine import Machine, this_machine
from loadtests.program import Add, Program, add_dtype, at_least
from vllm_mega.demo.material import EXAMPLES
from vllm_mega.errors import MegaError
from vllm_mega.http.launch import this_environment
from vllm_mega.mixture import Mixture
from vllm_mega.models import resolve_model

BLOCK = 32
"""Tokens of a block: the least on CPUs; whole blocks are found again."""
NEW_TOKENS = 32
SYSTEM_CHARACTERS = 2000
KV_BYTES = 512 * 2**20


class Turn(msgspec.Struct, frozen=True):
    """One question of a conversation, and what was computed of its prompt."""

    way: str
    """base; question: mixtures from the question on; everywhere: mixtures from the first token on."""
    turn: int
    prompt_tokens: int
    start: int | None
    computed_tokens: int


class Result(msgspec.Struct, frozen=True):
    """What the output file says."""

    machine: Machine
    block: int
    turns: list[Turn]


@contextmanager
def mixtures(count: int) -> Iterator[list[Mixture]]:
    """So many mixtures of two random adapters each; neighbours have one of them in common."""
    with adapters(["default"], count + 1) as shapes:
        made = shapes["default"]
        yield [Mixture([(*made[n], 0.5), (*made[n + 1], 0.5)]) for n in range(count)]


def talk(
    llm: Any,
    system: str,
    questions: Sequence[str],
    used: Sequence[Mixture],
    way: str,
    said: list[str],
    *,
    new_tokens: int = NEW_TOKENS,
) -> list[Turn]:
    """Hold the conversation, from an empty prefix cache.

    Args:
        llm: `vllm.LLM` with the plugin.
        system: prompt.
        questions: of the turns.
        used: their mixtures.
        way: of `Turn`.
        said: what stands in the history as answers; those that are missing are appended as they are given.
        new_tokens: of an answer, at most.
    """
    from vllm import SamplingParams

    from vllm_mega.engine.adapters import to_lora_request
    from vllm_mega.offline_chat import Chat, answered
    from vllm_mega.requests.schemas import Start

    if not llm.reset_prefix_cache():
        raise MegaError("the prefix cache is in use: nothing may run while a conversation is counted")
    greedy = SamplingParams(temperature=0.0, max_tokens=new_tokens)
    messages = [{"role": "system", "content": system}]
    turns = []
    for n, (question, mixture) in enumerate(zip(questions, used, strict=True)):
        messages.append({"role": "user", "content": question})
        lora = None if way == "base" else to_lora_request(mixture)
        first = Start(token=0) if way == "everywhere" else None
        ((output, start),) = answered(llm, [Chat(messages, greedy, lora, first, None)], use_tqdm=False)
        tokens = len(output.prompt_token_ids)
        turns.append(Turn(way, n + 1, tokens, start, tokens - output.num_cached_tokens))
        if n == len(said):
            said.append(output.outputs[0].text)
        messages.append({"role": "assistant", "content": said[n]})
    return turns


def measure(args: argparse.Namespace, console: Console) -> Result:
    """The same conversation in every way; the base model's answers are the history of all."""
    os.environ.update({**this_environment(), "VLLM_PLUGINS": "vllm_mega", "VLLM_LOGGING_LEVEL": "ERROR"})
    from vllm import LLM

    machine = this_machine(args.dtype)
    lines = (EXAMPLES / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [str(msgspec.json.decode(line)["question"]) for line in lines[: args.turns]]
    system = (EXAMPLES / "plain_text.txt").read_text(encoding="utf-8")[:SYSTEM_CHARACTERS]
    llm = LLM(
        str(resolve_model()),
        dtype=args.dtype,
        enforce_eager=True,
        max_model_len=4096,
        block_size=BLOCK,
        kv_cache_memory_bytes=KV_BYTES,
        enable_prefix_caching=True,
        enable_lora=True,
        max_loras=4,
        additional_config={"mega": {"bank": "none"}},
    )
    said: list[str] = []
    turns: list[Turn] = []
    with mixtures(len(asked)) as used:
        for way in ("base", "question", "everywhere"):
            turns += talk(llm, system, asked, used, way, said)
            console.print(f"{way}: {sum(t.computed_tokens for t in turns if t.way == way)} tokens computed")
    llm.llm_engine.engine_core.shutdown()
    return Result(machine, BLOCK, turns)


def table(result: Result) -> Table:
    """Tokens computed in every turn, by way."""
    ways = list(dict.fromkeys(turn.way for turn in result.turns))
    shown = Table("turn", "prompt", "of it new", *ways, title="prompt tokens computed", title_justify="left")
    before = 0
    for n in dict.fromkeys(turn.turn for turn in result.turns):
        row = {turn.way: turn for turn in result.turns if turn.turn == n}
        prompt = row[ways[0]].prompt_tokens
        shown.add_row(
            str(n), str(prompt), str(prompt - before), *(str(row[way].computed_tokens) for way in ways)
        )
        before = prompt
    return shown


def options(add: Add) -> None:
    """What there is beside --output."""
    add("--turns", type=at_least(1), default=10, help="of the conversation (default: 10)")
    add_dtype(add, "of the engine (default: as `vllm-mega serve`)")


PROGRAM = Program(
    "conversation", measure, table,
    "Count the tokens that each turn of a conversation computes when its memory changes.",
    "A minute.",
    options,
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(PROGRAM.main())
