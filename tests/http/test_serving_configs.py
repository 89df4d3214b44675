"""The files of serving_configs/: read by the parser of `vllm-mega serve`, for a bank, as a server would."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.bank.samples import EMBEDDER
from tests.banks import make_bank
from tests.models.checkpoints import write_checkpoint
from vllm_mega.access.keyfile import change_keys
from vllm_mega.access.keys import new_key
from vllm_mega.bank.layout import BaseModelInfo
from vllm_mega.cli import parse
from vllm_mega.commands import serve
from vllm_mega.engine.upstream.releases import server_options
from vllm_mega.errors import ConfigError
from vllm_mega.http import launch
from vllm_mega.models import fingerprint

FOLDER = Path(__file__).resolve().parents[2] / "serving_configs"
FILES = sorted(FOLDER.glob("*.yaml"))
ON_CPUS = {"cpu", "laptop"}
ENVIRONMENT = re.compile(r"(?:[A-Z_]+=\S+ |nice )*(?=vllm-mega )")


def commands(file: Path) -> list[list[str]]:
    """The command lines in the comments of `file`."""
    lines = [line.lstrip("# ").strip() for line in file.read_text().splitlines() if line.startswith("#   ")]
    lines = [ENVIRONMENT.sub("", line, count=1) for line in lines]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("vllm-mega ")]


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    """Empty, of a model of a few numbers."""
    model = write_checkpoint(tmp_path / "model")
    base = BaseModelInfo(str(model), fingerprint(model))
    make_bank(tmp_path / "bank", base=base, embedder=EMBEDDER)
    return tmp_path / "bank"


def planned(words: list[str]) -> Any:
    """What `vllm-mega serve` with these words would start."""
    parser = argparse.ArgumentParser()
    serve.configure(parser)
    args, args.rest = parser.parse_known_args(words)
    return serve.checked_launch(args), args.rest


def vllm_args(started: Any, rest: list[str]) -> argparse.Namespace:
    """The words of that server, as vLLM reads them."""
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = server_options().make_arg_parser(FlexibleArgumentParser())
    args = parser.parse_args([started.model, *launch.command_line(started.options, rest)])
    server_options().validate_parsed_serve_args(args)
    return args


def test_there_is_one_for_each_way_of_serving() -> None:
    expected = {"cpu", "laptop", "h100-8b", "tensor-parallel", "data-parallel", "ray", "two-hosts"}
    assert {file.stem for file in FILES} == expected


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_its_commands_parse_and_use_it(file: Path) -> None:
    found = commands(file)
    for command in found:
        parse(command[1:])
    served = [command for command in found if command[1] == "serve"]
    assert served, "it says how it is used"
    assert all(f"serving_configs/{file.name}" in command for command in served)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_says_what_nobody_has_run(file: Path) -> None:
    assert ("NOT RUN" in file.read_text()) == (file.stem not in ON_CPUS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_server_reads_every_option_of_it(file: Path, bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "runs_on_cpu", lambda: file.stem in ON_CPUS)
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    said = yaml.safe_load(file.read_text())
    started, rest = planned(["--bank", str(bank), "--config", str(file)])
    args = vars(vllm_args(started, rest))
    assert {name: args[name.replace("-", "_")] for name in said} == said
    assert args["enable_lora"] is True
    assert args["additional_config"]["mega"]["bank"] == str(bank)
    assert args["max_loras"] == said.get("max-loras", 64 if file.stem in ON_CPUS else launch.DEFAULT_SLOTS)


def test_the_command_line_wins(bank: Path) -> None:
    started, rest = planned(
        ["--bank", str(bank), "--config", str(FOLDER / "laptop.yaml"), "--max-num-seqs", "9"]
    )
    assert vllm_args(started, rest).max_num_seqs == 9


def test_an_option_that_vllm_does_not_know_is_refused(bank: Path, tmp_path: Path) -> None:
    """So the test above finds a misspelt one."""
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text((FOLDER / "laptop.yaml").read_text() + "max-num-seqz: 4\n")
    with pytest.raises(ConfigError, match="max-num-seqz"):
        planned(["--bank", str(bank), "--config", str(wrong)])


def test_keys_are_read_beside_a_file(bank: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    _, entry = new_key("ops", "admin", None)
    change_keys(keys, lambda book: book.with_key(entry))
    words = ["--bank", str(bank), "--config", str(FOLDER / "laptop.yaml"), "--keys", str(keys)]
    assert planned(words)[0].settings.keys == str(keys)
