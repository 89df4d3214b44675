"""Names of modules stand in `models/architectures.py`, and nowhere else."""

from __future__ import annotations

import ast
from pathlib import Path

import vllm_mega
from vllm_mega.models import architectures
from vllm_mega.models.architectures import Architecture

PACKAGE = Path(vllm_mega.__file__).parent
HOME = PACKAGE / "models" / "architectures.py"


def names() -> set[str]:
    """Every name of a module that the table knows."""
    known = {
        *architectures.EMBEDDINGS, *architectures.NOT_LINEAR, *architectures.GATED_MLP,
        architectures.HEAD, architectures.NORM, architectures.ROTARY,
    }  # fmt: skip
    for entry in (architectures.architecture({}), *architectures._TABLE.values()):
        assert isinstance(entry, Architecture)
        known |= {entry.layers, *entry.mlp, *entry.attention}
    return known - {"embed", "dense"}  # words that mean other things, too


def constants(text: str) -> set[str]:
    return {
        node.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_names_are_seen() -> None:
    assert {"q_proj", "lm_head", "wte", "act_fn"} <= names()
    assert "q_proj" in constants("x = ('q_proj',)")


def test_names_of_modules_stand_in_one_file() -> None:
    elsewhere = {
        str(file.relative_to(PACKAGE)): sorted(found)
        for file in PACKAGE.rglob("*.py")
        if file != HOME and (found := constants(file.read_text()) & names())
    }
    assert elsewhere == {
        "bank/lora_tensors.py": ["lm_head"],  # the bank knows no models, only heads by name
        "contract/of_transformers.py": ["apply_rotary_pos_emb"],  # says that it is relied on
    }
