"""Memories are forgotten and updated while requests wait and run: nobody else notices, nor do they."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine.adapters import Adapters
from tests.engine.conftest import SLOTS, Engine
from vllm_mega.bank.adapter import adapter_digest
from vllm_mega.engine.adapters import to_lora_request
from vllm_mega.engine.holding import Holder
from vllm_mega.mixture import Mixture

pytestmark = pytest.mark.engine
PROMPT = "The keeper of the harbour lamp"
TOKENS = 12


class Asked:
    """A request that is stepped by hand."""

    def __init__(self, engine: Engine, mixture: Mixture) -> None:
        from vllm import SamplingParams

        params = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
        self.core = engine.llm.llm_engine
        self.core.add_request("forgotten", PROMPT, params, lora_request=to_lora_request(mixture))
        self.last: Any = None

    def step(self) -> None:
        self.last = next(iter(self.core.step()), self.last)

    def tokens(self) -> tuple[int, ...]:
        while self.core.has_unfinished_requests():
            self.step()
        return tuple(self.last.outputs[0].token_ids)


@pytest.fixture
def memory(adapters: Adapters, tmp_path: Path) -> tuple[Mixture, Callable[[], None]]:
    """A memory of its own, and how it is forgotten."""
    folder = tmp_path / "adapter"
    shutil.copytree(adapters.folders[1], folder)
    config = folder / "adapter_config.json"
    config.write_text(config.read_text() + " ")  # the engine has not met it
    return Mixture([(adapter_digest(folder), str(folder), 1.0)]), lambda: shutil.rmtree(folder)


@pytest.fixture
def wanted(engine: Engine, adapters: Adapters) -> tuple[int, ...]:
    return engine.ask([(PROMPT, adapters.mixture((1, 1.0)))], TOKENS)[0].tokens


def _evict_all(engine: Engine) -> None:
    engine.manager.remove_all_adapters()
    engine.manager._adapter_manager._routed = None


def test_a_memory_forgotten_before_its_first_step_answers(
    engine: Engine, memory: tuple[Mixture, Callable[[], None]], wanted: tuple[int, ...]
) -> None:
    mixture, forget = memory
    asked = Asked(engine, mixture)
    forget()
    assert asked.tokens() == wanted
    assert not engine.scheduler._needs
    # Nobody holds it any more: who asks now learns that it is gone, and the engine goes on.
    assert engine.ask([(PROMPT, mixture)])[0].tokens == ()


@pytest.mark.parametrize("most", [None, 0])
def test_a_memory_forgotten_while_it_runs_can_be_read_again(
    engine: Engine,
    memory: tuple[Mixture, Callable[[], None]],
    wanted: tuple[int, ...],
    most: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the worker evicts, and although the bound on what waits is reached."""
    monkeypatch.setattr(engine.scheduler, "_holder", Holder(most))
    mixture, forget = memory
    asked = Asked(engine, mixture)
    asked.step()
    forget()
    for _ in range(3):
        _evict_all(engine)
        asked.step()
    assert asked.tokens() == wanted


def test_a_memory_forgotten_between_others_that_take_its_slots(
    engine: Engine, adapters: Adapters, memory: tuple[Mixture, Callable[[], None]], wanted: tuple[int, ...]
) -> None:
    from vllm import SamplingParams

    mixture, forget = memory
    asked = Asked(engine, mixture)
    forget()
    params = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    for n in (0, 2, 3, 4, 5, 6)[: SLOTS + 2]:
        lora = to_lora_request(adapters.mixture((n, 1.0)))
        asked.core.add_request(f"other {n}", PROMPT, params, lora_request=lora)
    found = {}
    while asked.core.has_unfinished_requests():
        found |= {out.request_id: tuple(out.outputs[0].token_ids) for out in asked.core.step()}
    assert found.pop("forgotten") == wanted
    assert {len(tokens) for tokens in found.values()} == {TOKENS}
