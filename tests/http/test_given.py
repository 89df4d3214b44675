"""What users say of vLLM, in every spelling that vLLM knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_mega.errors import ConfigError
from vllm_mega.http.given import given_options

FILE = """
max-model-len: 2048
port: 8001
enforce-eager: false
enable-prefix-caching: true
lora-target-modules: [a, b]
served_model_name: ferry
compilation-config: {mode: 0}
"""


@pytest.mark.parametrize(
    ("argv", "given"),
    [
        ([], {}),
        (["-tp=2"], {"tensor_parallel_size": 2}),
        (["-tp", "2", "-dp=3"], {"tensor_parallel_size": 2, "data_parallel_size": 3}),
        (["--tensor_parallel_size=2"], {"tensor_parallel_size": 2}),
        (["--tensor-parallel", "2"], {"tensor_parallel_size": 2}),
        (["-O2"], {"optimization_level": "2"}),
        (["-O", "2"], {"optimization_level": "2"}),
        (["-O=2"], {"optimization_level": "2"}),
        (["--max-loras", "4", "--max-loras=5"], {"max_loras": 5}),
        (["--enforce-eager"], {"enforce_eager": True}),
        (["--no-enforce-eager"], {"enforce_eager": False}),
        (["--host", "0.0.0.0"], {"host": "0.0.0.0"}),  # noqa: S104
        (["--served-model-name", "a", "b"], {"served_model_name": ["a", "b"]}),
        (["--additional-config", '{"a": 1}'], {"additional_config": {"a": 1}}),
        (["--kv-cache-memory-bytes", "1G"], {"kv_cache_memory_bytes": 2**30}),
    ],
)
def test_every_spelling_is_heard(argv: list[str], given: dict[str, object]) -> None:
    assert given_options(argv) == given


@pytest.mark.parametrize("argv", [["-cc", '{"mode": 3}'], ["-cc.mode=3"], ["--compilation-config.mode", "3"]])
def test_objects_may_be_given_by_their_fields(argv: list[str]) -> None:
    (config,) = given_options(argv).values()
    assert config.mode == 3


def test_the_file_is_read_and_the_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(FILE)
    given = given_options(["--port=9000", "--config", str(file)])
    assert given.pop("compilation_config").mode == 0
    assert given == {
        "max_model_len": 2048,
        "port": 9000,
        "enforce_eager": False,
        "enable_prefix_caching": True,
        "lora_target_modules": ["a", "b"],
        "served_model_name": ["ferry"],
    }


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["model"], "unexpected argument 'model': the model is given as --model"),
        (["--max-lora", "4"], r"ambiguous option: --max-lora could match --max-loras, --max-lora-rank"),
        (["--max-lorries", "4"], "vllm serve: unrecognized arguments: --max-lorries"),
        (["--max-loras", "four"], "argument --max-loras: invalid"),
        (["--config", "/nowhere.yaml"], "No such file"),
        (["--config", "c.json"], "must be of a yaml/yml type"),
        (["--config=c.yaml"], "as two words"),
        (["--grpc"], "neither memory nor keys"),
        (["--additional-config.a", "1"], "as one JSON object"),
        (["--additional_config.a=1"], "as one JSON object"),
        (["--additional-config", "{}", "--additional-config.a", "1"], "as one JSON object"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(argv: list[str], why: str) -> None:
    with pytest.raises(ConfigError, match=why) as refusal:
        given_options(argv)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "why"),
    [("- a\n", "has no attribute"), ("a: [", "cannot be read"), ("additional-config.a: 1\n", "one JSON")],
)
def test_a_file_that_cannot_be_is_refused(tmp_path: Path, content: str, why: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=why):
        given_options(["--config", str(file)])
