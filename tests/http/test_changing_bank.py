"""Requests while their memories are forgotten and come back: gate, hook, checks, a real bank; no engine."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from tests.bank.samples import SHAPES
from tests.banks import forget
from tests.gate.banks import FERRY, KILN, add, open_gate
from vllm_mega.bank.adapter import adapter_digest
from vllm_mega.config import MegaSettings
from vllm_mega.engine.checks import AdapterChecks
from vllm_mega.engine.holding import readable
from vllm_mega.gate.embedder import FakeEmbedder
from vllm_mega.hook.hook import MemoryHook
from vllm_mega.requests.deciding import Ask
from vllm_mega.requests.schemas import make_plan

CHANGES = 40


@pytest.mark.parametrize("adapters", [1, 3])
async def test_what_is_decided_can_be_read_whatever_is_forgotten_meanwhile(
    tmp_path: Path, adapters: int
) -> None:
    """The memory comes back with an adapter of a few, so that the same folder goes and comes."""
    bank, embedder = tmp_path / "bank", FakeEmbedder()
    add(bank, embedder, [FERRY, KILN])
    settings = MegaSettings(str(bank))
    checks = AdapterChecks(SHAPES, max_rank=8)
    hook = MemoryHook(open_gate(bank, embedder), settings, 4, checks.begin)
    ask = Ask(make_plan(None, settings), KILN.text)
    used: Counter[str] = Counter()

    def churn() -> None:
        for n in range(CHANGES):
            forget(bank, ("default", "kiln"))
            add(bank, embedder, [KILN], seed=100 + n % adapters)

    async def one() -> None:
        decision, request = await hook.route(ask)
        assert bool(request) == bool(decision.mixture)
        for component in decision.mixture.components:
            with readable(component.path) as folder:
                assert adapter_digest(folder) == component.adapter
        used["+".join(hit.id for hit in decision.hits)] += 1

    writer = asyncio.create_task(asyncio.to_thread(churn))
    while not writer.done():
        await asyncio.gather(*(one() for _ in range(4)))
    await writer
    assert set(used) <= {"kiln", ""}
    assert used["kiln"] > 0
    await one()
    assert len(list(bank.glob("adapters/*/*"))) == 2
