"""Training into a bank whose catalog is in PostgreSQL."""

from __future__ import annotations

from pathlib import Path

from tests.bank.catalog.postgres import server
from tests.training.sessions import QUICK
from tests.training.tiny import BELL, KETTLE, LAMP
from vllm_mega.bank.catalog.catalog import open_catalog
from vllm_mega.bank.catalog.check import check
from vllm_mega.models import linear_shapes
from vllm_mega.training.run.session import train, train_waiting


def test_a_catalog_elsewhere_is_trained_as_one_in_the_folder(tmp_path: Path, tiny: Path) -> None:
    with server() as running, running.database() as url:
        bank = tmp_path / "bank"
        first = train(bank, (KETTLE, LAMP), str(tiny), f"base:{tiny}", QUICK, catalog=url)
        assert [one.id for one in first.trained] == ["kettle", "lamp"]
        second = train(bank, (KETTLE, BELL), str(tiny), f"base:{tiny}", QUICK, catalog=url)
        assert ([one.id for one in second.trained], second.skipped) == (["bell"], 1)
        assert not train_waiting(bank, str(tiny), QUICK, catalog=url).trained
        assert not (bank / "catalog.sqlite").exists()
        with open_catalog(bank, url) as catalog:
            assert check(catalog, linear_shapes(tiny)) == []
