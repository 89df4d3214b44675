"""What `bank add` makes of adapters that no PEFT wrote, and what it refuses."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.bank.samples import DOWN, PREFIX, SHAPES, UP, tensors, write_adapter
from tests.bank.unreadable import UNREADABLE
from vllm_mega.bank import patterns
from vllm_mega.bank.adapter import check_adapter
from vllm_mega.bank.patterns import first_matches
from vllm_mega.bank.peft_import import find_adapter, import_adapter
from vllm_mega.bank.peft_names import sort_names
from vllm_mega.bank.tensors import encode_tensors, read_header, read_values
from vllm_mega.errors import AdapterError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MODULE = "model.layers.0.mlp.up_proj"


class Base:
    """A base model with an embedding, to which nothing is equal but ones."""

    shapes = SHAPES
    names = frozenset({"model.embed_tokens.weight", "lm_head.weight", *(f"{name}.weight" for name in SHAPES)})

    def equals(self, name: str, dtype: str, shape: tuple[int, ...], file: Path, start: int) -> bool:
        values = np.fromfile(file, np.float32, int(np.prod(shape)), offset=start)
        return dtype == "F32" and bool((values == 1).all())


def made(folder: Path, **options: Any) -> Path:
    target = folder.parent / f"{folder.name}-plain"
    target.mkdir()
    import_adapter(folder, target, Base(), **options)
    check_adapter(target, SHAPES)
    return target


def refused(folder: Path, *parts: str, **options: Any) -> None:
    with pytest.raises(AdapterError) as caught:
        made(folder, **options)
    assert all(part in str(caught.value) for part in (str(folder), *parts)), caught.value
    assert caught.value.change


# --- names ---------------------------------------------------------------------------------------


def names(*modules: str) -> list[str]:
    return [f"{module}.lora_{half}.weight" for module in modules for half in "AB"]


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model." + MODULE,
        MODULE,
        "module.base_model.model." + MODULE,
        "module.module.base_model.model." + MODULE,
        "_orig_mod.module.base_model.model." + MODULE,
        "base_model.model._orig_mod." + MODULE,
        "base_model.model.module." + MODULE,
        "base_model.model.base_model.model." + MODULE,
        "base_model.model.model.language_model.layers.0.mlp.up_proj",
        "base_model.model.language_model.model.layers.0.mlp.up_proj",
        "base_model.model.layers.0.mlp.up_proj",
        "layers.0.mlp.up_proj",
        "base_model.model.model.layers.0._checkpoint_wrapped_module.mlp._orig_mod.up_proj",
    ],
)
def test_names_that_mean_one_module(name: str) -> None:
    found = sort_names(Path("file"), names(name), SHAPES)
    assert found.pairs == {MODULE: (f"{name}.lora_A.weight", f"{name}.lora_B.weight")}
    assert not found.beside


@pytest.mark.parametrize(
    "base", ["language_model.model.layers.0.mlp.up_proj", "model.language_model.layers.0.mlp.up_proj"]
)
def test_the_other_way_round(base: str) -> None:
    """The base has several kinds of input, the adapter was trained on its language model."""
    shapes = {base: (6, 4), "vision_tower.layers.0.mlp.up_proj": (6, 4)}
    found = sort_names(Path("file"), names("base_model.model." + MODULE), shapes)
    assert list(found.pairs) == [base]
    assert found.own == {base: MODULE}


@pytest.mark.parametrize(
    ("modules", "found"),
    [
        (["layers.0.up"], "which may be model.layers.0.up or language_model.layers.0.up"),
        (["base_model.model.language_model.model.layers.0.up"], "which may be"),
        (["model.layers.0.up", "module.model.layers.0.up"], "model.layers.0.up.lora_A.weight and module"),
        (["vision.layers.0.up"], "tensors for vision.layers.0.up"),
    ],
)
def test_names_that_may_mean_several(modules: list[str], found: str) -> None:
    shapes = {"model.layers.0.up": (1, 1), "language_model.layers.0.up": (1, 1)}
    with pytest.raises(AdapterError) as caught:
        sort_names(Path("file"), names(*modules), shapes)
    assert found in caught.value.found
    assert caught.value.change


def test_two_prefixes_for_one_module() -> None:
    with pytest.raises(AdapterError, match=r"tensors for .* and .*Keep those"):
        sort_names(Path("file"), names("model.layers.0.mlp.up_proj", "layers.0.mlp.up_proj"), SHAPES)


def test_half_a_pair_names_the_other() -> None:
    name = f"{PREFIX}{UP}.lora_B.default.weight"
    with pytest.raises(AdapterError, match=r"lora_A\.default\.weight, found only .*lora_B\.default\.weight"):
        sort_names(Path("file"), [name], SHAPES)


# --- folders -------------------------------------------------------------------------------------


def test_which_folder(tmp_path: Path) -> None:
    first = write_adapter(tmp_path / "run" / "lamp")
    assert find_adapter(tmp_path / "run") == first == find_adapter(first)
    second = write_adapter(tmp_path / "run" / "tide")
    with pytest.raises(AdapterError, match=r"found 2: lamp, tide\. Say which: --adapter .*run/lamp"):
        find_adapter(tmp_path / "run")
    write_adapter(tmp_path / "run")  # PEFT's own choice: "default" is not in a folder of its own
    assert find_adapter(tmp_path / "run") == tmp_path / "run"
    assert find_adapter(second) == second
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "empty", tmp_path / "nowhere"):
        refused(find_adapter(nothing), CONFIG, "Give the folder that PEFT's save_pretrained wrote")


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_is_no_file_of_a_sensible_size(tmp_path: Path, kind: str, name: str) -> None:
    (write_adapter(tmp_path / "a") / name).unlink()
    UNREADABLE[kind](tmp_path / "a" / name)
    started = time.monotonic()
    refused(tmp_path / "a", name, "a file that can be read")
    assert time.monotonic() - started < 20


# --- ranks and scales ----------------------------------------------------------------------------


def test_ranks_and_scales_go_into_a_and_b(tmp_path: Path) -> None:
    values = tensors()
    down_a, down_b = (f"{PREFIX}{DOWN}.lora_{half}.weight" for half in "AB")
    random = np.random.default_rng(4)
    values[down_a] = random.normal(size=(3, 6)).astype(np.float16)
    values[down_b] = random.normal(size=(4, 3)).astype(np.float16)
    folder = write_adapter(tmp_path / "a", values=values, rank_pattern={"down_proj": 3}, use_rslora=True)
    plain = load_file(made(folder) / WEIGHTS)
    assert (made_config(tmp_path)["r"], made_config(tmp_path)["lora_alpha"]) == (3, 3.0)
    np.testing.assert_array_equal(plain[down_a], values[down_a])
    wanted = (values[down_b].astype(np.float64) * (4 / 3**0.5)).astype(np.float32)
    np.testing.assert_array_equal(plain[down_b], wanted)
    assert plain[f"{PREFIX}{UP}.lora_A.weight"].shape == (3, 4)
    assert not plain[f"{PREFIX}{UP}.lora_A.weight"][2].any()
    assert not plain[f"{PREFIX}{UP}.lora_B.weight"][:, 2].any()


def made_config(folder: Path) -> dict[str, Any]:
    import msgspec

    found: dict[str, Any] = msgspec.json.decode((folder / "a-plain" / CONFIG).read_bytes())
    return found


def test_one_scale_leaves_the_tensors_as_they_are(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", use_rslora=True)
    plain = load_file(made(folder) / WEIGHTS)
    assert made_config(tmp_path)["lora_alpha"] == pytest.approx(4 * 2**0.5)
    for name, values in load_file(folder / WEIGHTS).items():
        np.testing.assert_array_equal(plain[name], values)


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"rank_pattern": {"up_proj": 100_000}}, "a rank r of at most 512, found 100000"),
        ({"rank_pattern": {"up_proj": 0}}, "a rank r of at least 1"),
        ({"rank_pattern": {"up_proj": "x"}}, "a PEFT LoRA configuration"),
        ({"rank_pattern": {"up_proj": 3}}, "axis 0 (rank r) is 2, not 3"),
        ({"alpha_pattern": {"(": 3}}, "no regular expression"),
        ({"alpha_pattern": {"(" * 10_000: 3}}, "patterns in alpha_pattern"),
        ({"lora_alpha": 0, "alpha_pattern": {"up_proj": 0}}, "a lora_alpha that is not 0"),
        ({"r": 3}, "axis 0 (rank r) is 2, not 3"),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_patterns_that_cannot_be(tmp_path: Path, fields: dict[str, Any], part: str) -> None:
    refused(write_adapter(tmp_path / "a", **fields), part)


def test_scales_beyond_all_numbers(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", alpha_pattern={"up_proj": 1e300})
    refused(folder, f"{folder}/{CONFIG}", "finite values", "5e+299 for model.layers.0.mlp.up_proj")


@pytest.mark.parametrize(
    "pattern", [r"([a-z._0-9]+)*!", r"(?:(?:(?:a{1000}){1000}){1000}){1000}", r"((a?){30}){30}x", "(" * 5000]
)
def test_a_stranger_s_pattern_has_its_limits(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "SECONDS", 1)
    started = time.monotonic()
    try:
        first_matches([pattern], ["model.layers.0.self_attn.q_proj" * 3])
    except ValueError as error:
        assert "regular expression" in str(error)  # noqa: PT017  (some end in time)
    assert time.monotonic() - started < 20


def test_the_first_that_matches_wins() -> None:
    some = ["layers.1.*", "^up", r".*\.(0|2)\.q", "q"]
    assert first_matches(some, ["a.layers.1.q", "up", "h.2.q", "x.q", "xq"]) == [0, 1, 2, 3, None]
    assert first_matches([], ["a"]) == [None]


# --- beside A and B ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.model.embed_tokens.weight",
        "base_model.model.model.embed_tokens.base_layer.weight",
        "base_model.model.model.embed_tokens.modules_to_save.default.weight",
        "base_model.model.model.embed_tokens.original_module.weight",
        "base_model.model.lm_head.weight",
        "module.base_model.model.language_model.embed_tokens.weight",
        "model.layers.0.mlp.up_proj.base_layer.weight",
    ],
)
def test_what_the_base_has_is_left_out(tmp_path: Path, name: str) -> None:
    values = {**tensors(), name: np.ones((8, 4), np.float32)}
    plain = load_file(made(write_adapter(tmp_path / "a", values=values)) / WEIGHTS)
    assert plain.keys() == tensors().keys()
    refused(
        write_adapter(tmp_path / "b", values={**values, name: np.zeros((8, 4), np.float32)}),
        name,
        "modules_to_save",
    )


@pytest.mark.parametrize("name", ["score.weight", "base_model.model.model.norm.weight", f"{PREFIX}{UP}.bias"])
def test_what_the_base_has_not_is_refused(tmp_path: Path, name: str) -> None:
    values = {**tensors(), name: np.ones((8, 4), np.float32)}
    refused(write_adapter(tmp_path / "a", values=values), name, "train without modules_to_save")


@pytest.mark.parametrize("dtype", ["<f4", "<f2", "<u2"])
def test_what_is_written_can_be_read(tmp_path: Path, dtype: str) -> None:
    values = {"b": np.arange(6).reshape(2, 3).astype(dtype), "a": np.arange(5, dtype="<f4")}
    (tmp_path / "file").write_bytes(encode_tensors(values))
    infos, start = read_header(tmp_path / "file")
    assert start % 8 == 0
    read = dict(read_values(tmp_path / "file", infos, start))
    for name, wanted in values.items():
        assert infos[name].shape == wanted.shape
        np.testing.assert_array_equal(read[name], wanted.flatten())


def test_a_target_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    folder = write_adapter(tmp_path / "a")
    write: Callable[..., int] = os.write
    monkeypatch.setattr(os, "write", full)
    try:
        with pytest.raises(AdapterError, match="No space left"):
            made(folder)
    finally:
        monkeypatch.setattr(os, "write", write)
