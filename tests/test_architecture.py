"""The newcomer's walk in docs/architecture.md: every file and function that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import vllm_mega

PACKAGE = Path(vllm_mega.__file__).parent
TEXT = (PACKAGE.parent / "docs" / "architecture.md").read_text()
HOP = re.compile(r"`([\w/]+\.py):([\w.]+)`")
HOUSE = re.findall(r"^\| (`.+?) \|", TEXT, re.MULTILINE)
"""First column of the table."""
HOPS = sorted(set(HOP.findall(TEXT)))


def defined(tree: ast.AST, name: str) -> bool:
    """Whether `name` ("f", "C" or "C.f") is a function or a class."""
    first, _, rest = name.partition(".")
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == first:
            return not rest or defined(node, rest)
    return False


def test_a_name_that_is_not_there_is_seen() -> None:
    tree = ast.parse("class A:\n    def f(self): pass\ndef g(): pass")
    assert all(defined(tree, name) for name in ("A", "A.f", "g"))
    assert not any(defined(tree, name) for name in ("f", "A.g", "B", "g.x"))


def test_the_walk_has_its_hops() -> None:
    assert len(HOPS) > 30


@pytest.mark.parametrize(("file", "name"), HOPS, ids=":".join)
def test_a_hop_exists(file: str, name: str) -> None:
    assert defined(ast.parse((PACKAGE / file).read_text()), name)


def test_the_rooms_of_the_house_are_those_of_the_package() -> None:
    rooms = {name for row in HOUSE for name in re.findall(r"`([\w.]+)`", row)}
    assert not {name for name in rooms if not (PACKAGE / name).exists()}
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages <= rooms, "a package is not in the table"
