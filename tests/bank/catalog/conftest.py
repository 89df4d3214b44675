"""Every test that asks for `catalog` runs on SQLite and on a real PostgreSQL server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bank.catalog.following import Index
from tests.bank.catalog.postgres import Server, server
from tests.bank.samples import BASE, EMBEDDER
from vllm_mega.bank.catalog.catalog import Catalog, create_catalog
from vllm_mega.bank.catalog.follower import Follower
from vllm_mega.bank.catalog.records import BankSettings


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """Of a new database; None: the bank's folder has its own."""
    if request.param == "sqlite":
        yield None
        return
    with request.getfixturevalue("postgres").database() as made:
        yield made


@pytest.fixture
def catalog(url: str | None, tmp_path: Path) -> Iterator[Catalog]:
    """An empty one."""
    made = create_catalog(tmp_path / "bank", BankSettings(BASE, EMBEDDER), url)
    yield made
    made.close()


@pytest.fixture
def index() -> Index:
    return Index()


@pytest.fixture
def follower(catalog: Catalog, index: Index) -> Iterator[Follower]:
    made = Follower(catalog, index)
    yield made
    made.close()
