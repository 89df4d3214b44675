"""Two engines behind two API servers, sharing one bank."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

from tests.serving.asking import ask, serve_command, text, used
from tests.serving.live_bank import ASKED, BAKERY, COMET, LIGHTHOUSE, UNRELATED, LiveBank
from vllm_mega.demo.server import free_port, serving
from vllm_mega.gate.embedder import load_embedder

pytestmark = [pytest.mark.engine, pytest.mark.slow]
QUESTIONS = [ASKED["lighthouse"], ASKED["bakery"], ASKED["comet"], UNRELATED]


@contextmanager
def _served(bank: LiveBank, log: Path, *options: str) -> Iterator[str]:
    port = free_port()
    command = serve_command("VLLM_CPU_KVCACHE_SPACE=1")
    command += ["--bank", str(bank.root), "--port", str(port)]
    command += [
        "--dtype",
        "float32",
        "--max-loras",
        "4",
        "--max-model-len",
        "256",
        "--enforce-eager",
        *options,
    ]
    with serving(command, port, log, 300, lambda _: None) as root:
        yield f"{root}/v1"


def _answers(url: str, repeats: int) -> set[tuple[str, tuple[str, ...], str]]:
    """(question, memories used, answer), every question over a connection of its own."""
    found = set()
    for question in QUESTIONS * repeats:
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120) as client:
            answer = ask(client, question)
            found.add((question, tuple(used(answer)), text(answer)))
    return found


def test_data_parallel_engines_and_api_servers_answer_like_one(tmp_path: Path):
    bank = LiveBank(tmp_path / "bank", load_embedder(None))
    bank.add([LIGHTHOUSE, BAKERY, COMET])
    with _served(bank, tmp_path / "one.log") as url:
        want = _answers(url, 1)
    assert {memories for _, memories, _ in want} == {("lighthouse",), ("bakery",), ("comet",), ()}
    options = ["--data-parallel-size", "2", "--api-server-count", "2"]
    with _served(bank, tmp_path / "two.log", *options) as url:
        assert _answers(url, 6) == want
        bank.forget(COMET)
        time.sleep(2)
        forgotten = _answers(url, 6)
        assert all("comet" not in memories for _, memories, _ in forgotten)
        assert {one for one in want if one[0] != ASKED["comet"]} <= forgotten
