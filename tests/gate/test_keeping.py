"""The gate lets go what has expired by the clock alone, and never finds what is retired."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.banks import WHO
from tests.clock import forward, in_seconds
from tests.gate.banks import FERRY, KILN, add, open_gate
from vllm_mega.bank.catalog.catalog import open_catalog
from vllm_mega.bank.catalog.changes import retire
from vllm_mega.bank.catalog.records import MemoryName
from vllm_mega.config import GateSettings
from vllm_mega.errors import MemoryNotFoundError
from vllm_mega.gate.embedder import FakeEmbedder
from vllm_mega.gate.gate import Gate, Query

QUERY = Query(KILN.text, settings=GateSettings(top_k=3, threshold=0.45))


def hits(gate: Gate) -> list[str]:
    (decision,) = gate.decide([QUERY])
    return [hit.id for hit in decision.hits]


def test_what_has_expired_opens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expiring = msgspec.structs.replace(KILN, expires_at=in_seconds(60))
    add(tmp_path / "bank", FakeEmbedder(), [expiring, FERRY])
    gate = open_gate(tmp_path / "bank", FakeEmbedder())
    (before,) = gate.decide([QUERY])
    assert [hit.id for hit in before.hits] == ["kiln"]
    assert gate.explicit("default", [("kiln", 1.0)]).hits
    row = before.hits[0].row
    forward(monkeypatch)(61)
    (after,) = gate.decide([QUERY])
    assert (after.hits, after.mixture.components, after.event) == ((), (), before.event)
    assert gate.taking_part("default") == 1
    assert [hit.id for hit in gate.explain(QUERY)[1]] == ["ferry"]
    with pytest.raises(MemoryNotFoundError):
        gate.explicit("default", [("kiln", 1.0)])
    with pytest.raises(MemoryNotFoundError):
        gate.text(row)
    gate.library.close()


def test_what_is_retired_opens_nothing_until_it_comes_back(tmp_path: Path) -> None:
    add(tmp_path / "bank", FakeEmbedder(), [KILN, FERRY])
    gate = open_gate(tmp_path / "bank", FakeEmbedder())
    with open_catalog(tmp_path / "bank") as catalog:
        assert hits(gate) == ["kiln"]
        retire(catalog, MemoryName("default", "kiln"), WHO)
        assert hits(gate) == []
        with pytest.raises(MemoryNotFoundError, match="a retired one does not"):
            gate.explicit("default", [("kiln", 1.0)])
        retire(catalog, MemoryName("default", "kiln"), WHO, retired=False)
        assert hits(gate) == ["kiln"]
    gate.library.close()
