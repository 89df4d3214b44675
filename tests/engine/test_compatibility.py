"""What else vLLM can do, with mixtures in the same batch."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.engine.adapters import Adapters
from tests.engine.conftest import ENGINE_ARGS, Engine
from tests.engine.other_engine import ask_other_engine
from vllm_mega.mixture import Mixture

pytestmark = pytest.mark.engine
REPEATS = "one two three four one two three four one two three four one two three"


def _generate(engine: Engine, params: Any, *mixtures: Mixture) -> list[Any]:
    from vllm_mega.engine.adapters import to_lora_request

    loras = [to_lora_request(mixture) for mixture in mixtures]
    prompts = [REPEATS] * len(loras)
    return list(engine.llm.generate(prompts, params, lora_request=loras, use_tqdm=False))


def test_several_answers_to_one_request(engine: Engine, adapters: Adapters):
    from vllm import SamplingParams

    mixtures = adapters.mixture((0, 0.5), (1, 1.0)), adapters.mixture((2, 1.0)), Mixture()
    params = SamplingParams(n=3, temperature=0.8, seed=5, max_tokens=6, ignore_eos=True)
    for together, mixture in zip(_generate(engine, params, *mixtures), mixtures, strict=True):
        alone = _generate(engine, params, mixture)[0]
        assert [o.token_ids for o in together.outputs] == [o.token_ids for o in alone.outputs]
        assert len({tuple(o.token_ids) for o in alone.outputs}) > 1


def test_seeded_sampling_is_the_same_in_any_batch(engine: Engine, adapters: Adapters):
    from vllm import SamplingParams

    params = SamplingParams(temperature=0.8, seed=3, max_tokens=8, ignore_eos=True)
    one, two = adapters.mixture((0, 0.5), (1, 1.0)), adapters.mixture((3, 0.5))
    together = [tuple(o.outputs[0].token_ids) for o in _generate(engine, params, one, two, Mixture())]
    alone = [tuple(_generate(engine, params, m)[0].outputs[0].token_ids) for m in (one, two, Mixture())]
    assert together == alone


def test_logprobs_and_prompt_logprobs_are_those_of_the_mixture(engine: Engine, adapters: Adapters):
    from vllm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=4, logprobs=5, prompt_logprobs=2, ignore_eos=True)
    mixtures = adapters.mixture((0, 0.5), (1, 1.0)), Mixture()
    together = _generate(engine, params, *mixtures)
    alone = [_generate(engine, params, mixture)[0] for mixture in mixtures]
    for a, b in zip(together, alone, strict=True):
        assert _flat(a.outputs[0].logprobs) == pytest.approx(_flat(b.outputs[0].logprobs), abs=2e-4)
        assert _flat(a.prompt_logprobs[1:]) == pytest.approx(_flat(b.prompt_logprobs[1:]), abs=2e-4)
    assert _flat(together[0].prompt_logprobs[1:]) != pytest.approx(
        _flat(together[1].prompt_logprobs[1:]), abs=1e-2
    )


def _flat(positions: Any) -> dict[tuple[int, int], float]:
    return {(n, token): p.logprob for n, found in enumerate(positions) for token, p in found.items()}


@pytest.mark.filterwarnings("ignore:max_rollback_tokens is deprecated")  # vLLM to xgrammar
def test_structured_output(engine: Engine, adapters: Adapters):
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    choice = StructuredOutputsParams(choice=["copper", "silver"])
    pattern = StructuredOutputsParams(regex=r"[0-9]{3}-[a-f]{2}")
    params = [
        SamplingParams(temperature=0, max_tokens=24, structured_outputs=wanted)
        for wanted in (choice, pattern)
    ]
    mixture = adapters.mixture((0, 0.5), (1, 0.5))
    first, second = (answer.outputs[0].text for answer in _generate(engine, params, mixture, mixture))
    assert first in {"copper", "silver"}
    assert re.fullmatch("[0-9]{3}-[a-f]{2}", second)


def _quantized(model: Path, folder: Path) -> Path:
    """The model with linear layers in int8 and a scale per output feature."""
    weights = load_file(model / "model.safetensors")
    for name, weight in list(weights.items()):
        if name.endswith("_proj.weight"):
            scale = weight.float().abs().amax(dim=1, keepdim=True) / 127
            weights[name] = (weight.float() / scale).round().to(torch.int8)
            weights[f"{name}_scale"] = scale
    scheme = {"num_bits": 8, "type": "int", "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": {**scheme, "strategy": "channel", "dynamic": False},
        # Symmetric ones would go to another kernel where the processor has AMX.
        "input_activations": {**scheme, "symmetric": False, "strategy": "token", "dynamic": True},
    }
    quantization = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((model / "config.json").read_text()) | {"quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.slow
def test_a_model_that_vllm_cannot_put_lora_on_is_refused(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    args = ENGINE_ARGS | {"enforce_eager": True, "additional_config": {"mega": {"bank": "none"}}}
    int8 = _quantized(model, tmp_path / "int8")
    with pytest.raises(subprocess.CalledProcessError):
        ask_other_engine(tmp_path, int8, args, [(REPEATS, None)], plugins="vllm_mega", batched=True)
    assert "ConfigError: model.layers.0.self_attn.qkv_proj has given its weights" in capfd.readouterr().err
