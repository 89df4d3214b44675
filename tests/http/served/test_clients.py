"""Other programs' clients do what the table in the documents says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.cases import CASES, Case, outcome, with_table
from tests.http.asking import MEGA
from tests.http.live_bank import ASKED
from vllm_mega.models import resolve_model

pytestmark = pytest.mark.engine
HERE = {f"{case.client}-{case.use}": case for case in CASES if case.client in ("openai", "curl")}


@pytest.mark.parametrize("case", HERE.values(), ids=HERE)
def test_clients_do_what_their_table_says(url: str, case: Case) -> None:
    found = outcome(case, url, MEGA, ASKED["bakery"], resolve_model())
    assert found == case.expected


def test_the_table_of_clients_is_that_of_the_cases(repo: Path) -> None:
    text = (repo / "docs" / "clients.md").read_text(encoding="utf-8")
    assert with_table(text) == text, "write it again: see loadtests/clients.py"
