"""One real server, started as users start it, asked with the official client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.http.asking import serve_command
from tests.http.live_bank import BAKERY, COMET, LIGHTHOUSE, SUBMARINE, TORTOISE, LiveBank
from vllm_mega.demo.server import free_port, serving
from vllm_mega.gate.embedder import load_embedder

SLOTS = 3


@pytest.fixture(scope="package")
def bank(tmp_path_factory: pytest.TempPathFactory) -> LiveBank:
    bank = LiveBank(tmp_path_factory.mktemp("live") / "bank", load_embedder(None))
    bank.add([LIGHTHOUSE, BAKERY, COMET, TORTOISE, SUBMARINE])
    return bank


@pytest.fixture(scope="package")
def url(bank: LiveBank, tmp_path_factory: pytest.TempPathFactory, repo: Path) -> Iterator[str]:
    port = free_port()
    command = serve_command("OMP_NUM_THREADS=1")
    command += ["--bank", str(bank.root), "--port", str(port)]
    command += ["--top-k", "2", "--max-loras", str(SLOTS), "--max-model-len", "256", "--enforce-eager"]
    command += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    command += ["--enable-scale-out", "--config", str(repo / "serving_configs" / "cpu.yaml")]
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(command, port, log, 180, lambda _: None) as root:
        yield root


@pytest.fixture(scope="package")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client
