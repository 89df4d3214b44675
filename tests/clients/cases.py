"""Clients as their users call them, and what comes of it.

Each case is a function of a program beside this file, run in a process of its own, in an environment that has
the client. The program finds URL (of the API), MODEL, QUESTION and TOKENIZER (a folder) in its environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx

BEGIN, END = "<!-- clients: begin -->", "<!-- clients: end -->"
NAMES = {"openai": "openai", "curl": "curl", "langchain": "LangChain", "lm_eval": "lm-eval"}
CHAT, COMPLETIONS = "chat/completions", "completions"


@dataclass(frozen=True)
class Case:
    """One use of one client."""

    client: Literal["openai", "curl", "langchain", "lm_eval"]
    use: str
    """Function of the client's program."""
    what: str
    endpoint: str
    expected: Literal["exact", "works", "refused"]
    note: str = ""


CASES: Sequence[Case] = (
    Case(
        "openai", "chat", "`chat.completions.create`", CHAT, "exact",
        "`extra_body={'mega': ...}` of the request, `answer.mega` of the response",
    ),
    Case("openai", "streamed", "the same, `stream=True`", CHAT, "exact", "`mega` stands in the last chunk"),
    Case("openai", "completion", "`completions.create`", COMPLETIONS, "exact"),
    Case("openai", "prompts", "the same, several prompts", COMPLETIONS, "exact", "`mega` is a list, too"),
    Case("openai", "responses", "`responses.create`", CHAT, "refused", "serves the base model's name only"),
    Case("curl", "chat", "`/v1/chat/completions`", CHAT, "exact"),
    Case("curl", "completion", "`/v1/completions`", COMPLETIONS, "exact"),
    Case(
        "langchain", "invoke", "`ChatOpenAI.invoke`", CHAT, "works",
        "sends `extra_body={'mega': ...}`; drops `mega` of the response",
    ),
    Case("langchain", "stream", "`ChatOpenAI.stream`", CHAT, "works"),
    Case("langchain", "batch", "`OpenAI.batch`", COMPLETIONS, "works", "sends a list of prompts"),
    Case("lm_eval", "chat", "`local-chat-completions`, generation", CHAT, "works"),
    Case(
        "lm_eval", "completion", "`local-completions`, generation", COMPLETIONS, "works",
        "sends lists of token ids",
    ),
    Case(
        "lm_eval", "likelihood", "`local-completions`, log-likelihoods", COMPLETIONS, "works",
        "of what follows with the memories of the prompt and its continuation",
    ),
)  # fmt: skip


def outcome(
    case: Case, url: str, model: str, question: str, tokenizer: Path, python: str = sys.executable
) -> str:
    """What happens: `exact`, `works`, `refused`, or what is wrong.

    Args:
        case: of `CASES`.
        url: of the server.
        model: name with memory.
        question: that a memory answers.
        tokenizer: folder of the base model.
        python: of an environment that has the client.
    """
    given = {"URL": f"{url}/v1", "MODEL": model, "QUESTION": question, "TOKENIZER": str(tokenizer)}
    program = Path(__file__).with_name(f"{case.client}_uses.py")
    run = subprocess.run(
        [python, program, case.use],
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    if run.returncode:
        return "refused" if "Error code: 400" in run.stderr else f"wrong: {run.stderr[-2000:]}"
    said = json.loads(run.stdout.splitlines()[-1])
    bare = bare_answer(case.endpoint, url, model, question)
    if said["text"].strip() != bare["text"].strip() or said["memories"] not in (None, bare["memories"]):
        return f"wrong: {said} is not {bare}"
    return "works" if said["memories"] is None else "exact"


def bare_answer(endpoint: str, url: str, model: str, question: str) -> dict[str, Any]:
    """What a bare request hears: text, and ids of memories."""
    asked = (
        {"messages": [{"role": "user", "content": question}]} if endpoint == CHAT else {"prompt": question}
    )
    body = {"model": model, "temperature": 0, "max_tokens": 8, **asked}
    answer = httpx.post(f"{url}/v1/{endpoint}", json=body, timeout=120).json()
    choice = answer["choices"][0]
    text = choice["message"]["content"] if endpoint == CHAT else choice["text"]
    return {"text": text, "memories": [memory["id"] for memory in answer["mega"]["memories"]]}


def with_table(text: str) -> str:
    """The text of docs/clients.md, with the table as it is now."""
    before, _, rest = text.partition(BEGIN)
    lines = ["| client | use | | remarks |", "|---|---|---|---|"]
    lines += [f"| {NAMES[case.client]} | {case.what} | {case.expected} | {case.note} |" for case in CASES]
    return "\n".join([f"{before}{BEGIN}", *lines, f"{END}{rest.partition(END)[2]}"])
