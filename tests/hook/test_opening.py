"""A bank whose catalog is in PostgreSQL, from the settings to mixtures; no engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bank.catalog.postgres import server
from tests.bank.samples import BASE, write_adapter
from tests.banks import Item, forget, make_bank
from tests.gate.banks import FERRY, KILN
from vllm_mega.bank.adapter import adapter_digest
from vllm_mega.config import GateSettings, MegaSettings
from vllm_mega.engine.pinned import pinned
from vllm_mega.errors import BankMismatchError, BankNotFoundError, ConfigError
from vllm_mega.gate.embedder import FakeEmbedder
from vllm_mega.gate.gate import Query
from vllm_mega.hook import opening

EMBEDDER = FakeEmbedder()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MegaSettings]:
    folder = tmp_path_factory.mktemp("postgres")
    items = [
        Item(memory, write_adapter(folder / memory.id, seed), EMBEDDER.embed([memory.text])[0])
        for seed, memory in enumerate((KILN, FERRY))
    ]
    with server() as running, running.database() as url:
        make_bank(folder / "bank", items, embedder=EMBEDDER.info, url=url)
        yield MegaSettings(str(folder / "bank"), catalog=url, pinned=("ferry",))


def test_gate_and_engine_find_the_catalog_where_the_settings_say(settings: MegaSettings) -> None:
    (ferry,) = pinned(settings)
    assert ferry.adapter == adapter_digest(Path(settings.bank).parent / "ferry") == Path(ferry.path).name
    gate = opening.gate_over(settings, EMBEDDER)
    with gate.library:
        assert [hit.id for hit in gate.decide([Query(KILN.text)])[0].hits] == ["kiln"]
        forget(settings.bank, ("default", "kiln"), url=settings.catalog)
        assert "kiln" not in [hit.id for hit in gate.decide([Query(KILN.text)])[0].hits]
    with pytest.raises(BankNotFoundError, match=r"no catalog\.sqlite"):
        opening.gate_over(MegaSettings(settings.bank), EMBEDDER)


def test_what_does_not_fit_is_refused_before_anything_starts(
    settings: MegaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "resolve_model", Path)
    monkeypatch.setattr(opening, "fingerprint", lambda path: {"base": BASE.fingerprint}.get(path.name, "?"))
    monkeypatch.setattr(opening, "bank_embedder", lambda *_, **__: EMBEDDER)
    assert opening.gate_embedder(settings, "base", 4) is EMBEDDER
    with pytest.raises(BankMismatchError, match="invented-base"):
        opening.gate_embedder(settings, "another", 4)
    wide = MegaSettings(settings.bank, catalog=settings.catalog, gate=GateSettings(top_k=5))
    with pytest.raises(ConfigError, match="top_k is 5, but the engine has 4 slots"):
        opening.gate_embedder(wide, "base", 4)
