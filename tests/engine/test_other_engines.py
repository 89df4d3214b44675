"""Other kinds of engines, and the default model: logits of a plain model whose adapter acts by position."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.engine.adapters import Adapters
from tests.engine.by_position import ByPosition
from tests.engine.conftest import ENGINE_ARGS, Answer
from tests.engine.other_engine import ask_other_engine
from tests.engine.test_start_exactness import Asked, assert_start_matters, batch_of, check
from vllm_mega.bank.tensors import read_header
from vllm_mega.engine.adapters import to_lora_request
from vllm_mega.mixture import Mixture
from vllm_mega.models import linear_shapes, resolve_model

pytestmark = pytest.mark.engine
OURS = ENGINE_ARGS | {
    "enforce_eager": True,
    "additional_config": {"mega": {"bank": "unused"}},
    "kv_cache_memory_bytes": 40 * 2**20,
}


class Asking(NamedTuple):
    model: Path
    reference: ByPosition
    batch: list[Asked]


@pytest.fixture(scope="module")
def tiny(model: Path, adapters: Adapters, reference: ByPosition) -> Asking:
    return Asking(model, reference, batch_of(adapters, reference))


@pytest.fixture
def default(tmp_path: Path) -> Asking:
    """The default model, and adapters of all of its layers."""
    model = resolve_model()
    adapters = Adapters(tmp_path / "adapters", linear_shapes(model), layers=range(30), scale=0.1)
    reference = ByPosition(model)
    return Asking(model, reference, batch_of(adapters, reference))


def check_elsewhere(
    asking: Asking, folder: Path, max_tokens: int = 8, like_a_gpu: Sequence[str] = (), **changes: Any
) -> None:
    requests = [
        (r.prompt, to_lora_request(r.what) if isinstance(r.what, Mixture) else r.what) for r in asking.batch
    ]
    answers = ask_other_engine(
        folder, asking.model, OURS | changes, requests,
        plugins="vllm_mega", batched=True, starts=[r.start for r in asking.batch], max_tokens=max_tokens,
        like_a_gpu=like_a_gpu,
    )  # fmt: skip
    found = [Answer(*answer, 0) for answer in answers]
    assert_start_matters(found)
    check(asking.reference, asking.batch, found)


def test_compiled(tiny: Asking, tmp_path: Path):
    check_elsewhere(tiny, tmp_path, enforce_eager=False)


@pytest.mark.parametrize(
    "eager", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["eager", "compiled"]
)
@pytest.mark.parametrize("runner", [1, 2])
def test_like_a_gpu(tiny: Asking, tmp_path: Path, runner: int, eager: bool):
    stand_ins = ("slots", "runner") if runner == 2 else ("slots",)
    check_elsewhere(tiny, tmp_path, 2 if eager else 8, like_a_gpu=stand_ins, enforce_eager=eager)


def test_slots_on_the_layers_that_adapters_change_alone(
    tiny: Asking, adapters: Adapters, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    names = {name for folder in adapters.folders for name in _modules(folder)}
    one = next(name for name in sorted(names) if name.endswith("up_proj"))
    check_elsewhere(tiny, tmp_path, 2, lora_target_modules=sorted(names))
    with pytest.raises(subprocess.CalledProcessError):
        check_elsewhere(tiny, tmp_path, 2, lora_target_modules=[one])
    assert "not served: an engine serves --lora-target-modules" in capfd.readouterr().err


def _modules(folder: Path) -> list[str]:
    tensors, _ = read_header(folder / "adapter_model.safetensors")
    return [".".join(name.split(".")[2:-2]) for name in tensors]


@pytest.mark.slow
def test_the_default_model(default: Asking, tmp_path: Path):
    check_elsewhere(default, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("caching", [False, True])
def test_speculative_decoding(tiny: Asking, tmp_path: Path, caching: bool):
    ngrams = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1, "prompt_lookup_max": 3}
    check_elsewhere(tiny, tmp_path, 24, enable_prefix_caching=caching, speculative_config=ngrams)


@pytest.mark.slow
def test_tensor_parallel(tiny: Asking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    check_elsewhere(tiny, tmp_path, tensor_parallel_size=2)
