"""Patches: applied once, loud when vLLM has changed, silent where vllm_mega is not configured."""

from __future__ import annotations

import sys
import types
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import vllm
from vllm import envs
from vllm.config import VllmConfig

from vllm_mega.contract.checking import require
from vllm_mega.contract.tested import TESTED
from vllm_mega.engine.configuration import SCHEDULER, WORKER_EXTENSION
from vllm_mega.engine.settings import settings_of
from vllm_mega.engine.upstream import applying, replacements
from vllm_mega.engine.upstream.patch import Patch
from vllm_mega.engine.upstream.patches import CUDA_PATCH, PATCHES, SERVER_PATCHES
from vllm_mega.engine.upstream.runner_patches import RUNNER_PATCHES
from vllm_mega.engine.upstream.whole import AT_START
from vllm_mega.errors import ConfigError, UpstreamError


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    class Thing:
        def answer(self, question):
            return 41

        @classmethod
        def shared(cls, question):
            return cls.__name__

    fake = types.ModuleType("fake_vllm")
    fake.Thing = Thing
    monkeypatch.setitem(sys.modules, "fake_vllm", fake)
    return fake


def patch(target: str, parameters: tuple[str, ...]) -> Patch:
    def make(original):
        return lambda self, question: (original(self, question), "patched")

    return Patch("fake_vllm", target, parameters, "a test", "never", make)


def test_a_patch_is_applied_once(module: types.ModuleType):
    one = patch("Thing.answer", ("self", "question"))
    one.apply()
    one.apply()
    assert module.Thing().answer("?") == (41, "patched")


def test_a_class_method_stays_one(module: types.ModuleType):
    patch("Thing.shared", ("cls", "question")).apply()
    assert module.Thing.shared("?") == ("Thing", "patched")


@pytest.mark.parametrize(
    ("target", "parameters", "words"),
    [
        ("Thing.answer", ("self", "riddle"), "expected.*riddle"),
        ("Thing.gone", ("self",), "is gone"),
        ("Nothing.answer", ("self",), "is gone"),
    ],
)
def test_a_changed_target_is_refused_and_left_alone(module: types.ModuleType, target, parameters, words):
    with pytest.raises(UpstreamError, match=words):
        patch(target, parameters).apply()
    assert module.Thing().answer("?") == 41


def test_every_patch_fits_this_vllm_and_says_why():
    applying.apply()
    applying.apply()
    applying.apply_to_server()
    applying.apply_to_server()
    for runner in (*RUNNER_PATCHES, *RUNNER_PATCHES):
        runner.apply()
    assert all(p.why and p.until for p in (*PATCHES, CUDA_PATCH, *RUNNER_PATCHES, *SERVER_PATCHES))


@pytest.mark.parametrize("part", AT_START)
def test_this_vllm_is_what_the_contract_says_with_patches_and_without(part: str):
    require(AT_START[part])
    applying.apply()
    applying.apply_to_server()
    require(AT_START[part])


def test_this_is_the_vllm_that_we_say_was_tested():
    assert vllm.__version__.startswith(TESTED["vllm"])


def test_on_cuda_the_same_is_asked_of_a_configuration():
    config = platform_config(additional_config={})
    config.additional_config = {"mega": {"bank": "b"}}
    replacements.cuda_config(lambda cls, vllm_config: None)(None, config)
    assert config.scheduler_config.scheduler_cls == SCHEDULER


def test_settings_are_read_from_the_engine_configuration():
    assert settings_of(SimpleNamespace(additional_config={})) is None
    assert settings_of(SimpleNamespace(additional_config={"mega": {"bank": "b"}})).bank == "b"
    with pytest.raises(ConfigError, match="unknown field `bnak`"):
        settings_of(SimpleNamespace(additional_config={"mega": {"bnak": "b"}}))


def parallel(
    extension: str = "", *, pipeline: int = 1, context: int = 1, batches: bool = False
) -> SimpleNamespace:
    return SimpleNamespace(
        worker_extension_cls=extension,
        pipeline_parallel_size=pipeline,
        prefill_context_parallel_size=context,
        use_ubatching=batches,
    )


def lora(dtype: Any = torch.bfloat16, *, specialize: bool = False) -> SimpleNamespace:
    return SimpleNamespace(lora_dtype=dtype, specialize_active_lora=specialize)


def model(*, sleep: bool = False, experts: bool = False) -> SimpleNamespace:
    return SimpleNamespace(enable_sleep_mode=sleep, is_moe=experts, dtype=torch.bfloat16)


def platform_config(**changes):
    from vllm.config import CompilationMode

    config = SimpleNamespace(
        additional_config={"mega": {"bank": "b"}},
        compilation_config=SimpleNamespace(mode=CompilationMode.VLLM_COMPILE),
        scheduler_config=SimpleNamespace(scheduler_cls=None),
        lora_config=lora(),
        parallel_config=parallel(),
        model_config=model(),
        kv_transfer_config=None,
    )
    vars(config).update(changes)

    def stock(cls, vllm_config):
        vllm_config.compilation_config.mode = CompilationMode.NONE

    replacements.cpu_config(stock)(None, config)
    return config


def test_our_configuration_gets_our_scheduler_and_keeps_compilation():
    from vllm.config import CompilationMode

    config = platform_config()
    assert config.scheduler_config.scheduler_cls == SCHEDULER
    assert config.compilation_config.mode == CompilationMode.DYNAMO_TRACE_ONCE
    assert config.parallel_config.worker_extension_cls == WORKER_EXTENSION


def test_only_an_extension_that_is_not_ours_is_told(caplog: pytest.LogCaptureFixture):
    def config(extension: str) -> None:
        platform_config(parallel_config=parallel(extension))

    config(WORKER_EXTENSION)
    assert not caplog.records
    config("other.Extension")
    assert "other.Extension, so /mega/metrics has nothing to tell" in caplog.text


def test_a_stock_configuration_is_left_to_stock():
    from vllm.config import CompilationMode

    config = platform_config(additional_config={})
    assert config.scheduler_config.scheduler_cls is None
    assert config.compilation_config.mode == CompilationMode.NONE


def test_configurations_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="enable-lora"):
        platform_config(lora_config=None)
    with pytest.raises(ConfigError, match="pipeline"):
        platform_config(parallel_config=parallel(pipeline=2))
    with pytest.raises(ConfigError, match="context parallelism"):
        platform_config(parallel_config=parallel(context=2))
    with pytest.raises(ConfigError, match="scheduler_cls"):
        platform_config(scheduler_config=SimpleNamespace(scheduler_cls="other.Scheduler"))
    with pytest.raises(ConfigError, match="sleep"):
        platform_config(model_config=model(sleep=True))


def test_ways_to_compute_that_mixtures_do_not_know_are_refused(monkeypatch: pytest.MonkeyPatch):
    for dtype in ("auto", "bfloat16"):
        platform_config(lora_config=lora(dtype))
    for dtype in (torch.float16, "float16"):
        with pytest.raises(ConfigError, match="float16 and the model computes in"):
            platform_config(lora_config=lora(dtype))
    with pytest.raises(ConfigError, match="specialize_active_lora"):
        platform_config(lora_config=lora(specialize=True))
    with pytest.raises(ConfigError, match="enable_dbo"):
        platform_config(parallel_config=parallel(batches=True))
    for name in ("VLLM_BATCH_INVARIANT", "VLLM_LORA_ENABLE_DUAL_STREAM"):
        with monkeypatch.context() as patched:
            patched.setitem(vars(envs), name, True)  # it remembers the variables once an engine runs
            with pytest.raises(ConfigError, match=f"{name} is set"):
                platform_config()


def test_settings_of_the_gate_compile_nothing_again():
    applying.apply()
    config = VllmConfig()

    def hashed(additional: dict[str, Any]) -> str:
        config.additional_config = additional
        return config.compute_hash()

    def ours(top_k: int, **more: Any) -> dict[str, Any]:
        return {"mega": {"bank": "b", "gate": {"top_k": top_k}}, **more}

    assert hashed(ours(2)) == hashed(ours(3))
    assert len({hashed(ours(2)), hashed(ours(2, other=1)), hashed({}), hashed({"other": 1})}) == 4


@pytest.mark.parametrize("name", ["ExampleConnector", "LMCacheConnectorV1"])
def test_connectors_that_know_kv_by_its_tokens_alone_are_refused(name):
    alone = SimpleNamespace(kv_connector=name, kv_connector_extra_config={})
    nested = SimpleNamespace(
        kv_connector="MultiConnector",
        kv_connector_extra_config={
            "connectors": [{"kv_connector": "OffloadingConnector"}, {"kv_connector": name}]
        },
    )
    for transfer in (alone, nested):
        with pytest.raises(ConfigError, match=f"{name} finds KV by its tokens alone"):
            platform_config(kv_transfer_config=transfer)


def test_connectors_that_ask_for_block_hashes_are_welcome():
    transfer = SimpleNamespace(kv_connector="OffloadingConnector", kv_connector_extra_config=None)
    assert platform_config(kv_transfer_config=transfer).scheduler_config.scheduler_cls == SCHEDULER


def test_experts_are_refused_on_cpus_and_not_on_cuda():
    experts = model(experts=True)
    with pytest.raises(ConfigError, match=r"mixture of experts: vLLM 0\.32 cannot run LoRA .* on CPUs"):
        platform_config(model_config=experts)
    config = platform_config(additional_config={}, model_config=experts)  # stock
    config.additional_config = {"mega": {"bank": "b"}}
    replacements.cuda_config(lambda cls, vllm_config: None)(None, config)
    assert config.scheduler_config.scheduler_cls == SCHEDULER
