"""A setting is described once: `--help` and the tables of the documents say what its type says."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec
import pytest

from vllm_mega.commands import _training, serve
from vllm_mega.config import GateSettings, MegaSettings, described
from vllm_mega.requests.schemas import MegaRequest
from vllm_mega.training.recipe.settings import TrainSettings

NOT_OPTIONS = {"gate", "chat_template"}
"""A group of settings, and one that is made of an option."""
SETTINGS = [
    (kind, name)
    for kind in (GateSettings, MegaSettings, TrainSettings)
    for name in kind.__struct_fields__
    if name not in NOT_OPTIONS
]


def rows(document: str, repo: Path) -> list[list[str]]:
    lines = (repo / "docs" / document).read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]


@pytest.mark.parametrize(("kind", "name"), SETTINGS, ids=str)
def test_a_setting_is_described(kind: type[msgspec.Struct], name: str) -> None:
    assert described(kind)[name]


@pytest.mark.parametrize(("kind", "name"), SETTINGS, ids=str)
def test_the_documents_describe_it_so(kind: type[msgspec.Struct], name: str, repo: Path) -> None:
    if kind is TrainSettings:
        first, at = f"`--{name.replace('_', '-')}`", 1
        table = rows("memories.md", repo)
    else:
        first, at = f"`gate.{name}`" if kind is GateSettings else f"`{name}`", 2
        table = [row for row in rows("serving.md", repo) if len(row) == 4]
    assert [row[at] for row in table if row[0] == first] == [described(kind)[name]]


@pytest.mark.parametrize("name", GateSettings.__struct_fields__)
def test_the_field_of_a_request_is_described_as_the_setting(name: str, repo: Path) -> None:
    assert name in MegaRequest.__struct_fields__
    fields = [row for row in rows("serving.md", repo) if len(row) == 3 and row[0] == f"`{name}`"]
    assert [row[1] for row in fields] == [described(GateSettings)[name]]


def test_options_are_typed_and_described_as_settings_are() -> None:
    parser = argparse.ArgumentParser()
    serve.configure(parser)
    actions = {action.dest: action for action in parser._actions}
    for kind in (GateSettings, MegaSettings):
        for name in set(kind.__struct_fields__) - NOT_OPTIONS - {"bank"}:
            assert described(kind)[name] in (actions[name].help or "")
    given = parser.parse_args(["--bank", "b", "--top-k", "3", "--beta", "5", "--mode", "irag"])
    assert (given.top_k, given.beta, given.mode, given.threshold) == (3, 5.0, "irag", None)


def test_options_of_training() -> None:
    parser = argparse.ArgumentParser()
    _training.add_training_options(parser)
    given = parser.parse_args(["--rank", "8", "--seconds", "1.5", "--dtype", "float32"])
    assert (given.rank, given.seconds, given.dtype, given.modules) == (8, 1.5, "float32", None)
    words = " ".join(parser.format_help().split())
    assert "what the layers compute (default: 0.01)" in words
    assert "alpha / rank (default: the rank)" in words
