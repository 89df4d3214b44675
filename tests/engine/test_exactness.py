"""A mixture is exactly the sum that its definition says, whatever shares the batch with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.engine.adapters import MIXED, Adapters, write_adapter
from tests.engine.conftest import ENGINE_ARGS, SLOTS, Answer, Engine
from tests.engine.other_engine import ask_other_engine
from tests.engine.tiny import LAYERS
from vllm_mega.bank.adapter import adapter_digest
from vllm_mega.bank.peft_import import import_adapter
from vllm_mega.errors import MixtureError
from vllm_mega.mixture import EMPTY, Mixture
from vllm_mega.models import BaseWeights

pytestmark = pytest.mark.engine

LONG = "The lighthouse keeper of Varn wrote every evening into a blue notebook. " * 9
PROMPTS = [
    "The harbour of Varn is",
    "Once upon a time there was a clockmaker who",
    LONG + "He wrote",
    "Hello",
]


def assert_same(found: list[Answer], expected: list[Answer], tolerance: float = 2e-4) -> None:
    for n, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert a.tokens == b.tokens, f"request {n}"
        assert a.logprobs == pytest.approx(b.logprobs, abs=tolerance), f"request {n}"


@pytest.fixture(scope="module")
def plain(adapters: Adapters):
    from vllm.lora.request import LoRARequest

    return LoRARequest("plain-5", 1, str(adapters.folders[5]))


@pytest.fixture(scope="module")
def batch(adapters: Adapters, plain):
    """Base, plain and mixtures of 1 to 4, some equal, one with a negative weight."""
    mix = adapters.mixture
    four = mix((0, 0.25), (1, 0.25), (2, 0.25), (3, 0.25))
    kinds = [
        None,
        plain,
        mix((0, 1.0)),
        mix((1, 0.5), (2, 0.5)),
        mix((6, 1.5), (4, -0.5), (1, 1.0)),
        four,
        four,
    ]
    return [
        (PROMPTS[n % len(PROMPTS)], kind) for n, kind in enumerate([*kinds, EMPTY, mix((2, 0.5), (1, 0.5))])
    ]


@pytest.fixture(scope="module")
def alone(engine: Engine, batch) -> list[Answer]:
    """Each request of the batch, with nothing else in the engine."""
    return engine.alone(batch)


def test_a_mixed_batch_equals_each_request_alone(engine: Engine, batch, alone: list[Answer]):
    assert_same(engine.ask(batch), alone)
    assert len({answer.tokens for answer in alone}) > 4, (
        "the adapters must matter for this test to mean anything"
    )


def test_the_order_of_arrival_changes_nothing(engine: Engine, batch, alone: list[Answer]):
    engine.forget_cache()
    backwards = engine.ask(batch[::-1])[::-1]
    assert_same(backwards, alone)


def test_mixtures_equal_the_same_combination_in_peft(engine: Engine, adapters: Adapters, model: Path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    peft = PeftModel.from_pretrained(base, str(adapters.folders[0]), adapter_name="a0").eval()
    for n in (1, 3, 4, 6):
        peft.load_adapter(str(adapters.folders[n]), adapter_name=f"a{n}")
    for name, parts in {
        "one": [(0, 1.0)],
        "two": [(0, 0.75), (3, 0.25)],
        "four": [(0, 0.5), (1, 0.25), (3, 0.125), (4, 0.125)],
        "minus": [(6, 1.5), (1, -0.5)],
    }.items():
        found = engine.ask([(PROMPTS[1], adapters.mixture(*parts))])[0]
        names, weights = [f"a{n}" for n, _ in parts], [w for _, w in parts]
        peft.add_weighted_adapter(names, weights, name, combination_type="cat")
        peft.set_adapter(name)
        prompt = tokenizer(PROMPTS[1], return_tensors="pt").input_ids
        tokens = torch.cat([prompt, torch.tensor([found.tokens])], dim=1)
        with torch.no_grad():
            logprobs = peft(tokens).logits.log_softmax(-1)[0, prompt.shape[1] - 1 : -1]
        picked = logprobs.gather(1, torch.tensor(found.tokens)[:, None])[:, 0]
        assert logprobs.argmax(-1).tolist() == list(found.tokens), name
        assert list(found.logprobs) == pytest.approx(picked.tolist(), abs=2e-3), name


def test_weight_one_on_one_adapter_equals_stock_vllm(
    engine: Engine, adapters: Adapters, model: Path, tmp_path: Path
):
    from vllm.lora.request import LoRARequest

    adapter = LoRARequest("adapter", 1, str(adapters.folders[2]))
    args = ENGINE_ARGS | {"max_loras": 1, "max_cpu_loras": 1, "enforce_eager": True}
    # One at a time: stock vLLM 0.32 is wrong in mixed batches, which is not what this compares.
    stock = ask_other_engine(
        tmp_path, model, args, [(p, adapter) for p in PROMPTS], plugins="", batched=False
    )
    found = engine.ask([(prompt, adapters.mixture((2, 1.0))) for prompt in PROMPTS])
    assert_same(found, [Answer(*answer, 0) for answer in stock], tolerance=1e-3)


def test_ranks_and_scales_of_its_own_go_into_an_added_adapter(engine: Engine, model: Path, tmp_path: Path):
    """The same adapter, once plain, once as PEFT writes it with patterns and a saved state's names."""
    base = BaseWeights(model)
    same: dict[str, Any] = {"seed": 11, "leaves": MIXED, "layers": LAYERS, "scale": 0.3}
    plain = write_adapter(tmp_path / "plain", base.shapes, **same)
    twisted = write_adapter(tmp_path / "twisted", base.shapes, **same)
    tensors = {}
    for name, values in load_file(twisted / "adapter_model.safetensors").items():
        if ".q_proj." in name:  # rank 8, of which half is zero
            more = torch.zeros_like(values)
            values = torch.cat([values, more], dim=0 if "lora_A" in name else 1)  # noqa: PLW2901
        if ".up_proj.lora_B" in name:
            values = values / 4  # noqa: PLW2901
        tensors[name.replace(".weight", ".default.weight")] = values
    save_file(tensors, twisted / "adapter_model.safetensors")
    fields = json.loads((twisted / "adapter_config.json").read_text())
    fields |= {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {r".*\.q_proj": 16, "up_proj": 32}}
    (twisted / "adapter_config.json").write_text(json.dumps(fields))
    (tmp_path / "added").mkdir()
    import_adapter(twisted, tmp_path / "added", base)
    folders = plain, tmp_path / "added"
    mixtures = [Mixture([(adapter_digest(folder), str(folder), 1.0)]) for folder in folders]
    first, second = (engine.alone([(prompt, mixture) for prompt in PROMPTS]) for mixture in mixtures)
    assert_same(second, first)


def test_the_empty_mixture_is_the_base_model_bit_for_bit(engine: Engine):
    requests = [(prompt, EMPTY) for prompt in PROMPTS]
    base = [(prompt, None) for prompt in PROMPTS]
    assert [a[:2] for a in engine.alone(requests)] == [a[:2] for a in engine.alone(base)]


def test_more_adapters_than_slots_all_finish_with_the_same_results(engine: Engine, adapters: Adapters):
    wide = [
        adapters.mixture((n % 7, 0.5), ((n + 1) % 7, 0.25), ((n + 2 + n // 7) % 7, 0.25)) for n in range(14)
    ]
    assert len({c.adapter for m in wide for c in m.components}) > SLOTS
    requests = [(PROMPTS[n % 4], mixture) for n, mixture in enumerate(wide)] + [(PROMPTS[0], None)]
    assert_same(engine.ask(requests), engine.alone(requests))


def test_a_mixture_wider_than_the_slots_is_refused_and_the_engine_goes_on(engine: Engine, adapters: Adapters):
    with pytest.raises(MixtureError, match=r"5 adapters.*4 slots.*max_loras"):
        engine.ask([("Hello", adapters.mixture(*((n, 0.2) for n in range(SLOTS + 1))))])
    assert not engine.scheduler.has_unfinished_requests()
    assert len(engine.ask([("Hello", adapters.mixture((0, 1.0)))])[0].tokens) == 8


def test_preemption_changes_nothing(engine: Engine, adapters: Adapters):
    mix = adapters.mixture
    kinds = [None, mix((0, 1.0)), mix((1, 0.5), (2, 0.5)), mix((3, 1.0)), mix((0, 0.5), (3, 0.5)), None]
    requests = [(f"{LONG} Page {n}:", kind) for n, kind in enumerate(kinds)]
    preempted = []
    original = engine.scheduler._preempt_request
    engine.scheduler._preempt_request = lambda r, *a, **k: (
        preempted.append(r.request_id),
        original(r, *a, **k),
    )
    try:
        together = engine.ask(requests, max_tokens=48)
    finally:
        engine.scheduler._preempt_request = original
    assert preempted, "the KV cache must be too small for all at once"
    assert_same(together, engine.alone(requests, max_tokens=48), tolerance=1e-3)


def test_many_weight_vectors_over_the_same_memories_load_nothing(
    engine: Engine, adapters: Adapters, monkeypatch
):
    engine.ask([("Hello", adapters.mixture((0, 0.5), (1, 0.5)))])
    loads = []
    monkeypatch.setattr(engine.manager, "_read", lambda *a: loads.append(a))
    before = engine.manager.residency()
    weights = [(m / 64, n / 64) for m in range(1, 33) for n in range(1, 33)][:1000]
    answers = engine.ask([("Hello", adapters.mixture((0, m), (1, n))) for m, n in weights], 1)
    assert len(answers) == 1000
    assert loads == []
    after = engine.manager.residency()
    assert (after.loads, after.host_adapters) == (before.loads, before.host_adapters)


def test_mixtures_do_not_become_metric_labels(engine: Engine, adapters: Adapters):
    from vllm.v1.metrics.stats import LoRARequestStates

    states = LoRARequestStates(log_stats=True)
    for n in range(1, 9):
        states.request_running(f"r{n}", adapters.mixture((0, n / 64)).name)
    states.request_running("p", "plain")
    assert set(states.requests) == {"mega", "plain"}
