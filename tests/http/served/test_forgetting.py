"""A memory is forgotten on a real server: its engine lets go of it, and the receipt says so."""

from __future__ import annotations

import re
import time
from pathlib import Path

import httpx
import openai
import pytest

from tests.http.asking import ask, text, used
from tests.http.live_bank import ASKED, CLOCK, LiveBank
from vllm_mega.bank.catalog.catalog import open_catalog
from vllm_mega.commands._bank_forgetting import contradictions
from vllm_mega.memories.receipts.signing import read_receipt

pytestmark = pytest.mark.engine


def in_host_memory(url: str) -> int:
    said = httpx.get(f"{url}/mega/metrics", timeout=60).text
    (count,) = re.findall(r"^mega_host_adapters\{.*\} (\S+)$", said, re.MULTILINE)
    return int(float(count))


def test_a_receipt_says_what_the_engine_has_let_go_of(
    client: openai.OpenAI, bank: LiveBank, url: str, tmp_path: Path
) -> None:
    before = ask(client, ASKED["clock"])
    bank.add([CLOCK])
    assert used(ask(client, ASKED["clock"]))[0] == "clock"
    there = in_host_memory(url)
    answer = httpx.delete(f"{url}/v1/mega/memories/clock", params={"receipt": "true"}, timeout=60)
    assert answer.status_code == 200, answer.text
    server = read_receipt(answer.content).statement.server
    assert server is not None
    assert (server.engines, server.slots, server.ended, server.running) == (1, 1, 0, 0)
    assert server.adapters >= 1
    assert in_host_memory(url) == there - 1
    saved = tmp_path / "receipt.json"
    saved.write_bytes(answer.content)
    with open_catalog(bank.root) as catalog:
        assert contradictions(catalog, saved) == []
    after = ask(client, ASKED["clock"])
    assert (text(after), after.mega) == (text(before), before.mega)


def test_a_quiet_server_lets_go_of_what_another_process_has_forgotten(
    client: openai.OpenAI, bank: LiveBank, url: str
) -> None:
    bank.add([CLOCK])
    assert used(ask(client, ASKED["clock"]))[0] == "clock"
    there = in_host_memory(url)
    bank.forget(CLOCK)
    deadline = time.monotonic() + 30
    while in_host_memory(url) == there and time.monotonic() < deadline:
        time.sleep(0.2)
    assert in_host_memory(url) == there - 1
