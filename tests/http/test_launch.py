"""How vLLM is started for a bank."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from tests.cpus import WITH_BFLOAT16, WITHOUT_BFLOAT16
from vllm_mega.bank.catalog.reading import Adapters
from vllm_mega.bank.catalog.records import BankSettings, Row, State
from vllm_mega.bank.layout import BaseModelInfo, EmbedderInfo
from vllm_mega.commands._memory_options import add_memory_options, memory_settings
from vllm_mega.config import MegaSettings
from vllm_mega.engine.settings import settings_of
from vllm_mega.engine.upstream.releases import server_options
from vllm_mega.errors import BankError, ConfigError
from vllm_mega.http import launch
from vllm_mega.http.given import given_options
from vllm_mega.models.chat_template import read_template

TEMPLATE = "{% for m in messages %}--{{ m.role }}_x: {{ m.content }}\n{% endfor %}\n"
SETTINGS = MegaSettings(bank="/banks/b", mode="irag")
ADAPTER = {
    "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight": np.ones((2, 4), np.float32),
    "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight": np.ones((4, 2), np.float32),
}


def library(root: Path, *ranks: int, size: int = 1000, template: str = "") -> Any:
    """What is asked of one: memories with adapters of these ranks, and one that waits for its adapter."""
    from safetensors.numpy import save_file

    rows = [row(f"{number:064x}") for number in range(len(ranks))]
    for number, one in enumerate(rows):
        (root / one.id).mkdir()
        module = ("up_proj", "down_proj")[number % 2]
        save_file(
            {k.replace("up_proj", module): v for k, v in ADAPTER.items()},
            root / one.id / "adapter_model.safetensors",
        )
    rows.append(row(None))
    return SimpleNamespace(
        rows={one.name: one for one in rows},
        adapters=lambda: Adapters(len(ranks), size if ranks else 0, max(ranks, default=0)),
        settings=BankSettings(BaseModelInfo("base", "f", template), EmbedderInfo("e", "f", 4)),
        folder=lambda one: root / one.id,
    )


def row(adapter: str | None) -> Row:
    state: State = "ready" if adapter else "pending"
    return Row("n", str(adapter), 1, state, "", (), (), adapter)


@pytest.mark.parametrize(("rank", "allowed"), [(1, 1), (2, 8), (8, 8), (9, 16), (257, 320), (512, 512)])
def test_slot_rank(rank: int, allowed: int) -> None:
    assert launch.slot_rank(rank) == allowed


def test_too_large_a_rank() -> None:
    with pytest.raises(BankError, match="rank 513"):
        launch.slot_rank(513)


def test_options_follow_from_the_bank(tmp_path: Path) -> None:
    options = launch.engine_options(library(tmp_path, 2, 12), SETTINGS, tmp_path)
    assert options["enable_lora"] is True
    assert (options["max_loras"], options["max_lora_rank"]) == (64, 16)
    assert options["lora_target_modules"] == ["down_proj", "up_proj"]
    assert options["max_cpu_loras"] == 1024
    assert options["additional_config"] == {"mega": msgspec.to_builtins(SETTINGS)}


def test_on_a_gpu_only_layers_that_adapters_change_get_slots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "runs_on_cpu", lambda: False)
    bank = library(tmp_path, 2)
    changed = launch.adapter_modules(bank)
    one_more = next(iter(changed)).replace(".0.", ".1.")
    monkeypatch.setattr(launch, "linear_shapes", lambda _: dict.fromkeys([*changed, one_more], (1, 1)))
    found = launch.engine_options(bank, SETTINGS, tmp_path)["lora_target_modules"]
    alike = one_more.rpartition(".")[2]
    assert set(found) == {m if m.endswith(alike) else m.rpartition(".")[2] for m in changed}


def test_an_empty_bank_leaves_ranks_and_modules_to_vllm(tmp_path: Path) -> None:
    options = launch.engine_options(library(tmp_path), SETTINGS, tmp_path)
    assert not {"max_lora_rank", "lora_target_modules"} & options.keys()
    assert options["max_cpu_loras"] == 256


def test_large_adapters_fill_no_more_than_the_memory_for_them(tmp_path: Path) -> None:
    bank = library(tmp_path, 8, size=launch.HOST_BYTES // 40)
    options = launch.engine_options(bank, SETTINGS, tmp_path)
    assert (options["max_loras"], options["max_cpu_loras"]) == (40, 40)
    assert launch.engine_options(bank, SETTINGS, tmp_path, {"max_loras": "64"})["max_cpu_loras"] == 64


def test_the_user_wins(tmp_path: Path) -> None:
    given = {
        "max_loras": "4",
        "max_lora_rank": "64",
        "lora_target_modules": "up_proj",
        "additional_config": '{"a": 1}',
    }
    options = launch.engine_options(library(tmp_path, 2), SETTINGS, tmp_path, given)
    assert not {"max_loras", "max_lora_rank", "lora_target_modules"} & options.keys()
    assert options["additional_config"]["a"] == 1
    assert options["additional_config"]["mega"]["bank"] == "/banks/b"


def test_the_template_of_the_bank_is_served_unless_another_is_given(tmp_path: Path) -> None:
    assert "chat_template" not in launch.engine_options(library(tmp_path), SETTINGS, tmp_path)
    bank = library(tmp_path, 2, template=TEMPLATE)
    assert launch.engine_options(bank, SETTINGS, tmp_path)["chat_template"] == TEMPLATE
    given = given_options(["--chat-template", "mine.jinja"])
    assert "chat_template" not in launch.engine_options(bank, SETTINGS, tmp_path, given)


def test_a_template_reaches_vllm_as_it_is() -> None:
    from vllm.renderers.chat_utils import load_chat_template
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    for template in (TEMPLATE, read_template("plain")):
        words = launch.command_line({"chat_template": template, "additional_config": {}}, ["--port", "1"])
        args = server_options().make_arg_parser(FlexibleArgumentParser()).parse_args(["model", *words])
        server_options().validate_parsed_serve_args(args)
        assert load_chat_template(args.chat_template) == template


@pytest.mark.parametrize("extra", ['{"mega": {}}', "[1]", "nonsense", {"mega": {}}])
def test_additional_config_must_leave_room(tmp_path: Path, extra: object) -> None:
    with pytest.raises(ConfigError, match="additional_config"):
        launch.engine_options(library(tmp_path), SETTINGS, tmp_path, {"additional_config": extra})


def test_our_additional_config_has_the_last_word() -> None:
    options = {"additional_config": {"a": 1, "mega": {}}, "max_loras": 2}
    argv = launch.command_line(options, ["--additional-config", '{"a": 1}', "--port", "1"])
    assert argv[:2] == ["--max-loras", "2"]
    assert argv[-2:] == ["--additional-config", '{"a": 1, "mega": {}}']


def test_to_argv_and_back() -> None:
    options = {
        "enable_lora": True,
        "max_loras": 4,
        "lora_target_modules": ["a", "b"],
        "additional_config": {"x": "y z"},
    }
    argv = launch.to_argv(options)
    assert argv[:6] == ["--enable-lora", "--max-loras", "4", "--lora-target-modules", "a", "b"]
    assert json.loads(argv[7]) == {"x": "y z"}
    assert given_options(argv).keys() == options.keys()


def test_served_name(tmp_path: Path) -> None:
    assert launch.served_name(str(tmp_path / "..") + "/") == tmp_path.parent.name
    assert launch.served_name("org/model") == "org/model"


def environment(environ: dict[str, str], prefix: Path, *, cores: int = 2, **more: object) -> dict[str, str]:
    arguments = {"given": {}, "on_cpu": True, "cores": range(cores), "prefix": prefix, **more}
    return launch.environment(environ, **arguments)  # type: ignore[arg-type]


def test_environment_of_a_small_machine(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    openmp = tmp_path / "lib" / "libiomp5.so"
    openmp.touch()
    assert environment({"LD_PRELOAD": "/x.so", "VLLM_PLUGINS": "other"}, tmp_path) == {
        "VLLM_PLUGINS": "other,vllm_mega",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": "0,1",
        "LD_PRELOAD": f"/x.so:{openmp}",
    }


def test_environment_leaves_alone_what_is_set(tmp_path: Path) -> None:
    only_us = {"VLLM_PLUGINS": "vllm_mega"}
    assert environment({"VLLM_CPU_KVCACHE_SPACE": "9", "VLLM_CPU_OMP_THREADS_BIND": "3"}, tmp_path) == only_us
    assert environment({}, tmp_path, on_cpu=False) == only_us
    assert environment({}, tmp_path, cores=64, given={"kv_cache_memory_bytes": 1}) == only_us
    assert environment({"OMP_NUM_THREADS": "1"}, tmp_path)["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"


@pytest.mark.parametrize(
    ("given", "cores", "bound"),
    [
        ({"data_parallel_size": "2"}, 4, "0,2|1,3"),
        ({"tensor_parallel_size": 2, "data_parallel_size": 2}, 4, "0|1|2|3"),
        ({"data_parallel_size": "3"}, 2, "0|1|0"),
    ],
)
def test_workers_share_the_cores(tmp_path: Path, given, cores, bound) -> None:
    assert environment({}, tmp_path, cores=cores, given=given)["VLLM_CPU_OMP_THREADS_BIND"] == bound


@pytest.mark.parametrize("argv", [["-tp=2"], ["-tp", "2"], ["--data-parallel-size=2"], ["-dp", "2"]])
def test_the_number_of_workers_is_read_from_the_command_line(tmp_path: Path, argv: list[str]) -> None:
    given = given_options([*argv, "--port", "8001"])
    assert environment({}, tmp_path, cores=4, given=given)["VLLM_CPU_OMP_THREADS_BIND"] == "0,2|1,3"


@pytest.mark.parametrize(
    ("argv", "eager"),
    [
        ([], True),
        (["--port", "8001"], True),
        (["--no-enforce-eager"], None),
        (["--enforce_eager"], None),
        (["-O2"], None),
        (["-O", "2"], None),
        (["-O=2"], None),
        (["--optimization-level", "2"], None),
        (["-cc", '{"mode": 3}'], None),
        (["-cc.mode=3"], None),
        (["--compilation-config.mode=3"], None),
        (["--compilation_config.mode", "3"], None),
        (["--compilation", '{"mode": 3}'], None),
    ],
)
def test_on_cpus_the_model_is_compiled_only_if_the_user_says_so(tmp_path: Path, argv, eager):
    assert launch.runs_on_cpu()
    given = given_options(argv)
    assert (
        launch.engine_options(library(tmp_path, 2), SETTINGS, tmp_path, given).get("enforce_eager") is eager
    )


def write_config(folder: Path, **config: object) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_half_precision_is_served_on_cpus_in_a_type_that_they_compute_fast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, bank = write_config(tmp_path, torch_dtype="float16"), library(tmp_path, 2)
    for cpu, dtype in ((WITH_BFLOAT16, "bfloat16"), (WITHOUT_BFLOAT16, "float32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=cpu: found)
        assert launch.engine_options(bank, SETTINGS, model)["dtype"] == dtype
    assert "dtype" not in launch.engine_options(bank, SETTINGS, model, {"dtype": "float32"})
    monkeypatch.setattr(launch, "runs_on_cpu", lambda: False)
    monkeypatch.setattr(launch, "linear_shapes", lambda _: {})
    assert "dtype" not in launch.engine_options(bank, SETTINGS, model)


def test_experts_are_refused_on_cpus_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, bank = write_config(tmp_path, num_local_experts=8), library(tmp_path, 2)
    with pytest.raises(
        ConfigError, match=r"has 8 experts: vLLM 0\.32 cannot run LoRA beside experts on CPUs"
    ):
        launch.engine_options(bank, SETTINGS, model)
    monkeypatch.setattr(launch, "runs_on_cpu", lambda: False)
    monkeypatch.setattr(launch, "linear_shapes", lambda _: {})
    assert launch.engine_options(bank, SETTINGS, model)["enable_lora"]


URL = "postgresql+psycopg://me@host:5432/bank?sslmode=require"


def test_where_the_catalog_is_comes_from_the_command_line_and_travels_to_the_engine(tmp_path: Path) -> None:
    parser = ArgumentParser()
    add_memory_options(parser)
    settings = memory_settings(parser.parse_args(["--bank", str(tmp_path), "--catalog", URL]))
    assert settings == MegaSettings(str(tmp_path), catalog=URL)
    config = launch.engine_options(library(tmp_path), settings, tmp_path)["additional_config"]
    assert settings_of(SimpleNamespace(additional_config=config)) == settings


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://me:secret@host/bank",
        "postgresql+psycopg://:se:cr/et@host/bank",
        f"{URL}&password=secret",
        "postgresql+psycopg://host/bank?password=secret",
    ],
)
def test_a_catalog_with_a_password_is_refused_for_settings_stand_in_command_lines(url: str) -> None:
    with pytest.raises(ConfigError, match="PGPASSWORD") as error:
        MegaSettings("bank", catalog=url)
    assert "host" not in str(error.value)
