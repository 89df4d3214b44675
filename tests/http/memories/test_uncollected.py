"""While a document is divided, nothing is collected; afterwards it is again."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import httpx
import pytest

from tests.http.memories.server import MemoryServer
from vllm_mega.http.memories import documents
from vllm_mega.http.memories.uncollected import Uncollected


@pytest.fixture(autouse=True)
def _enabled() -> Iterator[None]:
    gc.enable()
    yield
    gc.enable()


def test_threads_within_each_other() -> None:
    here = Uncollected()
    with here:
        with here:
            assert not gc.isenabled()
        assert not gc.isenabled(), "another is within"
    assert gc.isenabled()


def test_an_error_ends_it() -> None:
    with pytest.raises(ValueError, match="salt"), Uncollected():
        raise ValueError("salt")
    assert gc.isenabled()


def test_who_had_it_off_keeps_it_off() -> None:
    gc.disable()
    with Uncollected():
        pass
    assert not gc.isenabled()


async def test_a_document_is_divided_without_it(
    server: MemoryServer, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, plans = list[bool](), documents.make_plans

    def watched(*args: object, **more: object) -> object:
        seen.append(gc.isenabled())
        return plans(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(documents, "make_plans", watched)
    answer = await client.post("/v1/mega/documents", json={"source": "salt.md", "text": "Salt is white."})
    assert (answer.status_code, seen, gc.isenabled()) == (202, [False], True)
