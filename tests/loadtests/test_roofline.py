"""The time of a step on paper: against sums by hand, and against what the trainer and the models say."""

from __future__ import annotations

import json

import pytest

from loadtests.large import LLAMA, QWEN
from loadtests.plain_table import markdown, plain
from loadtests.roofline import Case, adapter_bytes, main, rows
from loadtests.roofline_cost import (
    CACHE,
    OF_BANDWIDTH,
    OF_FLOPS,
    Launch,
    base,
    ours,
    stock,
    total,
)
from loadtests.roofline_data import GPUS, LOADS, MODELS, Gpu, Linear, Load, Model
from vllm_mega.kernels import triton as kernels
from vllm_mega.models import linear_shapes, model_config, resolve_model
from vllm_mega.models.architectures import upper_layers

GPU = Gpu("paper", bandwidth=1e9, flops=1e12, memory=1e9, source="")
TINY = Model(hidden=64, inner=128, layers=2, heads=4, kv_heads=2, vocabulary=1000)
QKV = Linear("qkv", 64, (64, 32, 32))


@pytest.mark.parametrize(("name", "same"), [("llama-3.1-8b", LLAMA), ("qwen2.5-7b", QWEN)])
def test_models_have_the_shapes_that_the_trainer_knows(name, same):
    model = MODELS[name]
    assert sum(o * i for o, i in same.full.values()) == model.layers * sum(
        one.weights for one in model.linears()
    )
    assert model.adapted("default")[0] == upper_layers(same.config)
    assert model.vocabulary == same.config["vocab_size"]


def test_the_default_model_has_its_own_shapes():
    model, path = MODELS["smollm2-135m"], resolve_model()
    weights = sum(o * i for name, (o, i) in linear_shapes(path).items() if "layers" in name)
    assert weights == model.layers * sum(one.weights for one in model.linears())
    assert model.adapted("default") == (upper_layers(model_config(path)), ("gate_up", "down"))


def test_an_adapter_of_rank_16_on_all_of_llama_by_hand():
    # A: 16 x (3 x 4096 + 4096 + 2 x 4096 + 14336); B: 16 x (6144 + 4096 + 28672 + 4096), 32 layers, 2 bytes.
    case = Case(MODELS["llama-3.1-8b"], GPUS["h100"], 8, 16, 4, "all")
    assert adapter_bytes(case) == 2 * 32 * 16 * (38912 + 43008)
    # As docs/large-models.md has it for `train`: 4.9 MB.
    default = case._replace(rank=4, targets="default")
    assert adapter_bytes(default) == 2 * 11 * 4 * (2 * 4096 + 28672 + 14336 + 4096)
    assert adapter_bytes(default) / 1e6 == pytest.approx(4.9, abs=0.05)


def test_tensor_parallelism_shares_outputs_of_the_first_and_inputs_of_the_second():
    qkv, o, gate_up, down = MODELS["llama-3.1-70b"].linears(4)
    assert (qkv.inputs, qkv.outs) == (8192, (2048, 256, 256))
    assert (o.inputs, o.outs) == (2048, (8192,))
    assert (gate_up.inputs, gate_up.outs) == (8192, (7168, 7168))
    assert (down.inputs, down.outs) == (7168, (8192,))
    with pytest.raises(ValueError, match="3 GPUs cannot share 2 heads of keys"):
        TINY.linears(3)


def test_a_step_uses_as_many_adapters_as_it_can():
    assert Load("", 1, 1).adapters(8, 4) == 4
    assert Load("", 16, 1).adapters(8, 4) == 8
    assert Load("", 16, 1).block(32, 4, 64) == 32
    assert Load("", 256, 1).block(1000, 4, 64) == 256
    assert Load("", 4, 2048).block(32, 4, 64) == 4  # a block lies in one prompt
    assert Load("", 4, 32).block(32, 4, 64) == 8


def test_a_launch_takes_what_limits_it():
    assert Launch(moved=1e6, needed=1e6).floor(GPU) == 1e-3  # memory
    assert Launch(moved=1e6, needed=2e9).floor(GPU) == 2e-3  # products
    assert Launch(moved=1e6).estimate(GPU, 0) == pytest.approx(1e-3 / OF_BANDWIDTH)
    assert Launch(moved=0, again=1e6).estimate(GPU, 0) == pytest.approx(1e-3 / CACHE)
    assert Launch(moved=0, done=1e9).estimate(GPU, 5e-6) == pytest.approx(5e-6 + 1e-3 / OF_FLOPS)


@pytest.fixture
def drawn(monkeypatch):
    """Tiles for which the sums by hand were made; which ones the kernels have is a matter of measuring."""
    for few, name in ((True, "SHRINK_FEW"), (True, "EXPAND_FEW"), (False, "SHRINK"), (False, "EXPAND")):
        features = 64 if name == "SHRINK" else 128
        monkeypatch.setattr(kernels, name, kernels.Tile(16 if few else 64, 64, features, 4, 3))


@pytest.mark.usefixtures("drawn")
def test_ours_by_hand():
    """Two requests, K=2 of 8 adapters of rank 4: four adapters, whose ranks fill four chunks of 16."""
    shrink, expand = ours(QKV, Load("", 2, 1), adapters=8, rank=4, width=2)
    assert shrink.moved == 2 * (4 * 4 * 64 * 3 + 2 * 64)
    assert expand.moved == 2 * (4 * 4 * 128 + 2 * 2 * 128)
    assert (shrink.needed, expand.needed) == (2 * 2 * 2 * 4 * 64 * 3, 2 * 2 * 2 * 4 * 128)
    assert (shrink.done, expand.done) == (2 * 16 * 64 * 64 * 3, 4 * 16 * 64 * 128)
    hidden = 2 * 64 * 4  # tokens, ranks, two halves
    assert shrink.again == 2 * 64 * 2 * 2 + 3 * hidden  # 3 x 64 ranks are three programs, which read x
    assert expand.again == 3 * hidden  # a program for each slice


@pytest.mark.usefixtures("drawn")
def test_what_is_split_is_written_and_read_once_more():
    one = Linear("down", 512, (64,))
    shrink, _ = ours(one, Load("", 2, 1), adapters=8, rank=4, width=2)
    assert kernels.splits(2, 512, kernels.SHRINK_FEW) == 4
    assert shrink.again == 2 * 4 * 16 * 64 * 4 + 2 * 64 * 4


@pytest.mark.usefixtures("drawn")
def test_ours_of_prompts_reads_adapters_again_for_each_block():
    """Two prompts of 128 tokens, K=1: each adapter is read by two blocks of 64."""
    shrink, expand = ours(QKV, Load("", 2, 128), adapters=8, rank=16, width=1)
    assert shrink.moved == 2 * (2 * 16 * 64 * 3 + 256 * 64)
    assert shrink.again == 2 * 64 * 2 * 16 * 3 + 4 * 256 * 16 * 3
    assert expand.again == 2 * 2 * 16 * 128 + 3 * 4 * 256 * 16


def test_vllms_own_by_hand():
    """Four requests, two adapters: x read again for two of three slices; a rank of 16 filled up to 32."""
    clear, shrink, expand = stock(QKV, Load("", 4, 1), adapters=2, rank=16)
    assert (clear.moved, clear.again) == (0, 4 * 3 * 4 * 16)
    assert shrink.moved == 2 * (2 * 16 * 64 * 3 + 4 * 64)
    assert shrink.again == 2 * 2 * 4 * 64 + 64 * clear.again
    assert shrink.done == 2 * 2 * 32 * 16 * 64 * 3
    assert expand.moved == 2 * (2 * 16 * 128 + 2 * 4 * 128)
    assert expand.again == 4 * 4 * 16 * 2
    assert expand.done == 2 * 2 * 64 * 32 * 128


def test_the_base_model_by_hand():
    """One request behind nine tokens: weights, head, and ten tokens of the cache."""
    step = base(TINY, Load("", 1, 1), context=9)
    assert len(step) == 2 * 9 + 1
    layer = 64 * 128 + 64 * 64 + 64 * 256 + 128 * 64
    weights = 2 * (2 * layer + 64 * 1000)
    products = [launch for launch in step if launch.needed]
    attention = [launch for launch in products if launch.done == launch.needed]
    assert len(attention) == 2
    assert attention[0].moved == 2 * (2 * 10 * 2 * 16 + 2 * 64)
    assert attention[0].needed == 4 * 10 * 64
    in_and_out = 2 * (2 * (64 + 128 + 64 + 64 + 64 + 256 + 128 + 64) + 64 + 1000)
    assert sum(one.moved for one in products if one not in attention) == weights + in_and_out


def test_a_total_adds_up():
    cost = total([Launch(1e6), Launch(0, 0, 2e9, 4e9)], GPU, 1e-3)
    assert (cost.launches, cost.moved, cost.needed, cost.done) == (2, 1e6, 2e9, 4e9)
    assert cost.floor == pytest.approx(3e-3)
    assert cost.estimate == pytest.approx(2e-3 + 1e-3 / OF_BANDWIDTH + 4e-3 / OF_FLOPS)
    assert total([], GPU) == (0, 0, 0, 0, 0, 0, 0)


def test_an_8b_model_on_an_h100_is_of_the_known_order():
    """A step of the base model reads 15 GB; adapters as training makes them add 44 launches."""
    found = rows(Case(MODELS["llama-3.1-8b"], GPUS["h100"], 8, 4, 4, "default"))
    assert len(found) == 4 * len(LOADS)
    one = {row.step: row for row in found if row.load == "decode 1"}
    assert one["base"].cost.floor == pytest.approx(15.0e9 / 3350e9, rel=0.02)
    assert one["ours, K=4"].cost.launches == 2 * 2 * 11
    assert one["vLLM's own, K=1"].cost.launches == 3 * 2 * 11
    assert one["ours, K=4"].of_base == pytest.approx(1.02, abs=0.01)


def test_the_command_prints_a_table_or_json(capsys):
    assert main(["--model", "llama-3.1-70b", "--tensor-parallel", "4", "--gpu", "a100"]) == 0
    said = capsys.readouterr().out
    assert "4 x A100 (2,039 GB/s, 312 TFLOP/s: NVIDIA A100 data sheet" in said
    assert "weights 35.3 GB a GPU; mixtures of 4 of 8" in said
    assert main(["--gpu", "l4", "--model", "llama-3.1-70b", "--width", "9", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["step"] for row in found} == {"base", "ours, K=8", "ours, K=1", "vLLM's own, K=1"}
    assert found[0]["cost"]["launches"] == 80 * 9 + 1


def test_the_command_says_what_does_not_fit(capsys):
    assert main(["--gpu", "l4", "--model", "llama-3.1-70b"]) == 0
    assert "they do not fit 24 GB" in capsys.readouterr().out
    assert main(["--tensor-parallel", "3"]) == 2
    assert "--tensor-parallel must divide both" in capsys.readouterr().err


def test_tables():
    assert (
        plain(("what", "n"), [["a", "1,000"], ["bcdefg", "-"]]) == "what    n\na       1,000\nbcdefg      -"
    )
    assert markdown(("a", "b"), [["c", "1"]]) == "| a | b |\n| --- | --- |\n| c | 1 |"
