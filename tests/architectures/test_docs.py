"""The table of docs/models.md says what the tests of this folder expect."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.architectures import BEGIN, END, render, with_table
from tests.architectures.families import FAMILIES, REFUSALS


def test_the_table_is_that_of_the_tests(repo: Path) -> None:
    text = (repo / "docs" / "models.md").read_text(encoding="utf-8")
    assert with_table(text) == text, "write it again: python -m loadtests.architectures --docs docs/models.md"


def test_every_case_has_a_row_with_its_status() -> None:
    rows = [line.split(" | ") for line in render().splitlines()[2:]]
    expected = [(f"| {case.name}", case.expected) for case in FAMILIES]
    expected += [(f"| {case.name}", "refused") for case in REFUSALS]
    assert [(row[0], row[3]) for row in rows] == expected


def test_a_text_without_the_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="begin"):
        with_table(f"nothing {END}")
    assert with_table(f"{BEGIN}old{END}").count("Gemma 2") == 1
